//! The agent's verdict on a connection: `POST /v1/agent/connect/authorize`.

use serde_json::{Value, json};

use crate::query::{Blocking, Method, Query};
use crate::wire::wire;

/// Asks whether a client may connect to a service. Needs `service:write` on the target.
///
/// Any intention with L7 permissions answers false, peer sources never match, and a gateway's URI is a 400. Asked with a
/// source that cannot exist it tells the default policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authorize {
    /// The destination service's name.
    pub target: String,
    /// The client's SPIFFE ID.
    pub client_cert_uri: String,
    /// The client certificate's serial number as colon-separated hex; read by no rule yet.
    pub client_cert_serial: String,
}

impl Query for Authorize {
    type Reply = Authorization;

    fn method(&self) -> Method {
        Method::Post
    }

    fn path(&self) -> String {
        "/v1/agent/connect/authorize".to_owned()
    }

    fn body(&self) -> Option<Value> {
        Some(json!({
            "Target": self.target,
            "ClientCertURI": self.client_cert_uri,
            "ClientCertSerial": self.client_cert_serial,
        }))
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }
}

wire! {
    /// The verdict.
    pub struct Authorization {
        /// Whether the connection is allowed. With reason [`Authorization::BY_ACL_DEFAULT`] it must not be believed:
        /// see there.
        pub authorized: bool,
        /// Why, in words for people; three beginnings are known, see the constants.
        pub reason: String,
    }
}

impl Authorization {
    /// The reason when `default_intention_policy` decided: `authorized` is the default.
    pub const BY_DEFAULT_POLICY: &str = "Default intention policy";
    /// The reason when ACLs decided: the header `X-Consul-Default-ACL-Policy` is the default, not `authorized` (true
    /// with ACLs off although the policy was `deny`).
    pub const BY_ACL_DEFAULT: &str = "Default behavior configured by ACLs";
    /// How the reason begins when an intention decided.
    pub const BY_INTENTION: &str = "Matched";
}
