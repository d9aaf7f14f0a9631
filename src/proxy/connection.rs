//! A connection that a client made to us: our own IO type for Pingora, and what belongs to the connection.
//!
//! Why our own: Pingora's stream from an accepted socket has no buffers (one system call for each small read and write), its h2c
//! sniff waits for 24 bytes without a limit, and its sessions have no place for what a listener knows. Ours has small buffers,
//! remembers what the sniff read, and carries a [`Context`] that HTTP/1 and HTTP/2 sessions find in their digest.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context as Poller, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use pingora_core::{
    protocols::{
        Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID, UniqueIDType,
        raw_connect::ProxyDigest, tls::SslStream,
    },
    tls::ssl::Ssl as TlsSession,
};
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, BufStream, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{Instant, Sleep, timeout},
};

use self::framing::Framing;
use super::{live::Live, tls::Peer, trace::Greeting};
use crate::model::intention::{Denied, Intentions, Verdict};

mod framing;
mod head;
mod linger;
mod read;
mod tunnel;
mod upload;

pub use head::Head;
pub use tunnel::Tunnel;
pub use upload::Upload;

/// Read buffer of a connection, bytes: whole requests of ordinary size in one read; larger reads bypass it.
const READ_BUFFER: usize = 4096;
/// How much of a request is taken in while the answer to it is stuck, bytes.
const READ_AHEAD: usize = 16 << 20;
/// Write buffer of a connection, bytes: head and a small body in one write.
const WRITE_BUFFER: usize = 4096;
/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket as accepted, of either family.
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

macro_rules! each {
    ($self:expr, $s:ident => $call:expr) => {
        match $self {
            Self::Tcp($s) => $call,
            Self::Unix($s) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Poller<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Poller<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}

/// What belongs to a connection rather than to a request.
pub struct Context {
    /// Counts the connections of this process.
    pub id: u64,
    /// The listener in its current form: each request pins it once.
    pub live: Arc<ArcSwap<Live>>,
    /// The mesh peer, on inbound connections.
    pub peer: Option<Peer>,
    /// The client's address; `None` on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// The address that the client called; `None` on a Unix socket.
    pub local: Option<SocketAddr>,
    /// The name the client asked for in TLS.
    pub server_name: Option<String>,
    /// The version of TLS that is spoken.
    pub tls_version: Option<&'static str>,
    /// The client's certificate, if it showed one to an ingress listener: the element for `x-forwarded-client-cert`.
    pub certificate: Option<String>,
    /// The SPIFFE ID in that certificate.
    pub source: Option<String>,
    /// When it came about.
    pub greeting: Greeting,
    /// Set once the connection drains: the answer in flight is the last.
    pub draining: Arc<AtomicBool>,
    /// The tunnel (WebSocket) that a request on it became.
    pub tunnel: Tunnel,
    /// The body of the request in flight; only for HTTP/1.
    pub upload: Arc<Upload>,
    /// When the answer to the request in flight is overdue, where nothing else watches over that; only for HTTP/1.
    overdue: Mutex<Option<Instant>>,
    /// Counts the requests.
    heard: AtomicU64,
    /// What was wrong with the body of the request in flight; the connection ends with it.
    malformed: OnceLock<&'static str>,
    judged: ArcSwapOption<Judged>,
}

/// A verdict with the intentions that gave it.
struct Judged {
    intentions: Arc<Intentions>,
    verdict: Verdict,
}

impl Context {
    /// The context of a new connection.
    pub fn new(live: Arc<ArcSwap<Live>>, remote: Option<SocketAddr>, local: Option<SocketAddr>, draining: Arc<AtomicBool>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let (peer, server_name, tls_version, certificate, source, tunnel, upload, overdue, heard, malformed, judged) = Default::default();
        Self {
            id,
            live,
            peer,
            remote,
            local,
            server_name,
            tls_version,
            certificate,
            source,
            greeting: Greeting::default(),
            draining,
            tunnel,
            upload,
            overdue,
            heard,
            malformed,
            judged,
        }
    }

    /// From `at` on, reading from the client fails: the exchange in flight ends, which Pingora (0.9.1) cannot be told in another way while it waits for
    /// an endpoint.
    pub fn overdue_at(&self, at: Option<Instant>) {
        *self.overdue.lock() = at;
    }

    /// Counts a request that was understood.
    pub fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// What was wrong with the body of the request in flight: Pingora tells it as a client that left.
    pub fn malformed(&self) -> Option<&'static str> {
        self.malformed.get().copied()
    }

    /// What the intentions say about this connection's peer. Found once for each change of the intentions, not for each request; a connection
    /// without an identified peer is never let through.
    pub fn judge(&self, intentions: &Arc<Intentions>) -> Verdict {
        if let Some(known) = &*self.judged.load()
            && Arc::ptr_eq(&known.intentions, intentions)
        {
            return known.verdict.clone();
        }
        let verdict = self.peer.as_ref().map_or(Verdict::Denied(Denied::NotAService), |peer| intentions.judge(&peer.id));
        self.judged.store(Some(Arc::new(Judged { intentions: intentions.clone(), verdict: verdict.clone() })));
        verdict
    }

    /// The context of a session's connection.
    pub fn of(digest: Option<&Digest>) -> Option<&Arc<Self>> {
        digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }
}

enum Transport {
    Plain(BufStream<Socket>),
    Tls(Box<SslStream<BufStream<Socket>>>),
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.x, or something that its parser will refuse.
    Http1,
    /// HTTP/2 by prior knowledge or ALPN.
    Http2,
    /// The client left, or said nothing in time.
    Nothing,
}

/// The connection as Pingora sees it. It does not show itself as TLS: the identity travels in [`Context`], and whether HTTP/2 is
/// spoken is told by the first bytes, which also serves clients that negotiated no ALPN.
pub struct Connection {
    transport: Transport,
    /// What was read before anybody asked for it, by [`Connection::sniff`] or ahead.
    ahead: BytesMut,
    /// Whether to read ahead while a write is stuck, see [`Connection::read_ahead`].
    reads_ahead: bool,
    /// The client has sent all it will send.
    ended: bool,
    /// The request in flight.
    framing: Framing,
    /// Its last byte, kept back while too much before it waits, see [`Upload`].
    last: Option<u8>,
    digest: Option<Arc<ProxyDigest>>,
    context: Option<Arc<Context>>,
    /// Rings when the exchange in flight is overdue.
    alarm: Option<Pin<Box<Sleep>>>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Connection {
    /// A connection in clear.
    pub fn plain(socket: BufStream<Socket>) -> Self {
        Self::over(Transport::Plain(socket))
    }

    fn over(transport: Transport) -> Self {
        let (ahead, framing, last, digest, context, alarm, received, sent) = Default::default();
        Self { transport, ahead, reads_ahead: false, ended: false, framing, last, digest, context, alarm, received, sent }
    }

    /// A TLS connection, after the server's side of the handshake.
    ///
    /// # Errors
    /// The handshake's failure, in words.
    pub async fn accept_tls(socket: BufStream<Socket>, session: TlsSession, limit: Duration) -> Result<Self, String> {
        let stream = SslStream::new(session, socket).map_err(|e| e.to_string())?;
        // A connection from here on, so that an alert reaches the client as an answer does.
        let mut connection = Self::over(Transport::Tls(Box::new(stream)));
        let Transport::Tls(stream) = &mut connection.transport else { return Ok(connection) };
        match timeout(limit, stream.accept()).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("the client did not finish the handshake within {limit:?}")),
        }
    }

    /// What belongs to it, once that is attached.
    pub fn context(&self) -> Option<&Arc<Context>> {
        self.context.as_ref()
    }

    /// The TLS session, if there is one.
    pub fn tls(&self) -> Option<&openssl::ssl::SslRef> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => Some(stream.ssl()),
        }
    }

    /// Attaches the context that sessions of this connection will find.
    ///
    /// # Errors
    /// Never in practice: Pingora's digest wants a response header, which is made here.
    pub fn attach(&mut self, context: Arc<Context>) -> pingora_core::Result<()> {
        let header = Box::new(ResponseHeader::build(200, None)?);
        self.digest = Some(Arc::new(ProxyDigest::new(header, Some(Box::new(context.clone())))));
        self.context = Some(context);
        Ok(())
    }

    /// Reads until the first bytes tell HTTP/2 from everything else, at most for `limit`.
    pub async fn sniff(&mut self, limit: Duration) -> Spoken {
        let reading = async {
            while self.ahead.len() < PREFACE.len() {
                let mut bytes = [0; PREFACE.len()];
                let room = bytes.get_mut(self.ahead.len()..).unwrap_or_default();
                let read = match self.read_transport(room).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                self.ahead.extend_from_slice(room.get(..read).unwrap_or_default());
                if !PREFACE.starts_with(&self.ahead) {
                    return Spoken::Http1;
                }
            }
            match self.ahead.len() {
                0 => Spoken::Nothing,
                n if n == PREFACE.len() => Spoken::Http2,
                _ => Spoken::Http1,
            }
        };
        timeout(limit, reading).await.unwrap_or(Spoken::Nothing)
    }

    async fn read_transport(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.transport {
            Transport::Plain(stream) => stream.read(into).await,
            Transport::Tls(stream) => stream.read(into).await,
        };
        self.ended |= !matches!(read, Ok(1..));
        read
    }

    /// Waits until the client sends something; what came is kept for the next reader. `false` when it left.
    pub async fn readable(&mut self) -> bool {
        !self.ahead.is_empty() || matches!(self.fill().await, Ok(1..))
    }

    /// Notes bytes that passed in one direction.
    fn moved(&self, direction: &AtomicU64, bytes: usize) {
        // A poll that brought nothing is no life.
        if bytes == 0 {
            return;
        }
        direction.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(context) = &self.context {
            context.tunnel.moved();
        }
    }

    /// Bytes read from the client so far, in clear.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes written to the client so far, in clear.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Gives a socket the small buffers that connections have.
pub fn buffered(socket: Socket) -> BufStream<Socket> {
    BufStream::with_capacity(READ_BUFFER, WRITE_BUFFER, socket)
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Poller<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        match &done {
            Poll::Ready(Ok(written)) => {
                this.moved(&this.sent, *written);
            }
            Poll::Pending => this.poll_ahead_of_write(cx),
            Poll::Ready(Err(_)) => {}
        }
        done
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        if done.is_pending() {
            this.poll_ahead_of_write(cx);
        }
        done
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("tls", &self.tls().is_some()).field("ahead", &self.ahead.len()).finish()
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        self.leave().await;
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        // Only pools of upstream connections ask for it.
        0
    }
}

impl Ssl for Connection {}

#[async_trait]
impl Peek for Connection {
    /// Pingora asks for the HTTP/2 preface: [`Connection::sniff`] has it already, or it is not there.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let there = self.ahead.len() == buf.len();
        if there {
            buf.copy_from_slice(&self.ahead);
        }
        Ok(there)
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.digest.clone()
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[cfg(test)]
mod tests;
