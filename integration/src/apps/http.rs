//! HTTP echo: HTTP/1.1 with WebSocket, HTTP/2 with trailers, gRPC-shaped streams, all on one port.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use openssl::pkey::PKey;
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslMethod, select_next_proto};
use openssl::x509::X509;
use tokio::task::JoinSet;
use tokio_openssl::SslStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{App, Counters, Orders};
use crate::net::{Address, Listener, Stream};

type Body = BoxBody<Bytes, hyper::Error>;

/// Starts an HTTP echo called `name` on loopback.
///
/// - Any path answers 200, returns the request body as it comes, and names the app in `x-app`.
/// - `/debug?env=dump` (under any prefix): request line, header fields in canonical case, `FORTIO_NAME=<name>`, as plain text.
/// - `/echo?header=<name>:<value>` (under any prefix, any number of them): sets that field of the answer.
/// - `/slow?ms=<n>`: echo after n milliseconds.
/// - `/count`: takes the whole body, then answers its length in bytes. `/bytes?n=<n>`: a body of n bytes.
/// - `Upgrade: websocket`: a WebSocket that echoes text and binary messages.
/// - HTTP/2: the number of body bytes comes as trailer `x-echo-bytes`.
/// - `content-type: application/grpc…`: messages return as they come, then trailer `grpc-status: 0`.
///
/// [`App::answer_next`], [`App::answer_always`], [`App::answer_text`] and [`App::hold`] tell it to do otherwise.
///
/// # Errors
/// When it cannot listen.
pub async fn http_echo(name: &str) -> Result<App> {
    let (listener, address) = Listener::loopback().await?;
    Ok(serve(name, listener, address, Speaks::Either))
}

/// The same on an address of this host.
///
/// # Errors
/// When it cannot listen there.
pub async fn http_echo_at(name: &str, ip: std::net::Ipv4Addr) -> Result<App> {
    let (listener, address) = Listener::at(ip).await?;
    Ok(serve(name, listener, address, Speaks::Either))
}

/// The same that speaks nothing but HTTP/2 in clear, as gRPC servers do.
///
/// # Errors
/// When it cannot listen.
pub async fn h2c_echo(name: &str) -> Result<App> {
    let (listener, address) = Listener::loopback().await?;
    Ok(serve(name, listener, address, Speaks::H2c))
}

/// The same behind TLS, with this certificate chain and key (PEM); ALPN offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When it cannot listen, or certificate and key cannot be used.
pub async fn https_echo(name: &str, chain: &str, key: &str) -> Result<App> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    let mut chain = X509::stack_from_pem(chain.as_bytes())?.into_iter();
    acceptor.set_certificate(&*chain.next().context("a certificate")?)?;
    chain.try_for_each(|issuer| acceptor.add_extra_chain_cert(issuer))?;
    acceptor.set_private_key(&*PKey::private_key_from_pem(key.as_bytes())?)?;
    acceptor.set_alpn_select_callback(|_, offered| select_next_proto(b"\x02h2\x08http/1.1", offered).ok_or(AlpnError::NOACK));
    let (listener, address) = Listener::loopback().await?;
    Ok(serve(name, listener, address, Speaks::Tls(acceptor.build())))
}

/// The same on a Unix socket.
///
/// # Errors
/// When it cannot listen there.
pub fn http_echo_on(name: &str, socket: &Path) -> Result<App> {
    let (listener, address) = Listener::unix(socket)?;
    Ok(serve(name, listener, address, Speaks::Either))
}

/// What an app speaks.
#[derive(Clone)]
enum Speaks {
    /// HTTP/1.1 and HTTP/2 in clear.
    Either,
    /// HTTP/2 in clear.
    H2c,
    /// TLS, with either.
    Tls(SslAcceptor),
}

fn serve(name: &str, listener: Listener, address: Address, speaks: Speaks) -> App {
    let (counters, orders) = (Arc::new(Counters::default()), Arc::new(Orders::default()));
    let echo = Echo { name: name.into(), counters: counters.clone(), orders: orders.clone() };
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(stream) = listener.accept().await {
            echo.counters.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(accepted(echo.clone(), stream, speaks.clone()));
        }
    });
    App { address, counters, orders, accepting }
}

#[derive(Clone, Debug)]
struct Echo {
    name: Arc<str>,
    counters: Arc<Counters>,
    orders: Arc<Orders>,
}

async fn accepted(echo: Echo, stream: Stream, speaks: Speaks) {
    match speaks {
        Speaks::Either => connection(echo, stream).await,
        Speaks::H2c => {
            let service = service_fn(|request| {
                let echo = echo.clone();
                async move { echo.answer(request).await.map(|(response, _)| response) }
            });
            drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
        }
        Speaks::Tls(acceptor) => {
            let Ok(mut stream) = Ssl::new(acceptor.context()).and_then(|ssl| SslStream::new(ssl, stream)) else { return };
            if Pin::new(&mut stream).accept().await.is_ok() {
                connection(echo, Box::new(stream)).await;
            }
        }
    }
}

/// Serves one connection, and the WebSockets that come out of it.
async fn connection(echo: Echo, stream: Stream) {
    let (upgraded, mut upgrades) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(|request| {
        let (echo, upgraded) = (echo.clone(), upgraded.clone());
        async move {
            let (response, websocket) = echo.answer(request).await?;
            if let Some(websocket) = websocket {
                drop(upgraded.send(websocket));
            }
            Ok::<_, io::Error>(response)
        }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // How a connection ends is the client's to see.
    drop(server.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
    if let Ok(websocket) = upgrades.try_recv() {
        echo_messages(websocket).await;
    }
}

impl Echo {
    /// An error closes the connection without an answer.
    async fn answer(&self, mut request: Request<Incoming>) -> io::Result<(Response<Body>, Option<OnUpgrade>)> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let status = self.orders.next().await.ok_or(io::ErrorKind::ConnectionAborted)?;
        if let Some(accept) = websocket_accept(request.headers()) {
            let upgrade = hyper::upgrade::on(&mut request);
            let mut response = self.response(text(String::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
            return Ok((response, Some(upgrade)));
        }
        let (parts, body) = request.into_parts();
        let mut response = self.echo(&parts, body).await;
        *response.status_mut() = status;
        Ok((response, None))
    }

    async fn echo(&self, parts: &Parts, body: Incoming) -> Response<Body> {
        if let Some(ordered) = self.orders.text() {
            return self.response(text(ordered));
        }
        let query = parts.uri.query().unwrap_or_default();
        if parts.uri.path().ends_with("/debug") && query == "env=dump" {
            return self.response(text(self.dump(parts)));
        }
        if parts.uri.path().ends_with("/count") {
            let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
            return self.response(text(length.to_string()));
        }
        if parts.uri.path().ends_with("/bytes")
            && let Some(length) = query.strip_prefix("n=").and_then(|n| n.parse().ok())
        {
            return self.response(text("x".repeat(length)));
        }
        if parts.uri.path().ends_with("/slow")
            && let Some(pause) = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok())
        {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let kind = parts.headers.get("content-type").cloned();
        if let Some(kind) = kind.filter(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            let mut response = self.response(with_trailer(body, |_| ("grpc-status", 0)));
            response.headers_mut().insert("content-type", kind);
            return response;
        }
        let mut response = match parts.version {
            Version::HTTP_2 => self.response(with_trailer(body, |bytes| ("x-echo-bytes", bytes))),
            _ => self.response(body.boxed()),
        };
        if parts.uri.path().ends_with("/echo") {
            response.headers_mut().extend(query.split('&').filter_map(field));
        }
        response
    }

    fn response(&self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            response.headers_mut().insert("x-app", name);
        }
        response
    }

    fn dump(&self, parts: &Parts) -> String {
        let mut dump = format!("{} {} {:?}\n\n", parts.method, parts.uri, parts.version);
        if !parts.headers.contains_key(HOST)
            && let Some(authority) = parts.uri.authority()
        {
            _ = writeln!(dump, "Host: {authority}");
        }
        for (name, value) in &parts.headers {
            _ = writeln!(dump, "{}: {}", canonical(name), String::from_utf8_lossy(value.as_bytes()));
        }
        _ = writeln!(dump, "\nFORTIO_NAME={}", self.name);
        dump
    }
}

/// The field in `header=<name>:<value>`.
fn field(parameter: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = parameter.strip_prefix("header=")?.split_once(':')?;
    Some((name.parse().ok()?, value.parse().ok()?))
}

/// The body as it comes, then one trailer made from its length in bytes.
fn with_trailer(body: Incoming, trailer: impl Fn(u64) -> (&'static str, u64) + Send + Sync + 'static) -> Body {
    let length = Arc::new(AtomicU64::new(0));
    let counted = length.clone();
    let body = body.map_frame(move |frame| {
        counted.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::Relaxed);
        frame
    });
    let trailers = async move {
        let (name, value) = trailer(length.load(Ordering::Relaxed));
        Some(Ok(HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from(value))])))
    };
    // `Box::pin`, because the body is polled in place and an async block cannot be moved once polled.
    body.with_trailers(Box::pin(trailers)).boxed()
}

fn text(text: String) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed()
}

/// `x-foo-bar` as `X-Foo-Bar`.
fn canonical(name: &HeaderName) -> String {
    let mut start = true;
    let letter = |letter: char| {
        let letter = if start { letter.to_ascii_uppercase() } else { letter };
        start = letter == '-';
        letter
    };
    name.as_str().chars().map(letter).collect()
}

/// The answer to a WebSocket handshake, if this is one (RFC 6455 §4.2).
fn websocket_accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?.to_str().ok()?;
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| upgrade.eq_ignore_ascii_case("websocket"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

async fn echo_messages(upgrade: OnUpgrade) {
    let echoed: Result<()> = async {
        let io = TokioIo::new(upgrade.await.context("upgrade")?);
        let mut websocket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(message) = websocket.next().await {
            let message = message?;
            if message.is_text() || message.is_binary() {
                websocket.send(message).await?;
            }
        }
        Ok(())
    }
    .await;
    // A broken connection ends the echo; the client is the judge.
    drop(echoed);
}
