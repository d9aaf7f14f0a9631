//! Bytes, requests, messages and streams pass through both sidecars unharmed.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use aralez_integration::apps::{self, FAREWELL};
use aralez_integration::clients::{self, GrpcCall, HttpClient};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::scene::{Pair, caller, echoes, http_answers, socket, tcp_works, unique};

/// Sent and echoed at the same time: more than socket buffers hold, less than what a sidecar takes in ahead (16 MiB).
const BOTH_WAYS: usize = 10 * 1024 * 1024;
/// More than all buffers and windows on the way hold together.
const LARGE: usize = 20 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn tcp() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let pair = Pair::start(&agent, "tcp", &app.address).await;

    let mut stream = pair.upstream.connect().await.unwrap();
    echoes(&mut stream, b"hello").await.unwrap();

    let large = vec![b'x'; LARGE];
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move { write.write_all(&large).await.map(|()| write) });
    let mut back = vec![0; LARGE];
    read.read_exact(&mut back).await.unwrap();
    assert!(back.iter().all(|byte| *byte == b'x'));

    // Half-close: after our FIN the other direction still works.
    sending.await.unwrap().unwrap().shutdown().await.unwrap();
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, FAREWELL);
}

#[tokio::test(flavor = "multi_thread")]
async fn http() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "http", &app.address).await;

    let mut client = HttpClient::http1(&pair.upstream).await.unwrap();
    for turn in 0..10 {
        let answer = client.post("/any/path?q=1", format!("hello {turn}")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text()), (200, format!("hello {turn}")));
        assert_eq!(answer.headers["x-app"], "db");
    }
    let dump = client.get("/debug?env=dump").await.unwrap().text();
    assert!(dump.starts_with("GET /debug?env=dump HTTP/1.1\n"), "{dump}");
    assert!(dump.contains("\nHost: localhost\n"), "{dump}");
    assert!(dump.contains("\nFORTIO_NAME=db\n"), "{dump}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "http2", &app.address).await;

    let mut client = HttpClient::http2(&pair.upstream).await.unwrap();
    for size in [0, 5, 100_000] {
        let answer = client.post("/any/path", vec![b'x'; size]).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, size));
        assert_eq!(answer.trailers["x-echo-bytes"], size.to_string());
    }
    let dump = client.get("/debug?env=dump").await.unwrap().text();
    assert!(dump.contains("HTTP/2.0\n"), "the app must be spoken to in HTTP/2: {dump}");
}

async fn client(version: &str, address: &Address) -> HttpClient {
    match version {
        "http" => HttpClient::http1(address).await.unwrap(),
        _ => HttpClient::http2(address).await.unwrap(),
    }
}

async fn large_bodies(protocol: &str) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, protocol, &app.address).await;
    let mut client = client(protocol, &pair.upstream).await;

    let counted = client.post("/count", vec![b'x'; LARGE]).await.unwrap();
    assert_eq!(counted.text(), LARGE.to_string());
    let downloaded = client.get(&format!("/bytes?n={LARGE}")).await.unwrap();
    assert_eq!(downloaded.body.len(), LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_http() {
    large_bodies("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_http2() {
    large_bodies("http2").await;
}

/// The app answers while the request is still coming: neither direction may wait for the other.
async fn full_duplex(protocol: &str) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, protocol, &app.address).await;
    let mut client = client(protocol, &pair.upstream).await;

    let echoed = client.post("/", vec![b'x'; BOTH_WAYS]).await.unwrap();
    assert_eq!(echoed.body.len(), BOTH_WAYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_duplex_http() {
    full_duplex("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_duplex_http2() {
    full_duplex("http2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_unary_and_bidi() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "grpc", &app.address).await;

    let unary = GrpcCall::open(&pair.upstream, "/echo.Echo/Unary").await.unwrap();
    unary.send(b"one").await.unwrap();
    let (messages, trailers) = unary.finish().await.unwrap();
    assert_eq!(messages, ["one"]);
    assert_eq!(trailers["grpc-status"], "0");

    let mut bidi = GrpcCall::open(&pair.upstream, "/echo.Echo/Bidi").await.unwrap();
    for turn in 0..50 {
        let message = format!("message {turn}");
        bidi.send(message.as_bytes()).await.unwrap();
        // The answer comes while the request is still open: nothing on the way waits for its end.
        assert_eq!(bidi.receive().await.unwrap().unwrap(), message);
    }
    bidi.send(b"last").await.unwrap();
    let (rest, trailers) = bidi.finish().await.unwrap();
    assert_eq!(rest, ["last"]);
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "http", &app.address).await;

    let mut socket = clients::websocket(&pair.upstream, "/chat").await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000]), Message::text("again")] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some_and(|message| message.is_ok()) {}

    // The listener still serves plain requests.
    http_answers(&pair.upstream, 200).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_on_both_sides_tcp() {
    let agent = Agent::shared().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let app = apps::tcp_echo_on(&socket(&folder, "app.sock")).unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap();
    let path = socket(&folder, "upstream.sock");
    let pair = Pair::launch(&agent, caller(Upstream::socket(&db.name, &path, "0600")), db).await;

    tcp_works(&pair.upstream).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_on_both_sides_http() {
    let agent = Agent::shared().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let app = apps::http_echo_on("db", &socket(&folder, "app.sock")).unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap().protocol("http");
    let path = socket(&folder, "upstream.sock");
    let upstream = Upstream::socket(&db.name, &path, "0666").protocol("http");
    let pair = Pair::launch(&agent, caller(upstream), db).await;

    let mut client = HttpClient::http1(&pair.upstream).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.post("/", "hello").await.unwrap().text(), "hello");
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_concurrent_connections() {
    const COUNT: usize = 1000;
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let pair = Pair::start(&agent, "tcp", &app.address).await;

    // A thousand handshakes at once would take a busy machine longer than a handshake may: they are open, not opened, at once.
    let openers = Arc::new(Semaphore::new(50));
    let mut opening = JoinSet::new();
    for _ in 0..COUNT {
        let (address, openers) = (pair.upstream.clone(), openers.clone());
        opening.spawn(async move {
            let _turn = openers.acquire().await?;
            let mut stream = address.connect().await?;
            echoes(&mut stream, b"hello").await.map(|()| stream)
        });
    }
    let mut open: Vec<_> = opening.join_all().await.into_iter().collect::<anyhow::Result<_>>().unwrap();
    assert_eq!(app.connections(), COUNT as u64);
    // All are open at once, and each still works.
    for stream in &mut open {
        echoes(stream, b"still here").await.unwrap();
    }
}
