//! Registering with the agent: `PUT /v1/agent/service/register`, `…/deregister/<id>`, `PUT /v1/agent/check/pass/<id>`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::agent_service::{Locality, ServiceAddress, Weights};
use crate::proxy::Proxy;
use crate::query::{Blocking, Method, Query, Tenancy, append_flag, append_text, path};
use crate::wire::wire;

/// Registers a service, with its sidecar if it has one. Needs `service:write` on the name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RegisterService {
    /// What to register.
    pub service: ServiceRegistration,
    /// Remove the checks of an earlier registration that this one does not repeat; otherwise they stay.
    pub replace_existing_checks: bool,
    /// Where the service lives.
    pub tenancy: Tenancy,
}

impl Query for RegisterService {
    type Reply = ();

    fn method(&self) -> Method {
        Method::Put
    }

    fn path(&self) -> String {
        "/v1/agent/service/register".to_owned()
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = self.tenancy.params();
        append_flag(&mut params, "replace-existing-checks", self.replace_existing_checks);
        params
    }

    fn body(&self) -> Option<Value> {
        // Printing fails on map keys that are no text, of which there are none.
        serde_json::to_value(&self.service).ok()
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }

    fn decode(&self, _body: &[u8]) -> Result<(), serde_json::Error> {
        Ok(())
    }
}

/// Deregisters a service and its nested sidecar. Needs `service:write` on the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DeregisterService {
    /// The service ID.
    pub id: String,
    /// Where the service lives.
    pub tenancy: Tenancy,
}

impl Query for DeregisterService {
    type Reply = ();

    fn method(&self) -> Method {
        Method::Put
    }

    fn path(&self) -> String {
        path("/v1/agent/service/deregister", &self.id)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        self.tenancy.params()
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }

    fn decode(&self, _body: &[u8]) -> Result<(), serde_json::Error> {
        Ok(())
    }
}

/// Marks a TTL check as passing. Needs `service:write` on the name of the check's own service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PassCheck {
    /// The check's ID.
    pub id: String,
    /// What to show as its output; may be empty.
    pub note: String,
    /// Where the check's service lives.
    pub tenancy: Tenancy,
}

impl Query for PassCheck {
    type Reply = ();

    fn method(&self) -> Method {
        Method::Put
    }

    fn path(&self) -> String {
        path("/v1/agent/check/pass", &self.id)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = self.tenancy.params();
        append_text(&mut params, "note", &self.note);
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }

    fn decode(&self, _body: &[u8]) -> Result<(), serde_json::Error> {
        Ok(())
    }
}

wire! {
    /// A service to register. What is left out gets the agent's default.
    pub struct ServiceRegistration {
        /// Empty for an ordinary service, `connect-proxy` for a proxy of its own.
        pub kind: String,
        /// Instance ID; the name if empty.
        #[serde(rename = "ID")]
        pub id: String,
        /// Service name.
        pub name: String,
        /// Tags.
        pub tags: Vec<String>,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// Port; 0 for none (a nested sidecar gets the lowest free one of 21000 to 21255).
        pub port: i64,
        /// IP address or host name; empty means the node's.
        pub address: String,
        /// Path of the application's Unix socket, instead of a port.
        pub socket_path: String,
        /// Addresses by purpose.
        pub tagged_addresses: BTreeMap<String, ServiceAddress>,
        /// Load-balancing weights; 1 and 1 if absent.
        pub weights: Option<Weights>,
        /// Whether other agents may change the tags.
        pub enable_tag_override: bool,
        /// The checks. A nested sidecar without any gets a TCP check of its port and an alias check of its parent.
        pub checks: Vec<CheckRegistration>,
        /// The proxy block, for kind `connect-proxy`.
        pub proxy: Option<Proxy>,
        /// The Connect block.
        pub connect: Option<ConnectRegistration>,
        /// Region and zone.
        pub locality: Option<Locality>,
    }

    /// The Connect block of a registration.
    pub struct ConnectRegistration {
        /// The application itself speaks mesh TLS.
        pub native: bool,
        /// Register a sidecar as well: ID `<service id>-sidecar-proxy`, name `<service>-sidecar-proxy`. An empty one
        /// gets all defaults.
        pub sidecar_service: Option<Box<ServiceRegistration>>,
    }

    /// A check to register; it needs exactly one of [`ttl`](Self::ttl), [`http`](Self::http), [`tcp`](Self::tcp),
    /// [`grpc`](Self::grpc) and [`alias_service`](Self::alias_service).
    pub struct CheckRegistration {
        /// The check's ID; made from the service's if empty.
        #[serde(rename = "CheckID")]
        pub check_id: String,
        /// Display name.
        pub name: String,
        /// `passing`, `warning` or `critical` until the first run; empty means `critical`.
        pub status: String,
        /// Go duration after which the check turns critical unless it is passed again.
        #[serde(rename = "TTL")]
        pub ttl: String,
        /// URL to get: 2xx passes, 429 warns.
        #[serde(rename = "HTTP")]
        pub http: String,
        /// `host:port` to connect to.
        #[serde(rename = "TCP")]
        pub tcp: String,
        /// `host:port[/service]` to ask by the gRPC health protocol.
        #[serde(rename = "GRPC")]
        pub grpc: String,
        /// ID of the service whose state to copy.
        pub alias_service: String,
        /// Go duration between runs.
        pub interval: String,
        /// Go duration one run may take.
        pub timeout: String,
        /// Go duration in the critical state after which the service is deregistered; empty means never.
        pub deregister_critical_service_after: String,
    }
}
