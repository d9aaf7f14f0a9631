//! What the mesh-wide entry (`GET /v1/config/mesh/mesh`) says to a sidecar.

use serde::Serialize;

use super::path::Normalization;

/// A TLS protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    /// TLS 1.0.
    #[serde(rename = "1.0")]
    V1_0,
    /// TLS 1.1.
    #[serde(rename = "1.1")]
    V1_1,
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Bounds of TLS for one direction. `None` is our default: 1.2 to 1.3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct TlsBounds {
    /// Lowest version.
    pub min: Option<TlsVersion>,
    /// Highest version.
    pub max: Option<TlsVersion>,
    /// TLS 1.2 suites by IANA name, in order of preference; empty leaves the default.
    pub cipher_suites: Vec<String>,
}

/// The mesh entry, as far as it is understood; its default is "no entry".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MeshConfig {
    /// For connections that peers make to us.
    pub incoming: TlsBounds,
    /// For connections that we make to peers.
    pub outgoing: TlsBounds,
    /// Remove `x-forwarded-client-cert` rather than append to it.
    pub sanitize_xfcc: bool,
    /// How requests that peers make to us are brought into one form.
    pub normalization: Normalization,
}
