//! Prepared queries as upstreams: `GET /v1/query/<name or id>/execute?connect`.

use crate::health::ServiceEntry;
use crate::query::{Blocking, Query, append_flag, append_text};
use crate::wire::wire;

/// Runs a prepared query for Connect-capable instances.
///
/// It cannot be held (its index is always 1): Consul's own proxies ask every 30 s. By name it needs no `query` rule; the
/// result is filtered by `service:read` and `node:read`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PreparedQuery {
    /// Name or ID.
    pub name: String,
    /// The datacenter to run it in; empty means the agent's own.
    pub datacenter: String,
    /// Sort by network distance from this node; `_agent` means the agent's own; empty as the query says.
    pub near: String,
    /// Any server may answer, not only the leader.
    pub stale: bool,
}

impl Query for PreparedQuery {
    type Reply = PreparedQueryResult;

    fn path(&self) -> String {
        format!("{}/execute", crate::query::path("/v1/query", &self.name))
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = vec![("connect", "true".to_owned())];
        append_text(&mut params, "dc", &self.datacenter);
        append_text(&mut params, "near", &self.near);
        append_flag(&mut params, "stale", self.stale);
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }
}

wire! {
    /// What a prepared query found.
    pub struct PreparedQueryResult {
        /// The service asked for.
        pub service: String,
        /// Namespace (Enterprise).
        pub namespace: String,
        /// The instances, in the query's order; only those it counts as healthy.
        pub nodes: Vec<ServiceEntry>,
        /// The datacenter that answered.
        pub datacenter: String,
        /// How many failover targets were tried before.
        pub failovers: u32,
        /// The peer that answered; empty for our own.
        pub peer_name: String,
    }
}
