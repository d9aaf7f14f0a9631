//! What an app is asked for, byte by byte.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{App, Counters};
use crate::net::{Listener, Stream};

/// Starts an HTTP/1.1 app that answers 200 to any request without a body and names the request target in `x-target`, as it came:
/// nothing is parsed, so nothing is refused. One request a connection.
///
/// # Errors
/// When it cannot listen.
pub async fn target_echo() -> Result<App> {
    let (listener, address) = Listener::loopback().await?;
    let counters = Arc::new(Counters::default());
    let seen = counters.clone();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(stream) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(answer(stream, seen.clone()));
        }
    });
    Ok(App { address, counters, accepting })
}

/// Ends without a word when the connection breaks: the client is the judge.
async fn answer(mut stream: Stream, seen: Arc<Counters>) -> Option<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let target = head.split(|byte| *byte == b' ').nth(1)?;
    let answer = [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\nx-target: ", target, b"\r\n\r\n"].concat();
    stream.write_all(&answer).await.ok()?;
    stream.shutdown().await.ok()
}
