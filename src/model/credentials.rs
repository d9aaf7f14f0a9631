//! What proves an identity: our leaf with its key, and the roots that we trust.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::FromDer,
};

use super::{
    identity::{IdentityError, SpiffeId, TrustDomain},
    secret::Secret,
};

/// One certificate in DER form. Prints as its length only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Certificate(Arc<[u8]>);

impl Certificate {
    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.0.len())
    }
}

/// Why certificates could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The PEM text holds no certificate, or one that cannot be parsed.
    #[error("{what}: {why}")]
    Certificate {
        /// Which certificate: "leaf", "root 2", …
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate does not carry exactly one URI SAN.
    #[error("the certificate has {0} URI names, not exactly one")]
    UriNames(usize),
    /// The URI SAN is not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn wrong(what: &str, why: impl fmt::Display) -> CredentialError {
    CredentialError::Certificate { what: what.to_owned(), why: why.to_string() }
}

/// All certificates of a PEM text, in its order.
///
/// # Errors
/// [`CredentialError::Certificate`] when there is none or one does not parse; `what` names it.
pub fn certificates(what: &str, pem: &str) -> Result<Vec<Certificate>, CredentialError> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|e| wrong(what, e))?;
        if block.label == "CERTIFICATE" {
            X509Certificate::from_der(&block.contents).map_err(|e| wrong(what, e))?;
            found.push(Certificate(block.contents.into()));
        }
    }
    if found.is_empty() {
        return Err(wrong(what, "no certificate in it"));
    }
    Ok(found)
}

/// The SPIFFE ID of a certificate: its one URI SAN (SPIFFE X.509-SVID, section 2: exactly one URI name).
///
/// # Errors
/// [`CredentialError`] when the certificate does not parse, has no or several URI names, or names no mesh workload.
pub fn spiffe_id(der: &[u8]) -> Result<SpiffeId, CredentialError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| wrong("certificate", e))?;
    // Every SAN extension counts: a second one must not hide a second name.
    let names = certificate.extensions().iter().filter_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uris: Vec<&str> = names.flatten().filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None }).collect();
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        others => Err(CredentialError::UriNames(others.len())),
    }
}

/// Our certificate chain and key: `GET /v1/agent/connect/ca/leaf/<service>`. The agent renews it; we only swap it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The leaf first, then the intermediates, as the agent sent them: the whole chain is presented, so that peers that
    /// know only an older root can verify it during a rotation.
    pub chain: Vec<Certificate>,
    /// The private key, SEC1 or PKCS#8 PEM.
    pub key: Secret,
    /// The identity in the leaf.
    pub id: SpiffeId,
    /// Hexadecimal serial number, as the certificate has it.
    pub serial: String,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
}

impl Leaf {
    /// Reads a leaf from the agent's two PEM texts. That the key belongs to the certificate is checked where keys are used.
    ///
    /// # Errors
    /// [`CredentialError`] when the chain does not parse or the first certificate carries no single SPIFFE ID of a service.
    pub fn parse(chain_pem: &str, key_pem: &str) -> Result<Self, CredentialError> {
        let chain = certificates("leaf", chain_pem)?;
        let first = chain.first().map(Certificate::der).unwrap_or_default();
        let id = spiffe_id(first)?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|e| wrong("leaf", e))?;
        let (serial, validity) = (parsed.raw_serial_as_string(), parsed.validity());
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { key: Secret::new(key_pem), id, serial, not_before, not_after, chain })
    }
}

impl Serialize for Leaf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map(|t| t.to_string()).unwrap_or_default();
        let mut shown = serializer.serialize_struct("Leaf", 6)?;
        shown.serialize_field("id", &self.id)?;
        shown.serialize_field("serial", &self.serial)?;
        shown.serialize_field("not_before", &time(self.not_before))?;
        shown.serialize_field("not_after", &time(self.not_after))?;
        shown.serialize_field("certificates", &self.chain.len())?;
        shown.serialize_field("key", &self.key)?;
        shown.end()
    }
}

/// The roots of the trust domain: `GET /v1/agent/connect/ca/roots`. Every listed root is trusted, active or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Roots {
    /// The cluster's trust domain.
    pub trust_domain: TrustDomain,
    /// The trusted certificates; never empty.
    pub certificates: Vec<Certificate>,
}

impl Roots {
    /// Reads roots from the agent's trust domain and PEM texts.
    ///
    /// # Errors
    /// [`CredentialError`] when there is no root at all (an empty list never means "trust anybody") or one does not parse.
    pub fn parse<'a>(trust_domain: &str, pems: impl IntoIterator<Item = &'a str>) -> Result<Self, CredentialError> {
        let trust_domain = TrustDomain::parse(trust_domain)?;
        let mut all = Vec::new();
        for (at, pem) in pems.into_iter().enumerate() {
            all.extend(certificates(&format!("root {at}"), pem)?);
        }
        if all.is_empty() {
            return Err(wrong("roots", "the list is empty"));
        }
        Ok(Self { trust_domain, certificates: all })
    }
}

impl Serialize for Roots {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut shown = serializer.serialize_struct("Roots", 2)?;
        shown.serialize_field("trust_domain", &self.trust_domain)?;
        shown.serialize_field("certificates", &self.certificates.len())?;
        shown.end()
    }
}

/// What one side of a handshake needs: our leaf and the roots, together, so that no mixture of two states is ever used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Our certificate and key.
    pub leaf: Leaf,
    /// Whom we trust.
    pub roots: Roots,
    /// Changes with every change of leaf or roots; part of the key of pooled connections, so that a connection made with
    /// an older identity is never reused.
    pub epoch: u64,
}

impl Identity {
    /// Joins leaf and roots; the epoch is a hash of both.
    pub fn new(leaf: Leaf, roots: Roots) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (&leaf, &roots).hash(&mut hasher);
        Self { leaf, roots, epoch: hasher.finish() }
    }
}
