//! Certificates of any shape, and mTLS peers that present them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
pub use openssl::ssl::SslVersion;
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslConnector, SslMethod, SslVerifyMode, select_next_proto};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder, X509Ref};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_openssl::SslStream;

use crate::net::{Address, Listener, Stream};

/// Longest wait for a peer that should answer or close.
const LIMIT: Duration = Duration::from_secs(10);
const DAY: i64 = 24 * 60 * 60;

/// A certificate authority.
#[derive(Clone, Debug)]
pub struct Ca {
    certificate: X509,
    key: PKey<Private>,
}

/// What a leaf says. The default is valid from two hours ago until tomorrow and names nobody.
#[derive(Clone, Debug, Default)]
pub struct Leaf {
    /// URI SANs.
    pub uris: Vec<String>,
    /// The leaf ended a minute ago.
    pub expired: bool,
}

impl Leaf {
    /// A leaf with one URI SAN.
    pub fn of(uri: impl Into<String>) -> Self {
        Self { uris: vec![uri.into()], expired: false }
    }
}

/// A certificate with its key, to be presented.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Ca {
    /// A self-signed root with the URI SAN `spiffe://<trust domain>`, as Consul's own roots have (P-256, 10 years).
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn new(trust_domain: &str) -> Result<Self> {
        let key = ec_key()?;
        let mut builder = certificate(&key, &format!("Test CA {trust_domain}"), 3650 * DAY)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().digital_signature().build()?)?;
        let san = SubjectAlternativeName::new().uri(&format!("spiffe://{trust_domain}")).build(&builder.x509v3_context(None, None))?;
        builder.append_extension(san)?;
        let subject_key = openssl::x509::extension::SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(subject_key)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: builder.build(), key })
    }

    /// Signs a leaf.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn issue(&self, leaf: &Leaf) -> Result<Identity> {
        let key = ec_key()?;
        let mut builder = certificate(&key, "", if leaf.expired { -60 } else { DAY })?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
        builder.append_extension(ExtendedKeyUsage::new().client_auth().server_auth().build()?)?;
        if !leaf.uris.is_empty() {
            let mut san = SubjectAlternativeName::new();
            for uri in &leaf.uris {
                san.uri(uri);
            }
            builder.append_extension(san.critical().build(&builder.x509v3_context(Some(&self.certificate), None))?)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(Identity { certificate: builder.build(), key })
    }

    /// Whether this CA's key signed `certificate`.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn signed(&self, certificate: &X509Ref) -> Result<bool> {
        Ok(certificate.verify(&self.key)?)
    }

    /// The certificate, PEM.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn certificate_pem(&self) -> Result<String> {
        Ok(String::from_utf8(self.certificate.to_pem()?)?)
    }

    /// The private key in SEC1 PEM, the form Consul takes.
    ///
    /// # Errors
    /// When OpenSSL refuses.
    pub fn key_pem(&self) -> Result<String> {
        Ok(String::from_utf8(self.key.ec_key()?.private_key_to_pem()?)?)
    }
}

/// A TLS client that accepts any server, presents `identity` if there is one, and sends no SNI.
///
/// With TLS 1.3 a client has finished before the server has judged its certificate: a refusal shows at the first read.
///
/// # Errors
/// When the handshake fails on this side.
pub async fn connect(address: &Address, identity: Option<&Identity>) -> Result<SslStream<Stream>> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_verify(SslVerifyMode::NONE);
    if let Some(identity) = identity {
        builder.set_certificate(&identity.certificate)?;
        builder.set_private_key(&identity.key)?;
    }
    let ssl = builder.build().configure()?.use_server_name_indication(false).verify_hostname(false).into_ssl("unused")?;
    let mut stream = SslStream::new(ssl, address.connect().await?)?;
    timeout(LIMIT, Pin::new(&mut stream).connect()).await.context("no handshake in time")??;
    Ok(stream)
}

/// Presents `identity`, sends `bytes`, and returns all plaintext that came back until the other side closed or reset. Empty when
/// the handshake was refused.
///
/// # Errors
/// When the other side neither answers nor closes.
pub async fn exchange(address: &Address, identity: Option<&Identity>, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut received = Vec::new();
    let Ok(mut stream) = connect(address, identity).await else { return Ok(received) };
    if stream.write_all(bytes).await.is_ok() {
        let reading = async { while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {} };
        timeout(LIMIT, reading).await.context("the connection stayed open")?;
    }
    Ok(received)
}

/// The certificate a server shows to a client without certificate and without SNI. It is read in the handshake, before the server
/// can refuse.
///
/// # Errors
/// When none was shown.
pub async fn shown_by(address: &Address) -> Result<X509> {
    shown_in(address, None).await
}

/// The same by a client that speaks one version of TLS only.
///
/// # Errors
/// As [`shown_by`]; a server that does not speak this version shows none.
pub async fn shown_in(address: &Address, version: Option<SslVersion>) -> Result<X509> {
    let shown = Arc::new(Mutex::new(None));
    let slot = shown.clone();
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(version)?;
    builder.set_max_proto_version(version)?;
    builder.set_verify_callback(SslVerifyMode::PEER, move |_, chain| {
        if chain.error_depth() == 0 {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = chain.current_cert().map(X509Ref::to_owned);
        }
        true
    });
    let ssl = builder.build().configure()?.use_server_name_indication(false).verify_hostname(false).into_ssl("unused")?;
    let mut stream = SslStream::new(ssl, address.connect().await?)?;
    let handshake = timeout(LIMIT, Pin::new(&mut stream).connect()).await.context("no handshake in time")?;
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    shown.with_context(|| format!("no server certificate; the handshake: {handshake:?}"))
}

/// The URI SANs of a certificate.
pub fn uris(certificate: &X509Ref) -> Vec<String> {
    let names = certificate.subject_alt_names();
    names.iter().flatten().filter_map(|name| name.uri().map(str::to_owned)).collect()
}

/// An mTLS server that presents any certificate, accepts any client and its protocol (ALPN), and keeps the plaintext it
/// receives. It answers nothing.
#[derive(Debug)]
pub struct RogueServer {
    finished: Arc<AtomicU64>,
    received: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl RogueServer {
    /// Listens on a port of 127.0.0.1, to stand where a sidecar is registered.
    ///
    /// # Errors
    /// When the port is taken or OpenSSL refuses.
    pub async fn start(port: u16, identity: &Identity) -> Result<Self> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        builder.set_certificate(&identity.certificate)?;
        builder.set_private_key(&identity.key)?;
        builder.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        builder.set_alpn_select_callback(|_, offered| select_next_proto(b"\x02h2\x08http/1.1", offered).ok_or(AlpnError::NOACK));
        let acceptor = builder.build();
        let listener = Listener::Tcp(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?);
        let finished = Arc::new(AtomicU64::new(0));
        let received = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let (count, sink) = (finished.clone(), received.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(stream) = listener.accept().await {
                let Ok(ssl) = Ssl::new(acceptor.context()) else { continue };
                connections.spawn(swallow(ssl, stream, count.clone(), sink.clone()));
            }
        });
        Ok(Self { finished, received, _tasks: tasks })
    }

    /// TLS connections that have come and gone, whatever became of them. (Consul's TCP checks are none: they say no ClientHello.)
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// Plaintext received, over all connections.
    pub fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn swallow(ssl: Ssl, stream: Stream, finished: Arc<AtomicU64>, received: Arc<Mutex<Vec<u8>>>) {
    let Ok(mut stream) = SslStream::new(ssl, stream) else { return };
    if Pin::new(&mut stream).accept().await.is_ok() {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            received.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    }
    // The client's random number stays zero until a ClientHello has come.
    let mut random = [0; 32];
    stream.ssl().client_random(&mut random);
    if random != [0; 32] {
        finished.fetch_add(1, Ordering::Relaxed);
    }
}

fn ec_key() -> Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}

/// A certificate that names its own key and subject, valid from two hours ago for `seconds` from now.
fn certificate(key: &PKey<Private>, common_name: &str, seconds: i64) -> Result<X509Builder> {
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    let mut name = X509NameBuilder::new()?;
    if !common_name.is_empty() {
        name.append_entry_by_text("CN", common_name)?;
    }
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(63, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(Asn1Time::from_unix(now - 2 * 60 * 60)?.as_ref())?;
    builder.set_not_after(Asn1Time::from_unix(now + seconds)?.as_ref())?;
    Ok(builder)
}
