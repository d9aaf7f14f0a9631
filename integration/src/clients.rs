//! Clients that show what came back: status, headers, body and trailers.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

use crate::net::{Address, Stream};

/// Longest wait for a whole answer.
const LIMIT: Duration = Duration::from_secs(30);

type Body = BoxBody<Bytes, Infallible>;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body, complete.
    pub body: Bytes,
    /// Trailer fields, empty if there were none.
    pub trailers: HeaderMap,
}

impl Response {
    /// The body as text; foreign bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    async fn collect(response: http::Response<Incoming>) -> Result<Self> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("read the body")?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Self { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }
}

/// One connection, kept alive: HTTP/1.1, or HTTP/2 in clear text with prior knowledge.
#[derive(Debug)]
pub struct HttpClient {
    sender: Sender,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl HttpClient {
    /// Connects for HTTP/1.1.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn http1(address: &Address) -> Result<Self> {
        Self::http1_over(address.connect().await?).await
    }

    /// HTTP/1.1 on a connection that is there.
    ///
    /// # Errors
    /// When it is closed already.
    pub async fn http1_over(stream: Stream) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How a connection ends shows in its requests.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender: Sender::Http1(sender) })
    }

    /// Connects for HTTP/2 without TLS and without upgrade.
    ///
    /// # Errors
    /// When nobody listens, or the other side does not speak HTTP/2.
    pub async fn http2(address: &Address) -> Result<Self> {
        let io = TokioIo::new(address.connect().await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender: Sender::Http2(sender) })
    }

    /// Whether the other side has kept the connection open.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When the connection breaks before the whole answer is there.
    pub async fn get(&mut self, path: &str) -> Result<Response> {
        self.send(request(Method::GET, path, Bytes::new())?).await
    }

    /// `POST path` with a body.
    ///
    /// # Errors
    /// As [`HttpClient::get`].
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Result<Response> {
        self.send(request(Method::POST, path, body.into())?).await
    }

    /// Sends a request made by the caller; `host` and, for HTTP/2, the absolute URI are its business ([`request`]).
    ///
    /// # Errors
    /// As [`HttpClient::get`].
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Response> {
        let what = format!("{} {}", request.method(), request.uri());
        let request = request.map(|body| Full::new(body).boxed());
        let answer = async { Response::collect(self.start(request).await?).await };
        timeout(LIMIT, answer).await.context("no whole answer in time").flatten().context(what)
    }

    async fn start(&mut self, mut request: Request<Body>) -> Result<http::Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                // Origin form, as RFC 9112 wants it towards anything but a forward proxy.
                let path = request.uri().path_and_query().context("no path")?.as_str().parse()?;
                *request.uri_mut() = path;
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Sender::Http2(sender) => {
                request.headers_mut().remove("host");
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }
}

/// A request to `http://localhost`, good for both versions.
///
/// # Errors
/// When the path is not one.
pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Result<Request<Bytes>> {
    let request = Request::builder().method(method).uri(format!("http://localhost{path}")).header("host", "localhost");
    Ok(request.body(body.into())?)
}

/// One HTTP/1.1 request on a connection of its own.
///
/// # Errors
/// As [`HttpClient::get`].
pub async fn once(address: &Address, request: Request<Bytes>) -> Result<Response> {
    HttpClient::http1(address).await?.send(request).await
}

/// One `GET` on a connection of its own.
///
/// # Errors
/// As [`HttpClient::get`].
pub async fn get(address: &Address, path: &str) -> Result<Response> {
    once(address, request(Method::GET, path, Bytes::new())?).await
}

/// One `POST` on a connection of its own.
///
/// # Errors
/// As [`HttpClient::get`].
pub async fn post(address: &Address, path: &str, body: impl Into<Bytes>) -> Result<Response> {
    once(address, request(Method::POST, path, body.into())?).await
}

/// Sends a request without body byte by byte as it is written here, `target` as no URI parser would leave it, on an HTTP/1.1
/// connection of its own; `fields` beside `Connection: close`.
///
/// # Errors
/// When the answer is not whole, or comes in chunks (the apps here say a length, and so do refusals).
pub async fn raw(address: &Address, target: &str, fields: &[(&str, &str)]) -> Result<Response> {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    let exchange = async {
        let mut stream = address.connect().await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(Bytes::from(answer))
    };
    let answer = timeout(LIMIT, exchange).await.context("no whole answer in time").flatten().context(request.clone())?;
    parse(&answer).with_context(|| format!("{request}{}", String::from_utf8_lossy(&answer)))
}

/// A whole HTTP/1.1 answer with `Content-Length`.
fn parse(answer: &Bytes) -> Result<Response> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|bytes| bytes == END).context("no end of the head")?;
    let head = std::str::from_utf8(answer.get(..end).unwrap_or_default())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').context("no field")?;
        headers.append(name.parse::<HeaderName>()?, value.trim().parse()?);
    }
    let body = answer.slice(end + END.len()..);
    let length: usize = headers.get("content-length").context("no length")?.to_str()?.parse()?;
    ensure!(body.len() == length, "{} of {length} bytes", body.len());
    Ok(Response { status, headers, body, trailers: HeaderMap::new() })
}

/// A gRPC-shaped call: messages with the 5-byte prefix on an HTTP/2 stream that stays open both ways.
#[derive(Debug)]
pub struct GrpcCall {
    messages: mpsc::Sender<Bytes>,
    body: Incoming,
    read: BytesMut,
    trailers: HeaderMap,
}

impl GrpcCall {
    /// Opens a call on a connection of its own and waits for the response headers.
    ///
    /// # Errors
    /// When the answer is not `200` with a gRPC content type.
    pub async fn open(address: &Address, path: &str) -> Result<Self> {
        let (messages, mut queue) = mpsc::channel::<Bytes>(1);
        let frames = stream::poll_fn(move |context| queue.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))));
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(BodyExt::boxed(StreamBody::new(frames)))?;
        let mut client = HttpClient::http2(address).await?;
        let response = timeout(LIMIT, client.start(request)).await.context("no response headers in time")??;
        ensure!(response.status() == 200, "{}", response.status());
        ensure!(response.headers().get("content-type").is_some_and(|kind| kind == "application/grpc"), "{:?}", response.headers());
        let trailers_only = if response.headers().contains_key("grpc-status") {
            // gRPC's "Trailers-Only" is one HEADERS frame that ends the stream; other clients want trailers otherwise.
            ensure!(response.body().is_end_stream(), "grpc-status in a head that does not end the stream: {:?}", response.headers());
            response.headers().clone()
        } else {
            HeaderMap::new()
        };
        Ok(Self { messages, body: response.into_body(), read: BytesMut::new(), trailers: trailers_only })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send(&self, message: &[u8]) -> Result<()> {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len().try_into()?);
        framed.put_slice(message);
        self.messages.send(framed.freeze()).await.context("the stream has ended")
    }

    /// The next message; `None` after the last.
    ///
    /// # Errors
    /// When the stream breaks, or ends in the middle of a message.
    pub async fn receive(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(prefix) = self.read.first_chunk::<5>() {
                let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                if self.read.len() >= 5 + length {
                    self.read.advance(5);
                    return Ok(Some(self.read.split_to(length).freeze()));
                }
            }
            match timeout(LIMIT, self.body.frame()).await.context("no message in time")? {
                Some(frame) => match frame?.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(frame) => self.trailers.extend(frame.into_trailers().unwrap_or_default()),
                },
                None if self.read.is_empty() => return Ok(None),
                None => bail!("ended inside a message"),
            }
        }
    }

    /// Ends the request, reads the rest, returns the messages not yet received and the trailers.
    ///
    /// # Errors
    /// As [`GrpcCall::receive`].
    pub async fn finish(mut self) -> Result<(Vec<Bytes>, HeaderMap)> {
        let (closed, _) = mpsc::channel(1);
        self.messages = closed;
        let mut rest = Vec::new();
        while let Some(message) = self.receive().await? {
            rest.push(message);
        }
        Ok((rest, self.trailers))
    }
}

/// Opens a WebSocket at `path`.
///
/// # Errors
/// When the handshake fails.
pub async fn websocket(address: &Address, path: &str) -> Result<WebSocketStream<Stream>> {
    let handshake = tokio_tungstenite::client_async(format!("ws://localhost{path}"), address.connect().await?);
    Ok(timeout(LIMIT, handshake).await.context("no handshake in time")??.0)
}
