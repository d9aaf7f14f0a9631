//! A service of the agent: `GET /v1/agent/service/<id>` and `GET /v1/agent/services`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::proxy::Proxy;
use crate::query::{Blocking, Query, Tenancy, append_text, path};
use crate::wire::wire;

/// Asks for one service of the agent, merged with `service-defaults` and `proxy-defaults` if it is a proxy. Needs
/// `service:read` on the service's own name.
///
/// A held query returns when the registration or those defaults change; 404 means that the service is not registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AgentServiceById {
    /// The service ID.
    pub id: String,
    /// Where the service lives.
    pub tenancy: Tenancy,
}

impl Query for AgentServiceById {
    type Reply = AgentService;

    fn path(&self) -> String {
        path("/v1/agent/service", &self.id)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        self.tenancy.params()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Hash
    }
}

/// Asks for all services of the agent, by ID. What the token may not read is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AgentServices {
    /// A filter expression (bexpr), such as `Kind == "connect-proxy"`; empty means none.
    pub filter: String,
    /// Where the services live.
    pub tenancy: Tenancy,
}

impl Query for AgentServices {
    type Reply = BTreeMap<String, AgentService>;

    fn path(&self) -> String {
        "/v1/agent/services".to_owned()
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = self.tenancy.params();
        append_text(&mut params, "filter", &self.filter);
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }
}

wire! {
    /// A registered instance, as the agent (`/v1/agent/service…`) and the catalog (`/v1/health/…`) print it.
    ///
    /// Ports are as wide as Go's `int`: the catalog takes any number, and one odd instance must not make a list
    /// unreadable.
    pub struct AgentService {
        /// Empty for an ordinary service; `connect-proxy`, `mesh-gateway`, `terminating-gateway`, ….
        pub kind: String,
        /// Instance ID, unique on its agent.
        #[serde(rename = "ID")]
        pub id: String,
        /// Service name; `<service>-sidecar-proxy` for nested sidecars.
        pub service: String,
        /// Tags.
        pub tags: Vec<String>,
        /// Free-form metadata; a nested sidecar without any has its parent's.
        pub meta: BTreeMap<String, String>,
        /// Port; 0 when it has none.
        pub port: i64,
        /// IP address or host name; empty means the node's.
        pub address: String,
        /// Path of the application's Unix socket; never the proxy's.
        pub socket_path: String,
        /// Addresses by purpose: `lan`, `wan`, `consul-virtual`, `consul-virtual:<service>`, ….
        pub tagged_addresses: BTreeMap<String, ServiceAddress>,
        /// Load-balancing weights; the agent always prints them, and absent means [`Weights::default`].
        pub weights: Option<Weights>,
        /// Whether other agents may change the tags.
        pub enable_tag_override: bool,
        /// Hash of this answer, for the hash form of blocking (`/v1/agent/service/<id>` only).
        pub content_hash: String,
        /// The proxy block; present for proxies and gateways.
        pub proxy: Option<Proxy>,
        /// The Connect block.
        pub connect: Option<Connect>,
        /// The peer it was imported from; empty for our own.
        pub peer_name: String,
        /// Namespace (Enterprise).
        pub namespace: String,
        /// Admin partition (Enterprise).
        pub partition: String,
        /// The agent's datacenter.
        pub datacenter: String,
        /// Region and zone; a nested sidecar has its parent's.
        pub locality: Option<Locality>,
        /// Raft index of creation (catalog only).
        pub create_index: u64,
        /// Raft index of the last change (catalog only).
        pub modify_index: u64,
    }

    /// An address with a port.
    pub struct ServiceAddress {
        /// IP address or host name.
        pub address: String,
        /// Port; 0 means the service's own.
        pub port: i64,
    }

    /// The Connect block of an instance.
    pub struct Connect {
        /// The application itself speaks mesh TLS; its identity is its own service name.
        pub native: bool,
        /// What the exporting peer says about an imported instance.
        pub peer_meta: Option<PeerMeta>,
    }

    /// How to reach and recognise a service imported from a peer.
    pub struct PeerMeta {
        /// Server names to ask the peer's gateway for; the first is the one to use.
        #[serde(rename = "SNI")]
        pub sni: Vec<String>,
        /// SPIFFE IDs the server may have: the service's, and for L7 protocols the peer's mesh gateway's.
        #[serde(rename = "SpiffeID")]
        pub spiffe_id: Vec<String>,
        /// The service's protocol at the peer; it overrides any local one.
        pub protocol: String,
    }

    /// Where something runs.
    pub struct Locality {
        /// Region, such as `eu-west-1`.
        pub region: String,
        /// Zone, such as `eu-west-1a`.
        pub zone: String,
    }
}

/// Load-balancing weights by health; 1 and 1 unless registered otherwise. Weight 0 means: no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// Weight while all checks pass.
    pub passing: i64,
    /// Weight while a check warns.
    pub warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}
