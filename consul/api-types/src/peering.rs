//! Peered clusters: `GET /v1/peering/<name>` and `GET /v1/peerings`. Both need `peering:read`, which a service identity
//! does not include.

use std::collections::BTreeMap;

use crate::agent_service::Locality;
use crate::query::{Blocking, Query, path};
use crate::wire::wire;

/// Asks for one peering by its local name. A held query returns when the peer's roots change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeeringByName {
    /// The peer's local name.
    pub name: String,
}

impl Query for PeeringByName {
    type Reply = Peering;

    fn path(&self) -> String {
        path("/v1/peering", &self.name)
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

/// Asks for all peerings: which peers may call a service shows in [`PeeringStream::exported_services`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peerings;

impl Query for Peerings {
    type Reply = Vec<Peering>;

    fn path(&self) -> String {
        "/v1/peerings".to_owned()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

wire! {
    /// A peering with another cluster.
    pub struct Peering {
        /// UUID.
        #[serde(rename = "ID")]
        pub id: String,
        /// The peer's local name.
        pub name: String,
        /// The local admin partition (Enterprise).
        pub partition: String,
        /// `PENDING`, `ESTABLISHING`, `ACTIVE`, `FAILING`, `DELETING`, `TERMINATED` or `UNDEFINED`.
        pub state: String,
        /// The UUID of the peering at the peer.
        #[serde(rename = "PeerID")]
        pub peer_id: String,
        /// The peer's current roots in PEM: the bundle to verify its services with.
        #[serde(rename = "PeerCAPems")]
        pub peer_ca_pems: Vec<String>,
        /// TLS name of the peer's servers.
        pub peer_server_name: String,
        /// Addresses of the peer's servers, `host:port`.
        pub peer_server_addresses: Vec<String>,
        /// State of the connection between the clusters.
        pub stream_status: PeeringStream,
        /// Where the peer is.
        pub remote: PeeringRemote,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }

    /// State of the connection between two clusters.
    pub struct PeeringStream {
        /// Names of the services the peer lets us call.
        pub imported_services: Vec<String>,
        /// Names of the services we let the peer call.
        pub exported_services: Vec<String>,
    }

    /// Where a peer is, as it says itself.
    pub struct PeeringRemote {
        /// Its admin partition, part of its SPIFFE IDs.
        pub partition: String,
        /// Its datacenter.
        pub datacenter: String,
        /// Region and zone.
        pub locality: Option<Locality>,
    }
}
