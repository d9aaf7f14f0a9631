//! Finds out what a server speaks.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::dial::{Dialer, Failure};
use crate::model::ingress::pool::Scheme;

/// The preface of HTTP/2 and an empty SETTINGS frame (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of a SETTINGS frame, and where a frame has it.
const SETTINGS: (usize, u8) = (3, 4);
/// The head of a frame, bytes.
const FRAME_HEAD: usize = 9;

/// What a server speaks; `patience` bounds each of at most three connections.
///
/// HTTP/1.1 is asked for first, by `HEAD path`: a server that speaks it and HTTP/2 in clear gets HTTP/1.1, since a WebSocket never rides HTTP/2. TLS
/// listeners answer such a request with an error in clear, some with a redirect: after these TLS is tried all the same.
///
/// # Errors
/// Why nobody can tell: it is not reached, or it answers nothing that is known.
pub async fn detect(dialer: &Dialer, host: &str, path: &str, patience: Duration) -> Result<Scheme, Failure> {
    let status = bounded(patience, http1(dialer, host, path)).await;
    match status {
        Ok(status) if !hides_tls(status) => return Ok(Scheme::Http),
        Err(unreachable @ Failure::Unreachable(_)) => return Err(unreachable),
        _ => {}
    }
    let tls = async { Ok(dialer.speaks_tls().await) };
    let h2c = async { if status.is_ok() { Ok(false) } else { http2(dialer).await } };
    let (tls, h2c) = tokio::join!(bounded(patience, tls), bounded(patience, h2c));
    match (tls, status, h2c) {
        (Ok(true), ..) => Ok(Scheme::Https),
        (_, Ok(_), _) => Ok(Scheme::Http),
        (.., Ok(true)) => Ok(Scheme::H2c),
        (_, Err(Failure::Silent), _) => Err(Failure::Silent),
        _ => Err(Failure::Answer("it answers neither HTTP/1.1 nor TLS nor HTTP/2".to_owned())),
    }
}

async fn bounded<T>(patience: Duration, what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(patience, what).await.unwrap_or(Err(Failure::Silent))
}

/// Whether a TLS listener may say this to a request in clear.
fn hides_tls(status: u16) -> bool {
    (300..=400).contains(&status) || matches!(status, 421 | 426)
}

/// The status of its answer to a request of HTTP/1.1.
async fn http1(dialer: &Dialer, host: &str, path: &str) -> Result<u16, Failure> {
    let mut stream = dialer.clear().await?;
    let broken = |e: std::io::Error| Failure::Answer(e.to_string());
    let request = format!("HEAD {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {}\r\nconnection: close\r\n\r\n", super::probe::AGENT);
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).await.map_err(broken)?;
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..)?).ok()?.parse().ok());
    status.ok_or_else(|| Failure::Answer("it is not HTTP/1.1".to_owned()))
}

/// Whether it answers the preface of HTTP/2 with its settings.
async fn http2(dialer: &Dialer) -> Result<bool, Failure> {
    let mut stream = dialer.clear().await?;
    let broken = |e: std::io::Error| Failure::Answer(e.to_string());
    stream.write_all(PREFACE).await.map_err(broken)?;
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).await.map_err(broken)?;
    Ok(head[SETTINGS.0] == SETTINGS.1)
}
