//! Mesh gateways of all datacenters: `GET /v1/internal/federation-states/mesh-gateways`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::health::ServiceEntry;
use crate::query::{Blocking, Query};
use crate::wire::null_lists;

/// Asks for the mesh gateways of every federated datacenter. What the token may not see is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MeshGateways;

/// The gateways by datacenter; across datacenters use their `wan` address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GatewaysByDatacenter(
    /// One list for each datacenter known.
    #[serde(deserialize_with = "null_lists")]
    pub BTreeMap<String, Vec<ServiceEntry>>,
);

impl Query for MeshGateways {
    type Reply = GatewaysByDatacenter;

    fn path(&self) -> String {
        "/v1/internal/federation-states/mesh-gateways".to_owned()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}
