//! The service certificate: `GET /v1/agent/connect/ca/leaf/<service>`.

use crate::query::{Blocking, Query, Tenancy, path};
use crate::wire::{Secret, wire};

/// Asks for the certificate and key of a service; the agent makes and renews them. Needs `service:write` on it.
///
/// A held query returns with the new pair on renewal (60 % to 90 % of the lifetime) and on CA rotation. The first one
/// may be answered 429: signing is rate-limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The service's name.
    pub service: String,
    /// Where the service lives.
    pub tenancy: Tenancy,
}

impl Query for Leaf {
    type Reply = LeafCert;

    fn path(&self) -> String {
        path("/v1/agent/connect/ca/leaf", &self.service)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        self.tenancy.params()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

wire! {
    /// A leaf certificate with its key.
    pub struct LeafCert {
        /// Serial number, hexadecimal.
        pub serial_number: String,
        /// The leaf in PEM, then the intermediates its readers may need: send all of them.
        #[serde(rename = "CertPEM")]
        pub cert_pem: String,
        /// The private key in PEM: SEC1 (`EC PRIVATE KEY`) for the agent's EC P-256 keys.
        #[serde(rename = "PrivateKeyPEM")]
        pub private_key_pem: Secret,
        /// The service's name.
        pub service: String,
        /// The SPIFFE ID: the certificate's only subject alternative name.
        #[serde(rename = "ServiceURI")]
        pub service_uri: String,
        /// Start of validity, RFC 3339; one minute before signing.
        pub valid_after: String,
        /// End of validity, RFC 3339; 72 h after the start unless configured otherwise.
        pub valid_before: String,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }
}
