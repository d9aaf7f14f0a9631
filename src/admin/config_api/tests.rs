use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{model::secret::Secret, snapshot};

const KEY: &str = "5aeff7f9-7b94-447c-af60-e8c488544a3e";

/// The API under test, and what reached its other side.
struct Bench {
    address: SocketAddr,
    pushed: Arc<Mutex<Vec<Pushed>>>,
    stop: CancellationToken,
}

impl Bench {
    fn start(key: Option<&str>, enabled: bool) -> Self {
        let pushed = Arc::<Mutex<Vec<Pushed>>>::default();
        let seen = pushed.clone();
        let api = ConfigApi {
            key: Arc::new(MasterKey::new(key.map(Secret::new).as_ref())),
            enabled,
            snapshots: snapshot::channel().1,
            telemetry: Arc::new(Telemetry::start().unwrap()),
            protection: Arc::new(|_, _| None),
            push: Arc::new(move |push| {
                let answer = match &*push.text {
                    "bad" => Err(Refused::Wrong(vec![
                        Unusable {
                            path: "upstreams.yaml:3:7".to_owned(),
                            why: "no such key".to_owned(),
                            advice: "did you mean servers?".to_owned(),
                        },
                        Unusable { path: "upstreams.yaml:9:1".to_owned(), why: "no port".to_owned(), advice: String::new() },
                    ])),
                    "full" => Err(Refused::Failed("cannot write upstreams.yaml: no space".to_owned())),
                    _ => Ok(Accepted { version: "v2".into(), changes: vec!["route a.test/: server b:80 added".to_owned()] }),
                };
                seen.lock().push(push);
                Box::pin(async { answer })
            }),
            in_force: Arc::new(|| InForce { shown: "upstreams: {}\n".into(), version: "v1".into(), pushed: false, since: 7 }),
            issue: Arc::new(|body, _| {
                let right = body == KEY.as_bytes();
                (if right { StatusCode::CREATED } else { StatusCode::FORBIDDEN }, serde_json::json!({}))
            }),
        };
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(api.serve(socket, stop.clone().cancelled_owned()));
        Self { address, pushed, stop }
    }

    async fn send(&self, method: &str, path: &str, fields: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let host = if fields.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\n{host}{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The answer may come before the body is wanted.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn push(&self, query: &str, body: &str) -> (u16, String) {
        self.send("POST", &format!("/conf{query}"), &format!("Authorization: Bearer {KEY}\r\n"), body).await
    }
}

#[tokio::test]
async fn a_push_is_answered_with_what_became_of_it() {
    let bench = Bench::start(Some(KEY), true);
    assert_eq!(bench.push("", "upstreams: {}").await, (200, "Config, conf file, updated !\n".to_owned()));
    assert_eq!(
        bench.push("?dry_run", "upstreams: {}").await,
        (200, "Config is valid, nothing was changed\nwould change: route a.test/: server b:80 added\n".to_owned())
    );
    assert_eq!(bench.push("?save=true", "upstreams: {}").await.0, 200);
    let problems = "upstreams.yaml:3:7: no such key; did you mean servers?\nupstreams.yaml:9:1: no port\n";
    assert_eq!(bench.push("", "bad").await, (400, problems.to_owned()));
    let (status, why) = bench.push("?save", "full").await;
    assert!(status == 500 && why.contains("no space"), "{status} {why}");
    let flags: Vec<(bool, bool)> = bench.pushed.lock().iter().map(|pushed| (pushed.save, pushed.dry_run)).collect();
    assert_eq!(flags, [(false, false), (false, true), (true, false), (false, false), (true, false)]);
}

#[tokio::test]
async fn what_is_misspelt_changes_nothing() {
    let bench = Bench::start(Some(KEY), true);
    for query in ["?dryrun", "?dry_run=maybe", "?dry_run&save", "?sav"] {
        assert_eq!(bench.push(query, "upstreams: {}").await.0, 400, "{query}");
    }
    let (status, why) = bench.push("", "creds: \"<redacted>\"").await;
    assert!(status == 400 && why.contains("put the secret there"), "{status} {why}");
    let latin = bench.send("POST", "/conf", &format!("x-api-key: {KEY}\r\n"), "").await;
    assert_eq!(latin.0, 200, "an empty text is for the checks behind to judge");
    assert_eq!(bench.pushed.lock().len(), 1);
}

#[tokio::test]
async fn the_key_is_asked_for_in_three_places_before_anything_is_read() {
    let bench = Bench::start(Some(KEY), true);
    for (fields, query) in [(format!("x-api-key: {KEY}\r\n"), String::new()), (String::new(), format!("?key={KEY}"))] {
        assert_eq!(bench.send("POST", &format!("/conf{query}"), &fields, "x").await.0, 200);
    }
    for (fields, query) in [("", ""), ("x-api-key: no\r\n", ""), ("", "?key=no"), ("Authorization: Basic cm9vdDpyb290\r\n", "")] {
        for method in ["GET", "POST"] {
            let (status, why) = bench.send(method, &format!("/conf{query}"), fields, "x").await;
            assert!(status == 403 && why.starts_with("Access Denied !"), "{method} {fields} {query}: {status} {why}");
        }
    }
    // The body never comes, the answer does.
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let head = format!("POST /conf HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000\r\n\r\n", bench.address);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    timeout(Duration::from_secs(5), stream.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 403");
    assert_eq!(bench.pushed.lock().len(), 2);
}

#[tokio::test]
async fn after_ten_wrong_keys_the_right_one_waits_too() {
    let bench = Bench::start(Some(KEY), true);
    for _ in 0..5 {
        assert_eq!(bench.send("GET", "/conf", "x-api-key: no\r\n", "").await.0, 403);
        assert_eq!(bench.send("POST", "/jwt", "", "no").await.0, 403);
    }
    assert_eq!(bench.push("", "x").await.0, 429);
    assert_eq!(bench.send("POST", "/jwt", "", KEY).await.0, 429);
    assert!(bench.pushed.lock().is_empty());
}

#[tokio::test]
async fn without_a_master_key_or_turned_off_nothing_changes() {
    let (keyless, off) = (Bench::start(None, true), Bench::start(Some(KEY), false));
    let (status, why) = keyless.send("POST", "/conf?key=", "x-api-key: \r\n", "x").await;
    assert!(status == 403 && why.contains("sets no master_key"), "{status} {why}");
    let (status, why) = off.push("", "x").await;
    assert!(status == 403 && why.contains("config_api_enabled"), "{status} {why}");
    assert_eq!(off.send("POST", "/jwt", "", KEY).await.0, 403);
    assert_eq!(off.send("GET", "/conf", &format!("x-api-key: {KEY}\r\n"), "").await.0, 200, "looking is no change");
    assert!(keyless.pushed.lock().is_empty() && off.pushed.lock().is_empty());
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let bench = Bench::start(Some(KEY), true);
    assert_eq!(bench.push("", &"x".repeat(MOST_BYTES)).await.0, 200);
    assert_eq!(bench.push("", &"x".repeat(MOST_BYTES + 1)).await.0, 413);
    let chunked = format!("x-api-key: {KEY}\r\nTransfer-Encoding: chunked\r\n");
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    stream.write_all(format!("POST /conf HTTP/1.1\r\nHost: {}\r\n{chunked}\r\n", bench.address).as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    for _ in 0..9 {
        let _ = stream.write_all(chunk.as_bytes()).await;
    }
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    assert_eq!(bench.pushed.lock().len(), 1);
}

#[tokio::test]
async fn this_host_may_look_but_no_web_page_may() {
    let bench = Bench::start(Some(KEY), true);
    for path in ["/metrics", "/status", "/status?live"] {
        assert_eq!(bench.send("GET", path, "", "").await.0, 200, "{path}");
        assert_eq!(bench.send("GET", path, "Host: rebind.example\r\n", "").await.0, 401, "{path}");
        assert_eq!(
            bench.send("GET", path, &format!("Host: api.example\r\nx-api-key: {KEY}\r\n"), "").await.0,
            200,
            "{path} by name, with the key"
        );
    }
    let page = format!("Origin: http://localhost\r\nx-api-key: {KEY}\r\n");
    for (method, path) in [("GET", "/status"), ("POST", "/conf"), ("POST", "/jwt"), ("GET", "/conf")] {
        assert_eq!(bench.send(method, path, &page, KEY).await.0, 403, "{method} {path}");
    }
    let (_, body) = bench.send("GET", "/status", "", "").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status["config"]["version"].as_str(), status["config"]["source"].as_str()), (Some("v1"), Some("files")));
    assert!(status["hosts"].is_object());
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_is_cut() {
    let bench = Bench::start(Some(KEY), true);
    for (sent, answered) in
        [("POST /jwt HTTP/1.1\r\nHost: ", ""), ("POST /jwt HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", "HTTP/1.1 408 ")]
    {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // In the test's time, which passes when nothing else happens.
        timeout(Duration::from_secs(600), stream.read_to_string(&mut answer)).await.expect("it is cut").unwrap();
        assert!(answer.starts_with(answered), "{answer}");
    }
}

#[tokio::test]
async fn it_ends_when_told() {
    let bench = Bench::start(Some(KEY), true);
    bench.stop.cancel();
    let closed = async {
        while TcpStream::connect(bench.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), closed).await.unwrap();
}
