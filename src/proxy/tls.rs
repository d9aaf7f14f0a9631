//! TLS in both directions, and the identity that comes out of it. Here is that of the mesh; that of ingress listeners is in [`names`].
//!
//! Inbound: a client certificate is required, chains to the roots, and carries exactly one SPIFFE ID of our trust domain; all of
//! that is checked inside the handshake. No session is ever resumed: a resumed one would skip these checks.
//! Outbound: SNI is always sent (an empty one would switch verification off in Pingora), host names are not compared (Consul's
//! leaves have none), and the server must show one of the expected SPIFFE IDs before a byte of a request leaves.

mod grade;
pub mod names;

use std::{net::IpAddr, sync::Arc, time::Duration};

use openssl::{
    error::ErrorStack,
    pkey::{PKey, Private},
    ssl::{
        AlpnError, SslAcceptor, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode,
        SslVersion, select_next_proto,
    },
    x509::{X509, X509StoreContextRef, store::X509StoreBuilder},
};
use pingora_core::utils::tls::CertKey;

use crate::model::{
    credentials::{self, Identity},
    identity::{SpiffeId, TrustDomain},
    listener::Protocol,
    mesh::{TlsBounds, TlsVersion},
};

/// How long a handshake may take before the connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The lowest version that is ever spoken, whatever the mesh entry says. Consul's own proxy has the same floor.
const FLOOR: TlsVersion = TlsVersion::V1_2;

/// TLS 1.2 suites that we offer to mesh peers: forward secrecy and AEAD, as Consul's built-in proxy accepts them.
const CLIENT_CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";

/// An identity, loaded once into what OpenSSL and Pingora want; shared by everything that uses it.
pub struct Keys {
    chain: Vec<X509>,
    key: PKey<Private>,
    roots: Vec<X509>,
    trust_domain: TrustDomain,
    /// For HTTP peers: certificate chain and key.
    pub cert_key: Arc<CertKey>,
    /// For HTTP peers: the roots.
    pub ca: Arc<Box<[X509]>>,
    /// The identity's epoch, part of every pool key.
    pub epoch: u64,
}

impl Keys {
    /// Loads an identity.
    ///
    /// # Errors
    /// What OpenSSL says when a certificate or the key cannot be loaded.
    pub fn load(identity: &Identity) -> Result<Self, ErrorStack> {
        let load = |list: &[credentials::Certificate]| list.iter().map(|c| X509::from_der(c.der())).collect::<Result<Vec<_>, _>>();
        let (chain, roots) = (load(&identity.leaf.chain)?, load(&identity.roots.certificates)?);
        let key = PKey::private_key_from_pem(identity.leaf.key.expose().as_bytes())?;
        Ok(Self {
            cert_key: Arc::new(CertKey::new(chain.clone(), key.clone())),
            ca: Arc::new(roots.clone().into_boxed_slice()),
            trust_domain: identity.roots.trust_domain.clone(),
            epoch: identity.epoch,
            chain,
            key,
            roots,
        })
    }

    /// What both directions have in common: our certificate, the roots, the versions, no resumption.
    fn prepare(&self, context: &mut SslContextBuilder, bounds: &TlsBounds) -> Result<(), ErrorStack> {
        let mut chain = self.chain.iter();
        if let Some(leaf) = chain.next() {
            context.set_certificate(leaf)?;
        }
        for intermediate in chain {
            context.add_extra_chain_cert(intermediate.clone())?;
        }
        context.set_private_key(&self.key)?;
        context.check_private_key()?;
        let mut store = X509StoreBuilder::new()?;
        for root in &self.roots {
            store.add_cert(root.clone())?;
        }
        context.set_cert_store(store.build());
        context.set_min_proto_version(Some(version(min_version(bounds))))?;
        context.set_max_proto_version(bounds.max.map(version))?;
        if !bounds.cipher_suites.is_empty() {
            context.set_cipher_list(&openssl_names(&bounds.cipher_suites))?;
        }
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        // An idle connection gives its record buffers (34 KiB) back.
        context.set_mode(SslMode::RELEASE_BUFFERS);
        context.set_options(SslOptions::NO_TICKET);
        Ok(())
    }

    /// What accepts connections of mesh peers. ALPN follows the protocol (Consul: `http` selects `http/1.1`; `http2` and `grpc`
    /// prefer `h2`; `tcp` selects none); a client that offers nothing in common is not refused, as with Envoy.
    ///
    /// # Errors
    /// What OpenSSL says, for example of a cipher suite it does not know.
    pub fn acceptor(&self, protocol: Protocol, bounds: &TlsBounds) -> Result<SslAcceptor, ErrorStack> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        self.prepare(&mut builder, bounds)?;
        builder.set_num_tickets(0)?;
        let trust_domain = self.trust_domain.clone();
        builder.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, move |fine, context| {
            fine && leaf_is(context, |id| id.trust_domain == trust_domain)
        });
        let offered: Option<&'static [u8]> = match protocol {
            Protocol::Tcp => None,
            Protocol::Http => Some(b"\x08http/1.1"),
            Protocol::Http2 | Protocol::Grpc => Some(b"\x02h2\x08http/1.1"),
        };
        if let Some(ours) = offered {
            builder.set_alpn_select_callback(move |_, theirs| select_next_proto(ours, theirs).ok_or(AlpnError::NOACK));
        }
        Ok(builder.build())
    }

    /// What dials mesh peers for opaque connections: the server's identity is compared inside the handshake.
    ///
    /// # Errors
    /// What OpenSSL says.
    pub fn dialer(&self, bounds: &TlsBounds, expected: Arc<[SpiffeId]>) -> Result<SslContext, ErrorStack> {
        // Not a connector: that would load the system's roots first.
        let mut builder = SslContext::builder(SslMethod::tls_client())?;
        builder.set_cipher_list(CLIENT_CIPHERS)?;
        self.prepare(&mut builder, bounds)?;
        builder.set_verify_callback(SslVerifyMode::PEER, move |fine, context| fine && leaf_is(context, |id| expected.contains(id)));
        Ok(builder.build())
    }
}

/// At depth 0 of a verification: whether the certificate carries one SPIFFE ID that passes. Elsewhere there is nothing to ask.
fn leaf_is(context: &mut X509StoreContextRef, passes: impl FnOnce(&SpiffeId) -> bool) -> bool {
    if context.error_depth() != 0 {
        return true;
    }
    let id = context.current_cert().and_then(|c| c.to_der().ok()).map(|der| credentials::spiffe_id(&der));
    let fine = matches!(&id, Some(Ok(id)) if passes(id));
    if !fine {
        context.set_error(openssl::x509::X509VerifyResult::APPLICATION_VERIFICATION);
        let shown = match &id {
            Some(Ok(id)) => id.to_string(),
            Some(Err(why)) => why.to_string(),
            None => "no certificate".to_owned(),
        };
        tracing::info!(identity = %shown, "refused a certificate of the mesh: not an identity that is expected here");
    }
    fine
}

fn version(version: TlsVersion) -> SslVersion {
    match version {
        TlsVersion::V1_0 | TlsVersion::V1_1 | TlsVersion::V1_2 => SslVersion::TLS1_2,
        TlsVersion::V1_3 => SslVersion::TLS1_3,
    }
}

/// The lowest version for a direction.
pub fn min_version(bounds: &TlsBounds) -> TlsVersion {
    bounds.min.unwrap_or(FLOOR).max(FLOOR)
}

/// OpenSSL's names for the TLS 1.2 suites that Consul's mesh entry may list by their IANA names.
fn openssl_names(suites: &[String]) -> String {
    let name = |suite: &String| {
        match suite.as_str() {
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => "ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => "ECDHE-ECDSA-AES256-GCM-SHA384",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => "ECDHE-RSA-AES128-GCM-SHA256",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => "ECDHE-RSA-AES256-GCM-SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-RSA-CHACHA20-POLY1305",
            "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA" => "ECDHE-ECDSA-AES128-SHA",
            "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA" => "ECDHE-ECDSA-AES256-SHA",
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA" => "ECDHE-RSA-AES128-SHA",
            "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA" => "ECDHE-RSA-AES256-SHA",
            other => other,
        }
        .to_owned()
    };
    suites.iter().map(name).collect::<Vec<_>>().join(":")
}

/// A mesh peer on the other end of an inbound connection, read from its certificate once.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// The element that this hop adds to `x-forwarded-client-cert`, made once a connection.
    pub xfcc: Option<String>,
}

/// The SPIFFE ID that the other side showed in this finished handshake.
pub fn shown_id(ssl: &SslRef) -> Option<SpiffeId> {
    let der = ssl.peer_certificate()?.to_der().ok()?;
    credentials::spiffe_id(&der).ok()
}

/// Whether a server that is known by its address alone has this address in its certificate (RFC 9110, section 4.3.5): Pingora (0.9.1) compares host names
/// only, which an address never is.
#[derive(Debug)]
pub struct AddressShown(pub bool);

impl AddressShown {
    /// Reads it from the handshake.
    pub fn of(ssl: &SslRef, address: IpAddr) -> Self {
        let certificate = ssl.peer_certificate();
        let names = certificate.and_then(|certificate| certificate.subject_alt_names());
        let is_it = |octets: &[u8]| match address {
            IpAddr::V4(address) => address.octets() == octets,
            IpAddr::V6(address) => address.octets() == octets,
        };
        Self(names.iter().flatten().filter_map(|name| name.ipaddress()).any(is_it))
    }
}

/// What a finished handshake towards a server left on the connection, for [`crate::proxy::http`] to compare.
#[derive(Debug)]
pub struct ServerIdentity {
    /// Who the server is, if it showed one SPIFFE ID.
    pub id: Option<SpiffeId>,
    /// The TLS version that was agreed; `None` for one below 1.2.
    pub version: Option<TlsVersion>,
}

impl ServerIdentity {
    /// Reads it from the handshake.
    pub fn of(ssl: &SslRef) -> Self {
        let version = match ssl.version2() {
            Some(SslVersion::TLS1_3) => Some(TlsVersion::V1_3),
            Some(SslVersion::TLS1_2) => Some(TlsVersion::V1_2),
            _ => None,
        };
        Self { id: shown_id(ssl), version }
    }
}
