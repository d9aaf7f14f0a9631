//! Certificates of names.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::model::{credentials::Certificate, secret::Secret};

/// How strictly TLS is spoken (`proxy_tls_grade`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsGrade {
    /// TLS 1.2 and 1.3, forward secrecy with AEAD only, 256-bit ciphers first; with HSTS it scores A+ by the rules of SSL Labs.
    High,
    /// A by the same rules.
    #[default]
    Medium,
    /// Whatever the library still speaks; never better than B.
    Unsafe,
}

/// A certificate chain with its key: `{NAME}.crt` and `{NAME}.key`.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificatePair {
    /// `NAME`.
    pub name: Arc<str>,
    /// The leaf, then the intermediates; never empty.
    pub chain: Vec<Certificate>,
    /// The private key, PEM.
    pub key: Secret,
    /// The DNS names and addresses of the leaf, lower case, `*.x` as written.
    pub names: Vec<Arc<str>>,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    /// What is stapled (`{NAME}.ocsp`).
    pub ocsp: Option<Staple>,
}

/// An OCSP answer that goes out with a certificate (RFC 6066, section 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// DER.
    pub answer: Arc<[u8]>,
    /// From when on clients take it no more, seconds since the Unix epoch.
    pub until: i64,
}

impl std::fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificatePair").field("name", &self.name).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Serialize for CertificatePair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("CertificatePair", 3)?;
        shown.serialize_field("name", &self.name)?;
        shown.serialize_field("names", &self.names)?;
        shown.serialize_field("not_after", &self.not_after)?;
        shown.end()
    }
}

/// All certificates of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Certificates {
    /// Sorted by their `name`.
    pub pairs: Vec<Arc<CertificatePair>>,
    /// The `name` of the one for clients that ask for none of the names, or for no name; `None` is the first by name.
    pub default: Option<Arc<str>>,
}

impl Certificates {
    /// What was added, renewed and removed since others were loaded, a line for each pair.
    pub fn changes_since(&self, old: &Self) -> Vec<String> {
        let find = |of: &Self, name: &str| of.pairs.iter().find(|pair| *pair.name == *name).cloned();
        let new = self.pairs.iter().filter_map(|pair| match find(old, &pair.name) {
            None => Some(format!("certificate {} added: {}", pair.name, pair.names.join(", "))),
            Some(known) if known != *pair => Some(format!("certificate {} renewed: {}", pair.name, pair.names.join(", "))),
            Some(_) => None,
        });
        let gone = old.pairs.iter().filter(|pair| find(self, &pair.name).is_none());
        new.chain(gone.map(|pair| format!("certificate {} removed", pair.name))).collect()
    }
}

/// What an ACME server asks for while it checks that names are ours (RFC 8555, section 8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Challenges {
    /// HTTP-01: the token of `/.well-known/acme-challenge/<token>` and its key authorisation.
    pub http: BTreeMap<Arc<str>, Arc<str>>,
    /// TLS-ALPN-01: the name and the certificate for protocol `acme-tls/1`.
    pub tls_alpn: BTreeMap<Arc<str>, Arc<CertificatePair>>,
}
