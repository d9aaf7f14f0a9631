//! Instances of a service that speak for it in the mesh: `GET /v1/health/connect/<service>`.

use std::collections::BTreeMap;

use crate::agent_service::{AgentService, Locality};
use crate::query::{Blocking, Query, Tenancy, append_flag, append_text, path};
use crate::wire::wire;

/// Asks for all instances (proxies, natives, terminating gateways), healthy or not.
///
/// Needs `service:read` on the service and on each instance's own name, and `node:read`; what the token may not see is
/// left out. A bad filter and an unknown datacenter are 500, an unknown peer is an empty list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HealthConnect {
    /// The destination service's name.
    pub service: String,
    /// Where the service lives.
    pub tenancy: Tenancy,
    /// The datacenter to ask; empty means the agent's own.
    pub datacenter: String,
    /// A filter expression (bexpr) over the entries, as a resolver subset has; empty means none.
    pub filter: String,
    /// The local name of the peer that exports the service; empty means none.
    pub peer: String,
    /// Sort by network distance from this node; `_agent` means the agent's own; empty means unsorted.
    pub near: String,
    /// Only instances without a warning or critical check. Unlike Envoy's path, which takes those with a warning.
    pub passing: bool,
    /// Any server may answer, not only the leader.
    pub stale: bool,
    /// Answer from the agent's cache.
    pub cached: bool,
    /// Merge `service-defaults` and `proxy-defaults` into each `Service.Proxy`.
    pub merge_central_config: bool,
}

impl Query for HealthConnect {
    type Reply = Vec<ServiceEntry>;

    fn path(&self) -> String {
        path("/v1/health/connect", &self.service)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = self.tenancy.params();
        append_text(&mut params, "dc", &self.datacenter);
        append_text(&mut params, "filter", &self.filter);
        append_text(&mut params, "peer", &self.peer);
        append_text(&mut params, "near", &self.near);
        append_flag(&mut params, "passing", self.passing);
        append_flag(&mut params, "stale", self.stale);
        append_flag(&mut params, "cached", self.cached);
        append_flag(&mut params, "merge-central-config", self.merge_central_config);
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

/// Asks for all instances of a service itself, healthy or not: `GET /v1/health/service/<service>`.
///
/// Needs `service:read` and `node:read`; what the token may not see is left out, so that a service nobody may read is an empty list. An unknown datacenter
/// is 500, `No path to datacenter`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HealthService {
    /// The service's name.
    pub service: String,
    /// Where the service lives.
    pub tenancy: Tenancy,
    /// The datacenter to ask; empty means the agent's own.
    pub datacenter: String,
    /// Only instances with all of these tags.
    pub tags: Vec<String>,
}

impl Query for HealthService {
    type Reply = Vec<ServiceEntry>;

    fn path(&self) -> String {
        path("/v1/health/service", &self.service)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = self.tenancy.params();
        append_text(&mut params, "dc", &self.datacenter);
        self.tags.iter().for_each(|tag| append_text(&mut params, "tag", tag));
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

wire! {
    /// One instance with its node and the checks of both.
    pub struct ServiceEntry {
        /// The node it runs on.
        pub node: Node,
        /// The instance.
        pub service: AgentService,
        /// The checks of the node and of the instance.
        pub checks: Vec<HealthCheck>,
    }

    /// A node of the catalog.
    pub struct Node {
        /// Node ID (UUID); empty for nodes registered without one.
        #[serde(rename = "ID")]
        pub id: String,
        /// Node name.
        pub node: String,
        /// IP address or host name: the instance's address when that has none.
        pub address: String,
        /// The node's datacenter.
        pub datacenter: String,
        /// Addresses by purpose: `lan`, `lan_ipv4`, `wan`, `wan_ipv4`, ….
        pub tagged_addresses: BTreeMap<String, String>,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// Admin partition (Enterprise).
        pub partition: String,
        /// The peer it was imported from; empty for our own.
        pub peer_name: String,
        /// Region and zone.
        pub locality: Option<Locality>,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }

    /// The state of one check, as the catalog (`/v1/health/…`) or the agent (`/v1/agent/checks`) gives it.
    pub struct HealthCheck {
        /// The node's name.
        pub node: String,
        /// The check's ID, unique on the node.
        #[serde(rename = "CheckID")]
        pub check_id: String,
        /// Display name.
        pub name: String,
        /// `passing`, `warning` or `critical`.
        pub status: String,
        /// Free-form notes.
        pub notes: String,
        /// What the last run said. For exposed HTTP checks the only place where the checked URL can be seen.
        pub output: String,
        /// The instance it belongs to; empty for a check of the node.
        #[serde(rename = "ServiceID")]
        pub service_id: String,
        /// That instance's service name.
        pub service_name: String,
        /// That instance's tags.
        pub service_tags: Vec<String>,
        /// `ttl`, `tcp`, `http`, `grpc`, `alias`, ….
        #[serde(rename = "Type")]
        pub kind: String,
        /// Interval as a Go duration (`10s`); empty when it has none.
        pub interval: String,
        /// Timeout as a Go duration (`10s`); empty when it has none.
        pub timeout: String,
        /// The port the agent checks through when `Proxy.Expose.Checks` is on; 0 when not exposed.
        pub exposed_port: i64,
        /// Namespace (Enterprise).
        pub namespace: String,
        /// Admin partition (Enterprise).
        pub partition: String,
        /// The peer it was imported from; empty for our own.
        pub peer_name: String,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }
}

/// Asks for all checks of the agent, by check ID: `GET /v1/agent/checks`. Needs `service:read` on each service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AgentChecks {
    /// A filter expression (bexpr), such as `ServiceID == "web-1"`; empty means none.
    pub filter: String,
}

impl Query for AgentChecks {
    type Reply = BTreeMap<String, HealthCheck>;

    fn path(&self) -> String {
        "/v1/agent/checks".to_owned()
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = Vec::new();
        append_text(&mut params, "filter", &self.filter);
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }
}
