//! Connections to servers for probes and detection: what real traffic would do, by the same library and with the same roots.

use std::{io, pin::Pin};

use openssl::{
    error::ErrorStack,
    pkey::PKey,
    ssl::{SslConnector, SslMethod, SslVerifyMode},
    x509::{X509, X509VerifyResult, store::X509StoreBuilder},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_openssl::SslStream;

use crate::{
    model::{
        ingress::pool::{ProxyHeader, ServerTls},
        listener::Address,
    },
    trust::system_roots,
};

/// ALPN of servers that may speak either version, and of those that must speak HTTP/2.
pub const EITHER: &[u8] = b"\x02h2\x08http/1.1";
/// See [`EITHER`].
pub const ONLY_H2: &[u8] = b"\x02h2";

/// A PROXY header, version 2, that says that the proxy itself speaks (`LOCAL`).
const PROXY_V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Why a server could not be asked, or did not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// Its certificate is not to be trusted.
    #[error("its certificate cannot be verified: {0}")]
    Unverified(String),
    /// It speaks TLS, but no handshake succeeds.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// It answered something else, or broke off.
    #[error("{0}")]
    Answer(String),
    /// No answer in time.
    #[error("no answer in time")]
    Silent,
}

/// A byte stream to a server.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Dials one server.
#[derive(Debug)]
pub struct Dialer {
    address: Address,
    /// What TLS sends and compares.
    name: String,
    verify: bool,
    proxy_header: Option<ProxyHeader>,
    connector: SslConnector,
}

impl Dialer {
    /// For the server at `address`, whose name as configured is `name`.
    ///
    /// # Errors
    /// When a certificate or key of `tls` cannot be used.
    pub fn new(address: Address, name: &str, tls: &ServerTls, proxy_header: Option<ProxyHeader>) -> Result<Self, ErrorStack> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        let mut store = X509StoreBuilder::new()?;
        if tls.roots.is_empty() {
            system_roots().iter().try_for_each(|root| store.add_cert(root.clone()))?;
        }
        for root in &tls.roots {
            store.add_cert(X509::from_der(root.der())?)?;
        }
        builder.set_cert_store(store.build());
        if let Some((chain, key)) = &tls.client {
            let mut chain = chain.iter().map(|certificate| X509::from_der(certificate.der()));
            if let Some(leaf) = chain.next() {
                builder.set_certificate(&*leaf?)?;
            }
            chain.try_for_each(|issuer| builder.add_extra_chain_cert(issuer?))?;
            builder.set_private_key(&*PKey::private_key_from_pem(key.expose().as_bytes())?)?;
        }
        let name = tls.name.as_deref().unwrap_or(name).to_owned();
        Ok(Self { address, name, verify: tls.verify, proxy_header, connector: builder.build() })
    }

    /// A connection in clear, its PROXY header sent.
    pub async fn clear(&self) -> Result<Box<dyn Io>, Failure> {
        let unreachable = |e: io::Error| Failure::Unreachable(e.to_string());
        let mut stream: Box<dyn Io> = match &self.address {
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await.map_err(unreachable)?),
            Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(unreachable)?),
        };
        let header: &[u8] = match self.proxy_header {
            None => return Ok(stream),
            Some(ProxyHeader::V1) => b"PROXY UNKNOWN\r\n",
            Some(ProxyHeader::V2) => PROXY_V2_LOCAL,
        };
        stream.write_all(header).await.map_err(unreachable)?;
        Ok(stream)
    }

    /// A connection with TLS, verified as real traffic is; and whether HTTP/2 was agreed on.
    pub async fn tls(&self, alpn: &[u8]) -> Result<(Box<dyn Io>, bool), Failure> {
        let stream = self.handshake(alpn, self.verify).await?;
        let is_h2 = stream.ssl().selected_alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), is_h2))
    }

    /// Whether it speaks TLS at all, whatever its certificate: a handshake succeeds, or is refused by an alert (a client certificate is wanted, say).
    pub async fn speaks_tls(&self) -> bool {
        matches!(self.handshake(EITHER, false).await, Ok(_) | Err(Failure::Handshake(_)))
    }

    async fn handshake(&self, alpn: &[u8], verify: bool) -> Result<SslStream<Box<dyn Io>>, Failure> {
        let own = |e: ErrorStack| Failure::Answer(e.to_string());
        let mut configuration = self.connector.configure().map_err(own)?.verify_hostname(verify);
        configuration.set_verify(if verify { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
        configuration.set_alpn_protos(alpn).map_err(own)?;
        let ssl = configuration.into_ssl(&self.name).map_err(own)?;
        let mut stream = SslStream::new(ssl, self.clear().await?).map_err(own)?;
        match Pin::new(&mut stream).connect().await {
            Ok(()) => Ok(stream),
            Err(error) => {
                let verdict = stream.ssl().verify_result();
                let refused = error.ssl_error().is_some_and(|stack| stack.errors().iter().any(is_alert));
                Err(if verify && verdict != X509VerifyResult::OK {
                    Failure::Unverified(verdict.error_string().to_owned())
                } else if refused {
                    Failure::Handshake(error.to_string())
                } else {
                    Failure::Answer(format!("it speaks no TLS: {error}"))
                })
            }
        }
    }
}

/// Whether an error is an alert of the other side.
fn is_alert(error: &openssl::error::Error) -> bool {
    error.reason().is_some_and(|reason| reason.contains("alert"))
}
