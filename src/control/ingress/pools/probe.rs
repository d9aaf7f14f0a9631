//! One probe of a server: connect, ask, judge.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, header::HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::dial::{Dialer, EITHER, Failure, Io, ONLY_H2};
use crate::model::ingress::pool::{Probe, Scheme};

/// How we call ourselves to those whom we probe.
pub const AGENT: &str = concat!("aralez-health/", env!("CARGO_PKG_VERSION"));

/// The longest answer of a gRPC health service that is read, bytes; a regular one has 7.
const LONGEST_ANSWER: usize = 1024;

/// `SERVING` in `grpc.health.v1.HealthCheckResponse.status`.
const SERVING: [u8; 2] = [8, 1];

/// Asks a server that speaks `scheme` once; `host` is its own name with the port.
///
/// # Errors
/// Why it is not healthy.
pub async fn ask(dialer: &Dialer, scheme: Scheme, probe: &Probe, host: &str, patience: Duration) -> Result<(), Failure> {
    let asking = async {
        match probe {
            Probe::Tcp => dialer.clear().await.map(drop),
            Probe::Http { method, path, host: other, expect } => {
                let request = Request::builder().method(method.as_ref()).body(Bytes::new()).map_err(ours)?;
                let (answer, _connection) = send(dialer, scheme, request, other.as_deref().unwrap_or(host), path).await?;
                expected(answer.status().as_u16(), expect)
            }
            Probe::Grpc { service } => grpc(dialer, scheme, service, host).await,
        }
    };
    timeout(patience, asking).await.unwrap_or(Err(Failure::Silent))
}

fn ours(error: impl Display) -> Failure {
    Failure::Answer(format!("the probe cannot be made: {error}"))
}

fn expected(status: u16, expect: &[RangeInclusive<u16>]) -> Result<(), Failure> {
    match expect.iter().any(|range| range.contains(&status)) {
        true => Ok(()),
        false => Err(Failure::Answer(format!("it answered {status}"))),
    }
}

/// An answer, and the connection that its body comes over.
type Answer = (Response<Incoming>, AbortOnDropHandle<hyper::Result<()>>);

/// Sends a request over what the scheme says. No redirect is followed.
async fn send(dialer: &Dialer, scheme: Scheme, mut request: Request<Bytes>, host: &str, path: &str) -> Result<Answer, Failure> {
    let (stream, is_h2) = match scheme {
        Scheme::Http => (dialer.clear().await?, false),
        Scheme::H2c | Scheme::Grpc => (dialer.clear().await?, true),
        Scheme::Https => dialer.tls(EITHER).await?,
        Scheme::Grpcs => (dialer.tls(ONLY_H2).await?.0, true),
    };
    let headers = request.headers_mut();
    headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static(AGENT));
    if is_h2 {
        let protocol = if scheme.is_tls() { "https" } else { "http" };
        *request.uri_mut() = format!("{protocol}://{host}{path}").parse().map_err(ours)?;
    } else {
        headers.insert(HOST, host.parse().map_err(ours)?);
        *request.uri_mut() = path.parse().map_err(ours)?;
    }
    exchange(stream, is_h2, request.map(Full::new)).await.map_err(|e| Failure::Answer(format!("no HTTP answer: {e}")))
}

async fn exchange(stream: Box<dyn Io>, is_h2: bool, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
    let stream = TokioIo::new(stream);
    if is_h2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok((sender.send_request(request).await?, connection))
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok((sender.send_request(request).await?, connection))
    }
}

/// Asks the health service of gRPC (`grpc.health.v1.Health/Check`), whose messages have one field each: `service`, a string, and `status`, a number.
async fn grpc(dialer: &Dialer, scheme: Scheme, service: &str, host: &str) -> Result<(), Failure> {
    let scheme = if scheme.is_tls() { Scheme::Grpcs } else { Scheme::Grpc };
    let request = Request::builder()
        .method(Method::POST)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(check_request(service))
        .map_err(ours)?;
    let (answer, _connection) = send(dialer, scheme, request, host, "/grpc.health.v1.Health/Check").await?;
    expected(answer.status().as_u16(), &[200..=200])?;
    let status = |headers: &http::HeaderMap| headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let early = status(answer.headers());
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
    let body = body.map_err(|e| Failure::Answer(format!("no gRPC answer: {e}")))?;
    match early.or_else(|| status(body.trailers()?)).as_deref() {
        None | Some("0") => {}
        Some(code) => return Err(Failure::Answer(format!("it answered grpc-status {code}"))),
    }
    // The 5 bytes before a message are its compression and its length.
    match body.to_bytes().get(5..) == Some(SERVING.as_slice()) {
        true => Ok(()),
        false => Err(Failure::Answer("it says that it does not serve".to_owned())),
    }
}

/// `HealthCheckRequest` with its gRPC frame: its compression (none), its length in four bytes, and field 1 with its length as a varint.
fn check_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(10);
        let mut rest = service.len();
        while rest > 127 {
            message.push((rest & 127) as u8 | 128);
            rest >>= 7;
        }
        message.push(rest as u8);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}
