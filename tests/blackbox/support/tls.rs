//! mTLS peers made by hand: they present any leaf, trust everything, and show what the other side presented.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aralez_integration::clients::Response;
use aralez_integration::net::{Address, Stream};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use openssl::pkey::PKey;
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslConnector, SslContextBuilder, SslMethod, SslVerifyMode, SslVersion, select_next_proto};
use openssl::x509::X509;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::ca::Leaf;

/// Longest wait for a peer that should answer or close.
const LIMIT: Duration = Duration::from_secs(10);

/// An mTLS client.
#[derive(Clone, Copy, Default)]
pub struct Client<'a> {
    /// What it presents.
    pub leaf: Option<&'a Leaf>,
    /// The newest version it speaks; the library's newest if absent.
    pub newest: Option<SslVersion>,
    /// ALPN in wire form: each name with its length before it.
    pub alpn: &'a [u8],
}

impl<'a> Client<'a> {
    /// A client that presents `leaf`.
    pub fn with(leaf: &'a Leaf) -> Client<'a> {
        Client { leaf: Some(leaf), ..Client::default() }
    }

    /// Connects without SNI. Under TLS 1.3 this succeeds before the server has judged the client's certificate.
    pub async fn connect(&self, address: &Address) -> Result<SslStream<Stream>> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_max_proto_version(self.newest)?;
        if let Some(leaf) = self.leaf {
            present(&mut builder, leaf)?;
        }
        if !self.alpn.is_empty() {
            builder.set_alpn_protos(self.alpn)?;
        }
        let config = builder.build().configure()?.use_server_name_indication(false).verify_hostname(false);
        let mut stream = SslStream::new(config.into_ssl("unused")?, address.connect().await?)?;
        timeout(LIMIT, Pin::new(&mut stream).connect()).await.context("no handshake in time")??;
        Ok(stream)
    }

    /// Serial number of the certificate the server shows.
    pub async fn server_serial(&self, address: &Address) -> Result<u32> {
        let stream = self.connect(address).await?;
        let certificate = stream.ssl().peer_certificate().context("no certificate")?;
        let serial = certificate.serial_number().to_bn()?.to_dec_str()?.to_string();
        Ok(serial.parse()?)
    }

    /// Sends `bytes`; returns all plaintext until the other side closes. Empty if it refused.
    pub async fn exchange(&self, address: &Address, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut received = Vec::new();
        let Ok(mut stream) = self.connect(address).await else { return Ok(received) };
        if stream.write_all(bytes).await.is_ok() {
            let reading = async { while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {} };
            timeout(LIMIT, reading).await.context("the connection stayed open")?;
        }
        Ok(received)
    }

    /// Whether a server of protocol http answers this client's request with any status, and which.
    pub async fn status(&self, address: &Address) -> Result<Option<u16>> {
        let answer = self.exchange(address, b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n").await?;
        let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        Ok(status.map(|digits| String::from_utf8_lossy(digits).parse()).transpose()?)
    }

    /// An HTTP/1.1 connection that stays open.
    pub async fn http(&self, address: &Address) -> Result<KeptAlive> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect(address).await?)).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(KeptAlive(sender))
    }
}

/// One HTTP/1.1 connection over mTLS.
pub struct KeptAlive(SendRequest<Full<Bytes>>);

impl KeptAlive {
    /// `GET path` with more header fields.
    pub async fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Response> {
        let mut request = Request::get(path).header("host", "api");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.0.ready().await?;
        let answer = self.0.send_request(request.body(Full::default())?);
        let (parts, body) = timeout(LIMIT, answer).await.context("no answer in time")??.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response { status: parts.status, headers: parts.headers, body, trailers: http::HeaderMap::new() })
    }
}

/// A server that presents `leaf`, accepts any client, and counts the plaintext it gets. It answers nothing.
pub struct SilentServer {
    /// Where it listens.
    pub port: u16,
    connections: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl SilentServer {
    /// Listens on a free port.
    pub async fn start(leaf: &Leaf) -> SilentServer {
        let (listener, acceptor) = listen(leaf, b"").await;
        let port = listener.local_addr().unwrap().port();
        let (connections, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut accepting = JoinSet::new();
        let (count, sum) = (Arc::clone(&connections), Arc::clone(&bytes));
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (ssl, sum) = (Ssl::new(acceptor.context()).unwrap(), Arc::clone(&sum));
                count.fetch_add(1, Ordering::SeqCst);
                serving.spawn(async move {
                    let mut stream = SslStream::new(ssl, stream).unwrap();
                    if Pin::new(&mut stream).accept().await.is_ok() {
                        let mut buffer = [0; 4096];
                        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                            sum.fetch_add(read as u64, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        SilentServer { port, connections, bytes, _accepting: accepting }
    }

    /// Connections accepted, whatever became of the handshake.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Plaintext bytes received.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

/// An HTTP/1.1 server that presents `leaf`, accepts any client and answers every request with 200 and what came.
pub struct HttpServer {
    /// Where it listens.
    pub port: u16,
    connections: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl HttpServer {
    /// Listens on a free port.
    pub async fn start(leaf: &Leaf) -> HttpServer {
        let (listener, acceptor) = listen(leaf, b"").await;
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (ssl, count) = (Ssl::new(acceptor.context()).unwrap(), Arc::clone(&count));
                serving.spawn(async move {
                    let mut stream = SslStream::new(ssl, stream).unwrap();
                    if Pin::new(&mut stream).accept().await.is_ok() {
                        count.fetch_add(1, Ordering::SeqCst);
                        let echo = service_fn(async |request: Request<Incoming>| {
                            let body = request.into_body().collect().await?.to_bytes();
                            Ok::<_, hyper::Error>(http::Response::new(Full::new(body)))
                        });
                        // How a connection ends shows in the count of the next ones.
                        drop(server::Builder::new().serve_connection(TokioIo::new(stream), echo).await);
                    }
                });
            }
        });
        HttpServer { port, connections, _accepting: accepting }
    }

    /// Connections whose handshake was completed.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A socket, and what accepts TLS on it with `leaf` from anybody; `alpn` in wire form.
pub async fn listen(leaf: &Leaf, alpn: &'static [u8]) -> (TcpListener, SslAcceptor) {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    present(&mut builder, leaf).unwrap();
    builder.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    builder.set_alpn_select_callback(move |_, offered| select_next_proto(alpn, offered).ok_or(AlpnError::NOACK));
    (TcpListener::bind("127.0.0.1:0").await.unwrap(), builder.build())
}

fn present(builder: &mut SslContextBuilder, leaf: &Leaf) -> Result<()> {
    let chain = X509::stack_from_pem(leaf.cert_pem.as_bytes())?;
    let (certificate, intermediates) = chain.split_first().context("no certificate")?;
    builder.set_certificate(certificate)?;
    for intermediate in intermediates {
        builder.add_extra_chain_cert(intermediate.clone())?;
    }
    let key = PKey::private_key_from_pem(leaf.key_pem.as_bytes())?;
    builder.set_private_key(&key)?;
    Ok(())
}
