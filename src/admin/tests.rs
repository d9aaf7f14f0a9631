use std::sync::atomic::AtomicUsize;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    model::{access_log::AccessLog, listener::Listener},
    snapshot::{self, Publisher, Snapshot, Status},
    telemetry::{
        log::{self, Level},
        testing::{inbound, outbound},
    },
};

/// An admin API under test, with everything behind it in reach.
pub(super) struct Bench {
    address: SocketAddr,
    publisher: Publisher,
    pub(super) state: AdminState,
    drains: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    /// The log lives as long as its filter.
    _filter: Box<dyn std::any::Any>,
}

pub(super) fn start(ready_only: bool) -> Bench {
    let (publisher, snapshots) = snapshot::channel();
    let (filter, log) = log::filter(Level::Info);
    let drains = Arc::new(AtomicUsize::new(0));
    let counted = drains.clone();
    let state = AdminState {
        snapshots,
        telemetry: Arc::new(Telemetry::start().unwrap()),
        log,
        watches: Arc::new(|| json!([{"watch": "leaf"}])),
        pending: Arc::new(Vec::new),
        protection: Arc::new(|listener, target| Some(json!({"of": [listener.to_string(), &*target.0]}))),
        draining: Arc::default(),
        drain: Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }),
    };
    let admin = Admin::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let (address, shutdown) = (admin.address(), CancellationToken::new());
    let (stop, shared) = (shutdown.clone().cancelled_owned(), state.clone());
    let task = if ready_only { tokio::spawn(admin.serve_ready(shared, stop)) } else { tokio::spawn(admin.serve(shared, stop)) };
    Bench { address, publisher, state, drains, shutdown, task, _filter: Box::new(filter) }
}

impl Bench {
    pub(super) fn publish(&self, listeners: impl IntoIterator<Item = Listener>) {
        let listeners = listeners.into_iter().map(|listener| (listener.key.clone(), Arc::new(listener))).collect();
        self.publisher.publish(Snapshot { generation: 1, listeners, ..Snapshot::default() });
        self.publisher.report(Status::default());
    }

    /// The whole answer, head and body.
    async fn answer(&self, method: &str, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn ask_with(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let answer = self.answer(method, path, headers).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(super) async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        self.ask_with(method, path, &format!("Host: {}\r\n", self.address)).await
    }

    pub(super) async fn json(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(super) async fn head(&self, path: &str) -> String {
        let answer = self.answer("GET", path, "Host: localhost\r\n").await;
        answer.split_once("\r\n\r\n").unwrap().0.to_owned()
    }

    async fn missing(&self) -> Vec<String> {
        let (status, body) = self.ask("GET", "/ready").await;
        assert_eq!(status, 503, "{body}");
        serde_json::from_value(serde_json::from_str::<Value>(&body).unwrap()["missing"].clone()).unwrap()
    }
}

fn public() -> Listener {
    inbound(AccessLog::default(), i64::MAX)
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let bench = start(false);
    assert_eq!(bench.ask("GET", "/live").await.0, 200);
    assert_eq!(bench.missing().await, ["first snapshot"]);

    bench.publish([public()]);
    assert_eq!(bench.ask("GET", "/ready").await, (200, "LIVE\n".to_owned()));

    bench.publish([inbound(AccessLog::default(), 1)]);
    assert_eq!(bench.missing().await, ["web-sidecar-proxy: valid leaf"]);

    bench.publish([public()]);
    bench.state.draining.store(true, Ordering::SeqCst);
    assert_eq!(bench.missing().await, ["not draining"]);
    assert_eq!(bench.ask("GET", "/live").await.0, 200);
}

#[tokio::test]
async fn the_ready_listener_serves_nothing_else() {
    let bench = start(true);
    bench.publish([public()]);
    assert_eq!(bench.ask_with("GET", "/ready", "Host: probe.example\r\n").await.0, 200);
    assert_eq!(bench.ask("GET", "/snapshot").await.0, 404);
    assert_eq!(bench.ask("POST", "/drain").await.0, 404);
}

#[tokio::test]
async fn metrics_come_under_both_names_with_the_leaf_in_force() {
    let bench = start(false);
    bench.publish([inbound(AccessLog::default(), 1_900_000_000)]);
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, body) = bench.ask("GET", path).await;
        assert_eq!(status, 200);
        assert!(body.contains("aralez_leaf_expiry_timestamp_seconds{sidecar=\"web-sidecar-proxy\"} 1900000000"), "{body}");
    }
}

#[tokio::test]
async fn the_snapshot_is_shown_without_secrets() {
    let bench = start(false);
    bench.publish([public(), outbound()]);
    let (_, body) = bench.ask("GET", "/snapshot").await;
    assert!(body.contains("<redacted>") && !body.contains("the-private-key"), "{body}");
    assert_eq!(bench.json("/snapshot").await, bench.json("/config_dump").await);
    assert_eq!(bench.json("/watches").await, json!([{"watch": "leaf"}]));
    let expected = json!([
        {"name": "web-sidecar-proxy/public", "direction": "inbound", "address": "127.0.0.1:0", "protocol": "http", "service": "web",
         "clusters": ["local_app"]},
        {"name": "web-sidecar-proxy/upstream:api", "direction": "outbound", "address": "127.0.0.1:0", "protocol": "http", "service": "web",
         "clusters": []},
    ]);
    assert_eq!(bench.json("/listeners").await, expected);
    let expected = json!([{
        "name": "local_app", "listener": "web-sidecar-proxy/public", "healthy": true,
        "endpoints": [{"id": "local_app", "address": {"tcp": "127.0.0.1:8080"}, "weight": 1, "health": "passing"}],
    }]);
    assert_eq!(bench.json("/clusters").await, expected, "an app has no protection");
}

#[tokio::test]
async fn the_log_level_is_shown_and_changed() {
    let bench = start(false);
    assert_eq!(bench.ask("GET", "/log").await, (200, "info\n".to_owned()));
    for (method, level) in [("POST", "debug"), ("PUT", "warn")] {
        assert_eq!(bench.ask(method, &format!("/log?level={level}")).await, (200, format!("{level}\n")));
        assert_eq!(bench.ask("GET", "/log").await.1, format!("{level}\n"));
    }
    for path in ["/log?level=loud", "/log"] {
        let (status, body) = bench.ask("POST", path).await;
        assert!(status == 400 && body.contains("trace, debug, info, warn, error"), "{status} {body}");
    }
    assert_eq!(bench.state.log.level(), Level::Warn);
}

#[tokio::test]
async fn draining_is_started_by_post_only() {
    let bench = start(false);
    assert_eq!(bench.ask("GET", "/drain").await.0, 405);
    assert_eq!(bench.drains.load(Ordering::SeqCst), 0);
    assert_eq!(bench.ask("POST", "/drain").await.0, 202);
    assert_eq!(bench.drains.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn web_pages_are_refused() {
    let bench = start(false);
    for headers in ["Host: rebind.example\r\n", "Host: localhost\r\nOrigin: http://evil.example\r\n"] {
        for (method, path) in [("GET", "/snapshot"), ("POST", "/drain"), ("GET", "/no-such-page")] {
            assert_eq!(bench.ask_with(method, path, headers).await.0, 403, "{method} {path} {headers:?}");
        }
    }
    assert_eq!(bench.drains.load(Ordering::SeqCst), 0);
    assert_eq!(bench.ask_with("GET", "/live", "Host: localhost:1\r\n").await.0, 200);
}

#[tokio::test]
async fn it_stops_when_told_although_a_client_stays_connected() {
    let bench = start(false);
    let idle = TcpStream::connect(bench.address).await.unwrap();
    assert_eq!(bench.ask("GET", "/live").await.0, 200);
    bench.shutdown.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(10), bench.task).await.unwrap().unwrap();
    drop(idle);
}
