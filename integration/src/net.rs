//! One way to dial and to listen, over TCP and Unix sockets.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

/// Where something listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// `127.0.0.1:8080` or `unix:/path`, as the reverse proxy's configuration has it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// `127.0.0.1:port`.
    pub fn port(port: u16) -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(&self) -> Result<Stream> {
        self.dial().await.with_context(|| format!("connect to {self:?}"))
    }

    /// Opens a TCP connection that comes from `source` (any of 127.0.0.0/8 is ours).
    ///
    /// # Errors
    /// As [`Address::connect`], and for a Unix socket.
    pub async fn connect_from(&self, source: Ipv4Addr) -> Result<Stream> {
        let Self::Tcp(address) = self else { bail!("{self:?} has no source address") };
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((source, 0)))?;
        Ok(Box::new(socket.connect(*address).await?))
    }

    async fn dial(&self) -> Result<Stream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

/// A byte stream of either kind.
pub type Stream = Box<dyn Duplex>;

/// What a [`Stream`] can do.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A listening socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix socket listener.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a port of 127.0.0.1 that the kernel chooses; says which.
    ///
    /// # Errors
    /// When binding fails.
    pub async fn loopback() -> Result<(Self, Address)> {
        Self::at(Ipv4Addr::LOCALHOST).await
    }

    /// Listens on a port of an address of this host that the kernel chooses; says which.
    ///
    /// # Errors
    /// When binding fails.
    pub async fn at(ip: Ipv4Addr) -> Result<(Self, Address)> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let address = Address::Tcp(listener.local_addr()?);
        Ok((Self::Tcp(listener), address))
    }

    /// Listens on a Unix socket.
    ///
    /// # Errors
    /// When the path exists or its folder does not.
    pub fn unix(path: impl Into<PathBuf>) -> Result<(Self, Address)> {
        let path = path.into();
        let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        Ok((Self::Unix(listener), Address::Unix(path)))
    }

    /// Takes the next connection.
    ///
    /// # Errors
    /// As the kernel's accept.
    pub async fn accept(&self) -> Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}
