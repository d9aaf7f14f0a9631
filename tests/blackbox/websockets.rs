//! Tunnels: how long they may stand still, and that a frame never waits for the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use aralez_integration::apps::{App, http_echo};
use aralez_integration::clients::websocket;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::support::mesh::{Mesh, port};
use crate::support::raw::read_until;
use crate::support::wire::Wire;

const SOON: Duration = Duration::from_secs(20);
const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn echo(settings: serde_json::Value) -> (Wire, App) {
    let app = http_echo("api-1").await.unwrap();
    (Wire::before(port(&app.address), "http", settings).await, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_outlives_the_request_timeout() {
    let (wire, _app) = echo(json!({"local_request_timeout_ms": 400, "local_idle_timeout_ms": 0})).await;
    let mut socket = websocket(&wire.entry, "/ws").await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_moves_lives_and_one_that_stands_still_is_closed() {
    let (wire, _app) = echo(json!({"local_request_timeout_ms": 0, "local_idle_timeout_ms": 800})).await;
    let mut socket = websocket(&wire.entry, "/ws").await.unwrap();
    for _ in 0..8 {
        sleep(Duration::from_millis(250)).await;
        socket.send(Message::text("on")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("on"));
    }
    let stopped = Instant::now();
    let end = timeout(SOON, socket.next()).await.expect("an end");
    assert!(matches!(end, None | Some(Err(_) | Ok(Message::Close(_)))), "{end:?}");
    assert!(stopped.elapsed() >= Duration::from_millis(750), "{:?}", stopped.elapsed());
}

/// An app that upgrades whatever comes and then sends `count` bytes, one every `pace`, and never reads.
async fn ticker(count: usize, pace: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                stream.write_all(switched).await.unwrap();
                for _ in 0..count {
                    sleep(pace).await;
                    stream.write_all(b"\x89\0").await.unwrap();
                }
                std::future::pending::<()>().await
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_from_the_server_alone_keeps_a_websocket_alive() {
    let app = ticker(16, Duration::from_millis(250)).await;
    let wire = Wire::before(app, "http", json!({"local_request_timeout_ms": 0, "local_idle_timeout_ms": 3000})).await;
    let mut stream = wire.entry.connect().await.unwrap();
    stream.write_all(UPGRADE).await.unwrap();
    read_until(&mut stream, b"\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    let reading = async { while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {} };
    timeout(SOON, reading).await.expect("an end, once nothing moves");
    assert_eq!(received.len(), 32, "all that the app had to say");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_passed_on_at_once() {
    let mesh = Mesh::start("http").await;
    let mut socket = websocket(&mesh.entry, "/ws").await.unwrap();
    let mut took = Vec::new();
    for _ in 0..51 {
        let sent = Instant::now();
        socket.send(Message::text("ping")).await.unwrap();
        socket.next().await.unwrap().unwrap();
        took.push(sent.elapsed());
    }
    took.sort();
    // A frame that waits for a timer of TCP (40 ms) or for its successor would show in each.
    assert!(took[25] < Duration::from_millis(35), "{took:?}");
}

/// The endpoint may answer 101 before Pingora has taken the end of the request, most of all while other threads want the processor. The tunnel must not end
/// with the request.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_answered_at_once_keeps_its_tunnel() {
    const WORKERS: usize = 4;
    const EACH: usize = 50;
    let (wire, _app) = echo(json!({})).await;
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    let mut working = JoinSet::new();
    for _ in 0..WORKERS {
        let entry = wire.entry.clone();
        working.spawn(async move {
            let mut failed = 0;
            for _ in 0..EACH {
                let echoed = async {
                    let mut socket = websocket(&entry, "/ws").await?;
                    socket.send(Message::text("on")).await?;
                    let echoed = socket.next().await.context("the tunnel ended")??;
                    anyhow::ensure!(echoed == Message::text("on"), "{echoed:?}");
                    Ok(())
                };
                failed += usize::from(timeout(SOON, echoed).await.map_err(anyhow::Error::from).flatten().is_err());
            }
            failed
        });
    }
    let failed: usize = working.join_all().await.into_iter().sum();
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    println!("{} upgrades, {failed} failed", WORKERS * EACH);
    assert_eq!(failed, 0);
}
