//! What an operator sets for the way from the public listener to the app: how many, and how long.

use std::time::{Duration, Instant};

use aralez_integration::apps::{App, http_echo};
use aralez_integration::net::{Address, Stream};
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_openssl::SslStream;

use crate::support::ca::Leaf;
use crate::support::fake_agent::{FakeAgent, Sidecar};
use crate::support::mesh::{EFFECT, api};
use crate::support::sidecar::{Aralez, Launch};
use crate::support::tls::Client;

const PROXY: &str = "api-1-sidecar-proxy";
/// No default of any timeout is as short as this.
const SOON: Duration = Duration::from_secs(4);
const CHUNKED: &str = "Host: api\r\nTransfer-Encoding: chunked\r\n\r\n";

/// `api`'s sidecar with settings of its own, and a peer that may call it.
struct Scene {
    agent: FakeAgent,
    public: Address,
    peer: Leaf,
    _sidecar: Aralez,
    _app: Option<App>,
}

impl Scene {
    /// In front of an echo.
    async fn start(settings: Value) -> Scene {
        let app = http_echo("api-1").await.unwrap();
        let scene = Scene::before(api(&app, "http"), settings).await;
        Scene { _app: Some(app), ..scene }
    }

    async fn before(sidecar: Sidecar, settings: Value) -> Scene {
        let agent = FakeAgent::start().await;
        agent.register(&sidecar);
        set(&agent, settings);
        let peer = agent.reissue_leaf("probe");
        let public = Address::port(sidecar.public_port);
        Scene { _sidecar: Launch::sidecar_for(&agent, "api-1").start().await, agent, public, peer, _app: None }
    }

    async fn status(&self, path: &str) -> u16 {
        let mut connection = Client::with(&self.peer).http(&self.public).await.unwrap();
        connection.get(path, &[]).await.unwrap().status.as_u16()
    }

    async fn connect(&self) -> SslStream<Stream> {
        Client::with(&self.peer).connect(&self.public).await.unwrap()
    }
}

/// Adds to the `Config` of the registration.
fn set(agent: &FakeAgent, settings: Value) {
    agent.edit_registration(PROXY, |service| {
        let config = service["Proxy"]["Config"].as_object_mut().unwrap();
        config.extend(settings.as_object().unwrap().clone());
    });
}

/// Reads until `end` was seen; `None` when the other side closes before.
async fn read_until(stream: &mut SslStream<Stream>, end: &[u8]) -> Option<()> {
    let mut received = Vec::new();
    while !received.windows(end.len()).any(|part| part == end) {
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}

/// The sidecar of `api-1` in front of whatever listens on a port.
fn api_at(app_port: u16) -> Sidecar {
    Sidecar {
        service: "api".to_owned(),
        service_id: "api-1".to_owned(),
        public_port: free_port().unwrap(),
        app_port,
        protocol: "http",
        upstreams: Vec::new(),
    }
}

/// An app that begins an answer at once and never ends it: a chunk every `pace`.
async fn endless(pace: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                while sent.is_ok() {
                    sent = stream.write_all(b"1\r\nx\r\n").await;
                    sleep(pace).await;
                }
            });
        }
    });
    port
}

/// An address of loopback where connecting never ends: its queue is full, so that the kernel drops what else comes. Kept full by the streams.
async fn unreachable() -> (u16, Vec<TcpStream>, TcpListener) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
    }
    (address.port(), queue, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_max_inbound_connections_end_before_the_handshake() {
    let scene = Scene::start(json!({"max_inbound_connections": 2})).await;
    let client = Client::with(&scene.peer);
    let mut first = client.http(&scene.public).await.unwrap();
    let second = client.http(&scene.public).await.unwrap();
    assert_eq!(first.get("/", &[]).await.unwrap().status, 200);
    // The first is idle, the second never said anything: both count.
    let refused = client.connect(&scene.public).await;
    assert!(refused.is_err(), "a third connection");
    assert_eq!(first.get("/", &[]).await.unwrap().status, 200);
    drop(second);
    let free = eventually("the place of a closed connection", EFFECT, async || client.http(&scene.public).await?.get("/", &[]).await);
    assert_eq!(free.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_max_inbound_connections_holds_at_once_and_zero_is_no_limit() {
    let scene = Scene::start(json!({"max_inbound_connections": 1})).await;
    let client = Client::with(&scene.peer);
    let mut open = vec![client.http(&scene.public).await.unwrap()];
    for limit in [2, 0] {
        assert!(client.connect(&scene.public).await.is_err(), "one more than allowed, before {limit}");
        set(&scene.agent, json!({"max_inbound_connections": limit}));
        let more = eventually("room for one more", EFFECT, async || client.http(&scene.public).await);
        open.push(more.await.unwrap());
    }
    assert_eq!(open.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn local_connect_timeout_bounds_connecting_to_the_app() {
    let (app_port, _queue, _listener) = unreachable().await;
    let scene = Scene::before(api_at(app_port), json!({"local_connect_timeout_ms": 400})).await;
    let begun = Instant::now();
    assert_eq!(scene.status("/").await, 503);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_request_timeout_bounds_the_whole_request_until_it_is_set_to_zero() {
    let scene = Scene::start(json!({"local_request_timeout_ms": 400})).await;
    let begun = Instant::now();
    assert_eq!(scene.status("/slow?ms=8000").await, 504);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < SOON, "{took:?}");
    assert_eq!(scene.status("/slow?ms=50").await, 200);
    set(&scene.agent, json!({"local_request_timeout_ms": 0}));
    let unbounded = eventually("no limit", EFFECT * 2, async || {
        anyhow::ensure!(scene.status("/slow?ms=900").await == 200);
        Ok(())
    });
    unbounded.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn local_request_timeout_counts_from_the_end_of_the_request() {
    let scene = Scene::start(json!({"local_request_timeout_ms": 800})).await;
    let mut stream = scene.connect().await;
    // The echo answers at once and goes on for as long as the request does.
    stream.write_all(format!("POST / HTTP/1.1\r\n{CHUNKED}").as_bytes()).await.unwrap();
    for _ in 0..6 {
        stream.write_all(b"1\r\nx\r\n").await.unwrap();
        read_until(&mut stream, b"\r\nx\r\n").await.expect("a stream of more than 800 ms goes on while its request does");
        sleep(Duration::from_millis(200)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut stream, b"0\r\n\r\n").await.expect("its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_request_timeout_ends_an_answer_that_goes_on_too_long() {
    for pace in [Duration::from_millis(50), Duration::from_secs(60)] {
        let scene = Scene::before(api_at(endless(pace).await), json!({"local_request_timeout_ms": 700})).await;
        let mut stream = scene.connect().await;
        let begun = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").await.unwrap();
        let ended = timeout(SOON, read_until(&mut stream, b"0\r\n\r\n")).await;
        assert_eq!(ended.expect("an end"), None, "and not as if it were complete, at a chunk every {pace:?}");
        assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_idle_timeout_ends_a_request_that_stands_still() {
    let scene = Scene::start(json!({"local_request_timeout_ms": 0, "local_idle_timeout_ms": 400})).await;
    let begun = Instant::now();
    assert_eq!(scene.status("/slow?ms=8000").await, 504);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_idle_timeout_leaves_a_stream_that_moves_and_ends_it_when_it_stops() {
    let scene = Scene::start(json!({"local_request_timeout_ms": 0, "local_idle_timeout_ms": 600})).await;
    let mut stream = scene.connect().await;
    stream.write_all(format!("POST / HTTP/1.1\r\n{CHUNKED}").as_bytes()).await.unwrap();
    for _ in 0..8 {
        stream.write_all(b"1\r\nx\r\n").await.unwrap();
        read_until(&mut stream, b"\r\nx\r\n").await.expect("a stream that moves goes on");
        sleep(Duration::from_millis(200)).await;
    }
    let ended = timeout(SOON, read_until(&mut stream, b"0\r\n\r\n")).await;
    assert_eq!(ended.expect("a stream that stands still is ended"), None, "and not as if it were complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_idle_timeout_does_not_count_against_an_app_that_listens_to_an_upload() {
    let scene = Scene::start(json!({"local_request_timeout_ms": 0, "local_idle_timeout_ms": 600})).await;
    let mut stream = scene.connect().await;
    stream.write_all(format!("POST /count HTTP/1.1\r\nConnection: close\r\n{CHUNKED}").as_bytes()).await.unwrap();
    for _ in 0..8 {
        stream.write_all(b"1\r\nx\r\n").await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n8"), "{answer}");
}
