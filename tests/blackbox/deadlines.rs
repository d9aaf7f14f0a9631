//! A request whose app says nothing, or never ends, is ended by the whole-request timeout: by HTTP/1 and by HTTP/2, whatever its framing.

use std::time::{Duration, Instant};

use aralez_integration::{clients::HttpClient, net::Address};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::details::trailers_only;
use crate::ingress::Edge;
use crate::support::mesh::Mesh;
use crate::support::raw::read_until;
use crate::support::wire::{Reply, Wire, WireApp};

const TIMEOUT: Duration = Duration::from_millis(700);
/// No default of any timeout is as short as this.
const SOON: Duration = Duration::from_secs(8);

fn settings() -> serde_json::Value {
    json!({"local_request_timeout_ms": 700})
}

/// An HTTP/2 app that takes all in and says nothing, or begins an answer and goes on for ever.
async fn http2_app(begins: bool) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        if !begins {
                            let mut body = request.into_body();
                            while let Some(Ok(data)) = body.data().await {
                                body.flow_control().release_capacity(data.len()).unwrap();
                            }
                            drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await);
                            return;
                        }
                        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut body = respond.send_response(head, false).unwrap();
                        while body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false).is_ok() {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    });
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_to_a_silent_app_ends_with_deadline_exceeded() {
    let wire = Wire::before(http2_app(false).await, "grpc", settings()).await;
    let begun = Instant::now();
    assert_eq!(trailers_only(&wire.entry).await, ("4".to_owned(), "upstream request timeout".to_owned()));
    assert!(begun.elapsed() >= TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_that_outlives_the_timeout_is_cut() {
    let wire = Wire::before(http2_app(true).await, "grpc", settings()).await;
    let stream = wire.entry.connect().await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let call = Request::post("http://api/echo.Echo/Watch").header("content-type", "application/grpc").body(()).unwrap();
    let (answer, mut request) = client.send_request(call, false).unwrap();
    request.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).unwrap();
    let begun = Instant::now();
    let mut body = timeout(SOON, answer).await.unwrap().unwrap().into_body();
    let ended = async {
        loop {
            match body.data().await {
                Some(Ok(data)) => body.flow_control().release_capacity(data.len()).unwrap(),
                Some(Err(why)) => return Some(why),
                None => return None,
            }
        }
    };
    let ended = timeout(SOON, ended).await.expect("an end");
    assert!(ended.is_some_and(|why| why.is_reset()), "and not as if it were complete");
    assert!(begun.elapsed() >= TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_to_a_silent_app_is_504_whatever_its_framing() {
    let app = WireApp::start(|_| Reply::Silence).await;
    let wire = Wire::before(app.port, "http", settings()).await;
    let long = format!("Content-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
    let chunked = "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n";
    for [framing, rest] in [["\r\n", ""], ["Content-Length: 4\r\n\r\nbody", ""], [&long, ""], [chunked, "0\r\n\r\n"]] {
        let mut stream = wire.entry.connect().await.unwrap();
        let begun = Instant::now();
        stream.write_all(format!("POST / HTTP/1.1\r\nHost: api\r\n{framing}").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        let answer = timeout(SOON, read_until(&mut stream, b"upstream request timeout")).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer in time to {framing:.60}")).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.to_lowercase().contains("content-type: text/plain\r\n"), "{answer}");
        assert!(begun.elapsed() >= TIMEOUT, "{:?}", begun.elapsed());
    }
    let mut client = HttpClient::http2(&wire.entry).await.unwrap();
    let answer = timeout(SOON, client.post("/", "body")).await.expect("in time").unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (504, "upstream request timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_upload_reaches_the_app_whole_with_or_without_pauses() {
    let mesh = Mesh::start("http").await;
    for pause in [Duration::ZERO, Duration::from_millis(40)] {
        let mut stream = mesh.entry.connect().await.unwrap();
        stream.write_all(b"POST /count HTTP/1.1\r\nHost: api\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..10 {
            // In two parts, so that a chunk's head and its bytes come apart.
            stream.write_all(b"2710\r\nx").await.unwrap();
            tokio::time::sleep(pause).await;
            stream.write_all(&[&[b'x'; 9_999][..], b"\r\n"].concat()).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("100000"), "{answer}");
    }
}

/// An app that takes requests in more slowly than they come, and then says nothing; tells when it was left.
async fn slow_app() -> (u16, mpsc::Receiver<usize>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(16).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (left, leaving) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let (mut piece, mut total) = (vec![0; 64 * 1024], 0);
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    total += read;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                left.send(total).await
            });
        }
    });
    (port, leaving)
}

/// Time enough for such an app to take in what waits in the buffers of both sidecars.
fn patient() -> serde_json::Value {
    json!({"local_request_timeout_ms": 4000})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_post_that_the_app_takes_in_slowly_is_504_and_a_client_that_leaves_is_seen() {
    const LONG: usize = 6 << 20;
    let (port, mut leaving) = slow_app().await;
    let wire = Wire::before(port, "http", patient()).await;
    let length = format!("Content-Length: {LONG}\r\n\r\n{}", "x".repeat(LONG));
    let chunks = format!("Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(LONG / 4096));
    for framing in [&length, &chunks] {
        let mut stream = wire.entry.connect().await.unwrap();
        stream.write_all(format!("POST / HTTP/1.1\r\nHost: api\r\n{framing}").as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, b"upstream request timeout").await.unwrap_or_else(|why| panic!("{framing:.30}: {why:#}"));
        assert!(answer.starts_with(b"HTTP/1.1 504 "), "{}", String::from_utf8_lossy(&answer));
        assert!(leaving.recv().await.is_some_and(|took| took >= LONG), "the app had it all");
    }
    let wire = Wire::before(port, "http", json!({"local_request_timeout_ms": 0})).await;
    for framing in [&length, &chunks] {
        let mut stream = wire.entry.connect().await.unwrap();
        stream.write_all(format!("POST / HTTP/1.1\r\nHost: api\r\n{framing}").as_bytes()).await.unwrap();
        drop(stream);
        let took = timeout(Duration::from_secs(20), leaving.recv()).await;
        assert!(took.is_ok_and(|took| took.is_some()), "the app is left with its client: {framing:.30}");
    }
}

/// A client of HTTP/2 that says a request's head, and then its body, in pieces as there is room, and its end.
async fn late(address: &Address, kind: &'static str, length: usize) -> (SendRequest<Bytes>, ResponseFuture, SendStream<Bytes>) {
    let (client, connection) = h2::client::handshake(address.connect().await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let head = Request::post("http://api/echo.Echo/Unary").header("content-type", kind).body(()).unwrap();
    let (answer, mut body) = client.send_request(head, false).unwrap();
    let mut left = length;
    while left > 0 {
        body.reserve_capacity(left.min(16 * 1024));
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
        body.send_data(vec![b'x'; room].into(), false).unwrap();
        left -= room;
    }
    (client, answer, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_http2_whose_end_comes_late_is_ended_all_the_same() {
    let http1 = WireApp::start(|_| Reply::Silence).await;
    for (protocol, kind, app) in [
        ("grpc", "application/grpc", http2_app(false).await),
        ("http2", "text/plain", http2_app(false).await),
        ("http", "text/plain", http1.port),
    ] {
        let wire = Wire::before(app, protocol, settings()).await;
        for length in [6, 100_000] {
            let (_client, answer, mut body) = late(&wire.entry, kind, length).await;
            // Later than what comes in one piece with its head, and later than the timeout counted from there.
            tokio::time::sleep(TIMEOUT + Duration::from_millis(200)).await;
            let begun = Instant::now();
            body.send_data(Bytes::from_static(b"x"), true).unwrap();
            let answer = timeout(SOON, answer).await.unwrap_or_else(|_| panic!("{protocol}: no answer to {length} bytes in time")).unwrap();
            let told = (answer.status().as_u16(), answer.headers().get("grpc-status").map(|status| status.as_bytes()));
            assert_eq!(told, if protocol == "grpc" { (200, Some(&b"4"[..])) } else { (504, None) }, "{protocol}");
            assert!(begun.elapsed() >= TIMEOUT, "{protocol}: {:?}", begun.elapsed());
        }
    }
}

/// The reverse proxy before a server of HTTP/1.
async fn edge(app: u16, timeout: &str) -> Edge {
    Edge::start(&format!(
        "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: ['http://127.0.0.1:{app}'], timeout: {timeout}, healthcheck: false}}\n"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_of_http2_that_the_server_takes_in_slowly_is_504_and_a_client_that_leaves_is_seen() {
    const LONG: usize = 6 << 20;
    let (port, mut leaving) = slow_app().await;
    let before = edge(port, "4s").await;
    // Some, since it is the chance of each whether the pipe is full when its end comes.
    join_all((0..6).map(async |_| {
        let (_client, answer, mut body) = late(&before.http, "text/plain", LONG).await;
        body.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert_eq!(timeout(SOON * 3, answer).await.expect("an answer in time").unwrap().status(), 504);
    }))
    .await;
    for _ in 0..6 {
        assert!(leaving.recv().await.is_some_and(|took| took > LONG), "the app had it all");
    }

    let before = edge(port, "false").await;
    let (_client, answer, mut body) = late(&before.http, "text/plain", LONG).await;
    body.send_data(Bytes::from_static(b"x"), true).unwrap();
    body.send_reset(h2::Reason::CANCEL);
    drop(answer);
    let took = timeout(Duration::from_secs(20), leaving.recv()).await;
    assert!(took.is_ok_and(|took| took.is_some()), "the app is left with its client");
}

/// An app that answers at once, and goes on to take the request in; its body is how much that was.
async fn early_app(length: usize) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let (mut piece, mut total) = (vec![0; 64 * 1024], 0);
        while total < length / 2 {
            total += stream.read(&mut piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
        while total < length {
            total += stream.read(&mut piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.write_all(total.to_string().as_bytes()).await
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_begins_before_the_end_of_the_request_loses_nothing_of_it() {
    const LONG: usize = 6 << 20;
    let before = edge(early_app(LONG).await, "false").await;
    let (client, connection) = h2::client::handshake(before.http.connect().await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let head = Request::post("http://api/").header("content-length", LONG).body(()).unwrap();
    let (answer, mut body) = client.send_request(head, false).unwrap();
    body.send_data(vec![b'x'; LONG].into(), true).unwrap();
    let mut answer = timeout(SOON * 3, answer).await.expect("an answer in time").unwrap().into_body();
    let mut told = Vec::new();
    while let Some(data) = timeout(SOON * 3, answer.data()).await.expect("all in time") {
        told.extend_from_slice(&data.unwrap());
    }
    assert_eq!(String::from_utf8_lossy(&told), LONG.to_string());
}
