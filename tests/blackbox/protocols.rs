//! Echo through two sidecars, for each protocol.

use aralez_integration::apps::FAREWELL;
use aralez_integration::clients::{self, GrpcCall, HttpClient};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::mesh::Mesh;

/// More than one read or write carries.
const LARGE: usize = 1 << 20;

/// Several frames, and less than the first window of a stream: with an echo, bodies flow both ways at once.
const MEDIUM: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn tcp_carries_bytes_both_ways_and_half_closes() {
    let mesh = Mesh::start("tcp").await;
    let (mut read, mut write) = tokio::io::split(mesh.entry.connect().await.unwrap());
    let sent: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
    let bytes = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    let _write = writing.await.unwrap();
    let echoed = received.strip_suffix(FAREWELL).expect("what the app said after the client's end");
    assert!(echoed == sent, "{} of {} bytes, or changed", echoed.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_carries_bodies_and_keeps_connections() {
    let mesh = Mesh::start("http").await;
    let mut client = HttpClient::http1(&mesh.entry).await.unwrap();
    let body = vec![b'x'; LARGE];
    for _ in 0..3 {
        let answer = client.post("/echo", body.clone()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, LARGE));
    }
    assert_eq!(mesh.app.requests(), 3);
    assert_eq!(mesh.app.connections(), 1, "connections to the app are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_carries_bodies_and_trailers() {
    let mesh = Mesh::start("http2").await;
    let mut client = HttpClient::http2(&mesh.entry).await.unwrap();
    for _ in 0..3 {
        let answer = client.post("/echo", vec![b'x'; MEDIUM]).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, MEDIUM));
        assert_eq!(answer.trailers["x-echo-bytes"], MEDIUM.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_unary_returns_message_and_status() {
    let mesh = Mesh::start("grpc").await;
    let call = GrpcCall::open(&mesh.entry, "/echo.Echo/Unary").await.unwrap();
    call.send(b"one").await.unwrap();
    let (messages, trailers) = call.finish().await.unwrap();
    assert_eq!(messages, ["one"]);
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_flow_both_ways_before_either_ends() {
    let mesh = Mesh::start("grpc").await;
    let mut call = GrpcCall::open(&mesh.entry, "/echo.Echo/Bidi").await.unwrap();
    for round in 0..50 {
        let message = format!("message {round}");
        call.send(message.as_bytes()).await.unwrap();
        assert_eq!(call.receive().await.unwrap().expect("an echo before the end"), message);
    }
    let (rest, trailers) = call.finish().await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_carry_messages_over_http() {
    let mesh = Mesh::start("http").await;
    let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
    for round in 0..20 {
        let text = Message::text(format!("message {round}"));
        socket.send(text.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), text);
    }
    let large = Message::binary(vec![7; LARGE]);
    socket.send(large.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), large);
    socket.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
}
