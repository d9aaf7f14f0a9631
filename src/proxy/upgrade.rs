//! Connections to endpoints for requests that ask for a WebSocket.
//!
//! Pingora (0.9.1, `proxy_handle_upstream`) waits for two things at once: the endpoint's answer, and the end of the request, which is there from the start
//! when a request has no body. If both are ready and it happens to take a 101 first, it takes the end of the request for the end of the tunnel and hangs
//! up. So on these connections the answer cannot be read before the end of the request was taken: that flushes the connection once more, with nothing
//! written since the head was.
//!
//! Such a connection is made for its request, and not kept: Pingora's pool tells connections apart by a file descriptor that it does not show.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    Error, ErrorType, OrErr,
    connectors::L4Connect,
    protocols::{
        ALPN,
        l4::{
            socket::SocketAddr,
            stream::Stream,
            virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
        },
    },
    upstreams::peer::HttpPeer,
};
use pingora_http::RequestHeader;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{connection::Socket, gate::hop::is_websocket};

/// Bytes pass: before the request (a TLS handshake), and after its end.
const OPEN: u8 = 0;
/// The request's head is being written.
const HEAD: u8 = 1;
/// It was flushed; its end was not taken yet.
const SENT: u8 = 2;

/// The state of one such connection.
#[derive(Default)]
pub struct Upgrade {
    state: AtomicU8,
    reader: Mutex<Option<Waker>>,
}

impl Upgrade {
    /// The request follows.
    pub fn begin(&self) {
        self.state.store(HEAD, Ordering::Release);
    }

    /// The connection was flushed; `written` tells whether anything was written before.
    fn flushed(&self, written: bool) {
        match self.state.load(Ordering::Acquire) {
            HEAD if written => self.state.store(SENT, Ordering::Release),
            SENT if !written => {
                self.state.store(OPEN, Ordering::Release);
                if let Some(reader) = self.reader.lock().take() {
                    reader.wake();
                }
            }
            _ => {}
        }
    }

    fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }
}

/// Prepares the way to an endpoint for a request that asks for a WebSocket; `None` if it does not.
pub fn prepare(peer: &mut HttpPeer, request: &RequestHeader) -> Option<Arc<Upgrade>> {
    if peer.options.alpn != ALPN::H1 || !is_websocket(request) {
        return None;
    }
    let upgrade = Arc::<Upgrade>::default();
    let limit = peer.options.connection_timeout.unwrap_or(Duration::MAX);
    peer.options.custom_l4 = Some(Arc::new(Dialer { upgrade: upgrade.clone(), limit }));
    // A group of its own: no connection is taken from the pool, and none that was put there lives on.
    peer.group_key = fastrand::u64(..);
    peer.options.idle_timeout = Some(Duration::ZERO);
    Some(upgrade)
}

#[derive(Debug)]
struct Dialer {
    upgrade: Arc<Upgrade>,
    limit: Duration,
}

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, address: &SocketAddr) -> pingora_core::Result<Stream> {
        let connecting = async {
            match address {
                SocketAddr::Inet(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    io::Result::Ok(Socket::Tcp(stream))
                }
                SocketAddr::Unix(address) => {
                    let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
                    Ok(Socket::Unix(UnixStream::connect(path).await?))
                }
            }
        };
        let connected = timeout(self.limit, connecting).await;
        let connected = connected.map_err(|_| Error::explain(ErrorType::ConnectTimedout, format!("no connection to {address} in time")))?;
        let socket = connected.or_err_with(ErrorType::ConnectError, || format!("no connection to {address}"))?;
        Ok(VirtualSocketStream::new(Box::new(Line { socket, upgrade: self.upgrade.clone(), written: false })).into())
    }
}

/// The connection.
struct Line {
    socket: Socket,
    upgrade: Arc<Upgrade>,
    /// Whether anything was written since the last flush.
    written: bool,
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.upgrade.is_open() {
            *this.upgrade.reader.lock() = Some(cx.waker().clone());
            // It may have been opened meanwhile, by whoever then found nobody to wake.
            if !this.upgrade.is_open() {
                return Poll::Pending;
            }
        }
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.socket).poll_write(cx, buf);
        this.written |= matches!(done, Poll::Ready(Ok(1..)));
        done
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.socket).poll_flush(cx);
        if let Poll::Ready(Ok(())) = done {
            this.upgrade.flushed(std::mem::take(&mut this.written));
        }
        done
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for Line {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("upgrade", &self.upgrade).finish_non_exhaustive()
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The interleaving of the defect: the 101 is there before the end of the request is taken.
    #[tokio::test]
    async fn an_answer_cannot_be_read_before_the_end_of_the_request() {
        let (ours, mut endpoint) = UnixStream::pair().unwrap();
        let upgrade = Arc::<Upgrade>::default();
        let mut line = Line { socket: Socket::Unix(ours), upgrade: upgrade.clone(), written: false };
        // A handshake passes.
        line.write_all(b"hello").await.unwrap();
        line.flush().await.unwrap();
        endpoint.write_all(b"h").await.unwrap();
        assert_eq!(line.read_u8().await.unwrap(), b'h');

        upgrade.begin();
        line.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        line.flush().await.unwrap();
        endpoint.write_all(b"101").await.unwrap();
        let (mut read, mut write) = tokio::io::split(line);
        let mut reading = tokio::spawn(async move { read.read_u8().await });
        assert!(timeout(Duration::from_millis(50), &mut reading).await.is_err(), "read before the end of the request");
        write.flush().await.unwrap();
        assert_eq!(timeout(Duration::from_secs(5), reading).await.expect("woken").unwrap().unwrap(), b'1');
    }
}
