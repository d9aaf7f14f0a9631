//! An app that shows requests exactly as they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

use super::{App, Counters};
use crate::net::{Listener, Stream};

/// Starts an HTTP/1.1 app on loopback that answers every request (without body) with JSON: `path`, the request target byte by byte
/// as received, and `headers`, by name in lower case. No URI parser stands between, which might tidy up.
///
/// # Errors
/// When it cannot listen.
pub async fn raw_echo() -> Result<App> {
    let (listener, address) = Listener::loopback().await?;
    let counters = Arc::new(Counters::default());
    let seen = counters.clone();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(stream) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            let seen = seen.clone();
            // How a connection ends is the client's to see.
            connections.spawn(async move { drop(connection(&seen, BufReader::new(stream)).await) });
        }
    });
    Ok(App { address, counters, orders: Arc::default(), accepting })
}

async fn connection(seen: &Counters, mut stream: BufReader<Stream>) -> Result<()> {
    loop {
        let request = line(&mut stream).await?;
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = line(&mut stream).await?.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let path = request.split(' ').nth(1).context("no request target")?;
        let body = json!({"path": path, "headers": headers}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
    }
}

/// A line without its end.
async fn line(stream: &mut BufReader<Stream>) -> Result<String> {
    let mut line = String::new();
    ensure!(stream.read_line(&mut line).await? > 0, "closed");
    Ok(line.trim_end().to_owned())
}
