//! Token issuers that intentions may require: the `jwt-provider` config entries.

use std::collections::BTreeMap;

use crate::config_entry::ConfigKind;
use crate::duration::{GoDuration, as_nanos};
use crate::wire::wire;

impl ConfigKind for JwtProvider {
    const KIND: &'static str = "jwt-provider";
}

wire! {
    /// A `jwt-provider` entry. Readable with `service:write` on any service.
    pub struct JwtProvider {
        /// `jwt-provider`.
        pub kind: String,
        /// The name intentions use.
        pub name: String,
        /// The `iss` a token must have.
        pub issuer: String,
        /// One of these must be in a token's `aud`; empty means any.
        pub audiences: Vec<String>,
        /// Where the token is; empty means `Authorization: Bearer` and the query parameter `access_token`.
        pub locations: Vec<JwtLocation>,
        /// How the verified payload is passed on; absent means not at all.
        pub forwarding: Option<JwtForwarding>,
        /// Where the keys come from.
        #[serde(rename = "JSONWebKeySet")]
        pub json_web_key_set: Option<JwtKeySet>,
        /// Tolerance for `exp` and `nbf`, seconds; 0 means 30.
        pub clock_skew_seconds: i64,
        /// Cache of verified tokens.
        pub cache_config: Option<JwtCache>,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }

    /// Where a token is: exactly one of the three.
    pub struct JwtLocation {
        /// In a header.
        pub header: Option<JwtHeader>,
        /// In a query parameter.
        pub query_param: Option<JwtName>,
        /// In a cookie.
        pub cookie: Option<JwtName>,
    }

    /// A header that carries a token.
    pub struct JwtHeader {
        /// Header name.
        pub name: String,
        /// What stands before the token, such as `Bearer `.
        pub value_prefix: String,
        /// Pass the header on to the application instead of taking it away.
        pub forward: bool,
    }

    /// The name of a query parameter or cookie.
    pub struct JwtName {
        /// The name.
        pub name: String,
    }

    /// How a verified payload is passed on.
    pub struct JwtForwarding {
        /// The header that carries it, base64url.
        pub header_name: String,
        /// Whether the base64 is padded.
        pub pad_forward_payload_header: bool,
    }

    /// Where keys come from: exactly one of the two.
    pub struct JwtKeySet {
        /// Given with the entry.
        pub local: Option<JwtLocalKeys>,
        /// Fetched.
        pub remote: Option<JwtRemoteKeys>,
    }

    /// Keys given with the entry: exactly one of the two.
    pub struct JwtLocalKeys {
        /// The key set (RFC 7517), base64.
        #[serde(rename = "JWKS")]
        pub jwks: String,
        /// A file of the proxy's host that holds it.
        pub filename: String,
    }

    /// Keys to fetch.
    pub struct JwtRemoteKeys {
        /// Where to get them.
        #[serde(rename = "URI")]
        pub uri: String,
        /// Time for a fetch, milliseconds; 0 means the proxy's own.
        pub request_timeout_ms: i64,
        /// Time until they are fetched again, zero means 5 min; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_nanos")]
        pub cache_duration: GoDuration,
        /// Serve before the first fetch has come back.
        pub fetch_asynchronously: bool,
        /// Retries; absent means none.
        pub retry_policy: Option<JwtRetryPolicy>,
        /// How to connect.
        #[serde(rename = "JWKSCluster")]
        pub jwks_cluster: Option<JwtCluster>,
    }

    /// Retries of a fetch.
    pub struct JwtRetryPolicy {
        /// How many.
        pub num_retries: i64,
        /// How long to wait between them.
        pub retry_policy_back_off: Option<JwtBackOff>,
    }

    /// Waiting times between retries.
    pub struct JwtBackOff {
        /// The first, zero means 1 s; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_nanos")]
        pub base_interval: GoDuration,
        /// The longest, zero means ten times the first; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_nanos")]
        pub max_interval: GoDuration,
    }

    /// How to connect to a key server.
    pub struct JwtCluster {
        /// `STATIC`, `STRICT_DNS` (also when empty), `LOGICAL_DNS`, `EDS` or `ORIGINAL_DST`.
        pub discovery_type: String,
        /// Time to connect, zero means 5 s; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_nanos")]
        pub connect_timeout: GoDuration,
        /// What to trust.
        #[serde(rename = "TLSCertificates")]
        pub tls_certificates: Option<JwtTrust>,
    }

    /// What to trust in a key server: exactly one of the two.
    pub struct JwtTrust {
        /// A certificate provider of Envoy's bootstrap.
        pub ca_certificate_provider_instance: Option<JwtCertificateProvider>,
        /// A CA bundle.
        #[serde(rename = "TrustedCA")]
        pub trusted_ca: Option<JwtTrustedCa>,
    }

    /// A certificate provider of Envoy's bootstrap.
    pub struct JwtCertificateProvider {
        /// Its name; empty means `default`.
        pub instance_name: String,
        /// The certificate's name.
        pub certificate_name: String,
    }

    /// A CA bundle in PEM: exactly one of the four.
    pub struct JwtTrustedCa {
        /// A file of the proxy's host.
        pub filename: String,
        /// An environment variable of the proxy.
        pub environment_variable: String,
        /// The text itself.
        pub inline_string: String,
        /// The bytes themselves, base64.
        pub inline_bytes: String,
    }

    /// Cache of verified tokens.
    pub struct JwtCache {
        /// Most tokens; 0 means no cache.
        pub size: i64,
    }
}
