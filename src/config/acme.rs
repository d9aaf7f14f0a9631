//! `acme:` of `main.yaml`, as plain values.

use std::{path::PathBuf, sync::Arc};

/// Where certificates are ordered when nothing else is said.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Certificates that an ACME server issues (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// URL of the server's directory; [`LETS_ENCRYPT`] by default.
    pub directory: String,
    /// PEM file with the roots to trust when it is called; `None` is the system's.
    pub roots: Option<PathBuf>,
    /// Whom the server may write to, `mailto:` and all.
    pub contacts: Vec<String>,
    /// How names are proved to be ours.
    pub challenge: AcmeChallenge,
    /// What is ordered; never empty.
    pub certificates: Vec<AcmeCertificate>,
    /// The folder of certificates (`proxy_certificates`), where `NAME.crt` and `NAME.key` are written, and the account beside them.
    pub folder: PathBuf,
}

/// How an ACME server checks a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// It asks for a path on port 80 (RFC 8555, section 8.3).
    #[default]
    Http01,
    /// It connects to port 443 with the protocol `acme-tls/1` (RFC 8737).
    TlsAlpn01,
}

/// One certificate that is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// The name of its files: its first domain.
    pub name: Arc<str>,
    /// Its DNS names, lower case; never empty.
    pub domains: Vec<Arc<str>>,
}
