//! What an app receives, byte by byte.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{App, Counters};
use crate::net::{Listener, Stream};

/// Starts an HTTP/1.1 app that answers 200 to any request without a body. It says its name in `x-app`, and in `x-head` its
/// name and the whole head as it came, joined by ` | `: nothing is parsed, so nothing is refused. One request a connection.
///
/// # Errors
/// When it cannot listen.
pub async fn head_echo(name: &str) -> Result<App> {
    let (listener, address) = Listener::loopback().await?;
    let counters = Arc::new(Counters::default());
    let (seen, name) = (counters.clone(), name.to_owned());
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(stream) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(answer(stream, name.clone(), seen.clone()));
        }
    });
    Ok(App { address, counters, orders: Arc::default(), accepting })
}

/// Ends without a word when the connection breaks: the client is the judge.
async fn answer(mut stream: Stream, name: String, seen: Arc<Counters>) -> Option<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let head = String::from_utf8_lossy(&head).trim_end().replace("\r\n", " | ");
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\nx-app: {name}\r\nx-head: {name} | {head}\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
