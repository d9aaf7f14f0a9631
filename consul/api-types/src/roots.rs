//! The CA's root certificates: `GET /v1/agent/connect/ca/roots`.

use crate::query::{Blocking, Query};
use crate::wire::wire;

/// Asks for the trusted roots. Needs no ACL rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Roots;

impl Query for Roots {
    type Reply = CaRoots;

    fn path(&self) -> String {
        "/v1/agent/connect/ca/roots".to_owned()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

wire! {
    /// All roots to trust: during a rotation the old and the new one.
    pub struct CaRoots {
        /// The ID of the root that signs now.
        #[serde(rename = "ActiveRootID")]
        pub active_root_id: String,
        /// The trust domain, `<cluster uuid>.consul`, lower case, without a scheme.
        pub trust_domain: String,
        /// The roots.
        pub roots: Vec<CaRoot>,
    }

    /// One root certificate.
    pub struct CaRoot {
        /// Fingerprint of the certificate.
        #[serde(rename = "ID")]
        pub id: String,
        /// Display name.
        pub name: String,
        /// Serial number as an unsigned integer.
        pub serial_number: u64,
        /// Key ID of the key that signs leaves (an intermediate's in a secondary datacenter), as colon-separated hex.
        #[serde(rename = "SigningKeyID")]
        pub signing_key_id: String,
        /// The trust domain (without `.consul`) this root belongs to.
        pub external_trust_domain: String,
        /// Start of validity, RFC 3339.
        pub not_before: String,
        /// End of validity, RFC 3339.
        pub not_after: String,
        /// The certificate in PEM.
        #[serde(rename = "RootCert")]
        pub root_cert_pem: String,
        /// Intermediates in PEM that complete chains: the cross-signed one after a rotation.
        #[serde(rename = "IntermediateCerts")]
        pub intermediate_certs_pem: Vec<String>,
        /// Whether this root signs now.
        pub active: bool,
        /// `ec` or `rsa`; old and new root may differ.
        pub private_key_type: String,
        /// Key size in bits.
        pub private_key_bits: u32,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }
}
