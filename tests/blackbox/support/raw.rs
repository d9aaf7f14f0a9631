//! Bytes as they are, for what no HTTP library would send.

use std::time::Duration;

use anyhow::{Context, Result};
use aralez_integration::net::{Address, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Longest wait for an answer or a close.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends `bytes` on a connection of its own and returns everything until the other side closes or resets.
pub async fn exchange(address: &Address, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = address.connect().await?;
    let mut received = Vec::new();
    if stream.write_all(bytes).await.is_ok() {
        let reading = async { while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {} };
        timeout(LIMIT, reading).await.with_context(|| format!("still open after {:?}", String::from_utf8_lossy(&received)))?;
    }
    Ok(received)
}

/// The status of the HTTP/1.1 answer to `bytes`; the connection must be closed after it, because of a `connection: close` or of
/// what the request is.
pub async fn status(address: &Address, bytes: &[u8]) -> Result<u16> {
    let answer = exchange(address, bytes).await?;
    let text = String::from_utf8_lossy(&answer);
    text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).with_context(|| format!("no status in {text:?}"))
}

/// Reads until `end` is the end of what came.
pub async fn read_until(stream: &mut Stream, end: &[u8]) -> Result<Vec<u8>> {
    let mut received = Vec::new();
    let reading = async {
        while !received.ends_with(end) {
            anyhow::ensure!(stream.read_buf(&mut received).await? > 0, "closed after {:?}", String::from_utf8_lossy(&received));
        }
        Ok(())
    };
    timeout(LIMIT, reading).await.context("no such end in time")??;
    Ok(received)
}

/// Whether the other side closes or resets within `limit`.
pub async fn closes(stream: &mut Stream, limit: Duration) -> bool {
    let reading = async { while stream.read_u8().await.is_ok() {} };
    timeout(limit, reading).await.is_ok()
}
