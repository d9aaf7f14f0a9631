//! Certificates of names, as the public web has them. What makes them panics if OpenSSL refuses, which is no case of a test.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use anyhow::{Context, Result};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslContextBuilder, SslMethod, SslVersion};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder, X509NameRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_openssl::SslStream;

use crate::net::{Address, Stream};

/// An authority that browsers would trust.
#[derive(Debug)]
pub struct WebCa {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub crt: String,
    /// Its key, PKCS #8 PEM.
    pub key: String,
}

impl WebCa {
    /// A fresh root.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let key = ec_key();
        let name = named("test web root");
        let mut builder = builder(&key, &name, &name, 3650);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        let subject_key = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(subject_key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// The root's certificate, PEM.
    pub fn root_pem(&self) -> String {
        text(self.certificate.to_pem().unwrap())
    }

    /// A P-256 certificate for these DNS names and addresses, for 90 days.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_named("", names, ec_key(), 90)
    }

    /// The same with this common name and key, for so many days; without names there is no `subjectAltName`.
    pub fn issue_named(&self, common: &str, names: &[&str], key: PKey<Private>, days: u32) -> Pair {
        let mut builder = builder(&key, &named(common), self.certificate.subject_name(), days);
        let authority = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(authority).unwrap();
        builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build().unwrap()).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap()).unwrap();
        let mut san = SubjectAlternativeName::new();
        if common.is_empty() {
            san.critical();
        }
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(_) => san.ip(name),
                Err(_) => san.dns(name),
            };
        }
        if !names.is_empty() {
            let san = san.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
            builder.append_extension(san).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Pair { crt: text(builder.build().to_pem().unwrap()), key: text(key.private_key_to_pem_pkcs8().unwrap()) }
    }
}

/// A distinguished name with this common name; an empty one has none.
fn named(common: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    if !common.is_empty() {
        name.append_entry_by_text("CN", common).unwrap();
    }
    name.build()
}

fn builder(key: &PKey<Private>, subject: &X509NameRef, issuer: &X509NameRef, days: u32) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(days).unwrap()).unwrap();
    builder
}

/// A P-256 key.
pub fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).unwrap()
}

/// The certificate that a client sees which asks for `name`.
///
/// # Errors
/// When the handshake fails.
pub async fn shown(address: &Address, name: &str) -> Result<X509> {
    let stream = secure(address, Some(name), |_| Ok(())).await?;
    stream.ssl().peer_certificate().context("no certificate was shown")
}

/// A TLS 1.2 handshake that offers one suite alone, by OpenSSL's name; `None` asks for no name.
///
/// # Errors
/// When the server refuses it.
pub async fn handshake(address: &Address, name: Option<&str>, suite: &str) -> Result<()> {
    let offer = |context: &mut SslContextBuilder| {
        context.set_max_proto_version(Some(SslVersion::TLS1_2))?;
        // Whatever is offered is the client's free choice here: the server shall refuse.
        context.set_security_level(0);
        Ok(context.set_cipher_list(suite)?)
    };
    secure(address, name, offer).await.map(drop)
}

/// A TLS connection whose server is not verified.
///
/// # Errors
/// When `prepare` fails or the handshake does.
pub async fn secure(
    address: &Address,
    name: Option<&str>,
    prepare: impl FnOnce(&mut SslContextBuilder) -> Result<()>,
) -> Result<SslStream<Stream>> {
    let mut context = SslContext::builder(SslMethod::tls_client())?;
    prepare(&mut context)?;
    let mut session = Ssl::new(&context.build())?;
    if let Some(name) = name {
        session.set_hostname(name)?;
    }
    let mut stream = SslStream::new(session, address.connect().await?)?;
    Pin::new(&mut stream).connect().await?;
    Ok(stream)
}

/// An HTTPS app that answers 200 to everything, one request a connection; gives its address.
pub async fn https_app(pair: &Pair) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&X509::from_pem(pair.crt.as_bytes()).unwrap()).unwrap();
    acceptor.set_private_key(&PKey::private_key_from_pem(pair.key.as_bytes()).unwrap()).unwrap();
    let acceptor = acceptor.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let session = Ssl::new(acceptor.context()).unwrap();
            tokio::spawn(async move {
                let mut stream = SslStream::new(session, stream).unwrap();
                if Pin::new(&mut stream).accept().await.is_err() {
                    return;
                }
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    if !stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                        return;
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";
                if stream.write_all(answer).await.is_ok() {
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}
