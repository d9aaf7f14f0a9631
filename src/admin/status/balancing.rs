//! Clusters and endpoints: who may be chosen, and who is left out.

use serde::{Deserialize, Serialize};

use crate::{
    admin::AdminState,
    model::{
        cluster::{Cluster, Endpoint, Health},
        listener::Listener,
    },
};

/// One cluster of a listener.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    /// Its name: the target of the discovery chain, or the route that it belongs to.
    pub name: String,
    /// The service behind it.
    pub service: String,
    /// How many of its endpoints may be chosen now.
    pub available: usize,
    /// All its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// What it has to do now; nothing is known of one that is not up.
    pub in_flight: Option<InFlight>,
}

/// What a cluster has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct InFlight {
    /// Opaque connections.
    pub connections: u32,
    /// Requests that wait.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries in flight.
    pub retries: u32,
}

/// One endpoint of a cluster.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    /// Its id, for example `node/service id`.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// Its share of the traffic.
    pub weight: u32,
    /// Whether it may be chosen.
    #[serde(flatten)]
    pub state: EndpointState,
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EndpointState {
    /// It may.
    Healthy,
    /// It may, and a check of it warns.
    Warning,
    /// It may, but does not have its full share yet, since it is new.
    SlowStart {
        /// What it has of its full share, from 0 to 1.
        share: f64,
    },
    /// It failed so often that it is left out for a while.
    Ejected {
        /// How it failed.
        cause: String,
        /// For how long yet.
        seconds_left: f64,
    },
    /// A check of it fails, or its weight is 0.
    Failing,
}

/// What the data plane tells of a cluster, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Protection {
    load: InFlight,
    ejected: Vec<Ejected>,
    warming: Vec<Warming>,
}

#[derive(Debug, Deserialize)]
struct Ejected {
    endpoint: String,
    cause: String,
    seconds_left: f64,
}

#[derive(Debug, Deserialize)]
struct Warming {
    endpoint: String,
    share: f64,
}

impl ClusterStatus {
    /// How a listener's cluster fares.
    pub(super) fn of(state: &AdminState, listener: &Listener, cluster: &Cluster) -> Self {
        let protection = (state.protection)(&listener.key, &cluster.target);
        let protection: Option<Protection> = protection.and_then(|shown| serde_json::from_value(shown).ok());
        let endpoints: Vec<_> = cluster.endpoints.iter().map(|endpoint| EndpointStatus::of(endpoint, protection.as_ref())).collect();
        Self {
            name: cluster.target.to_string(),
            service: cluster.service.to_string(),
            available: endpoints.iter().filter(|endpoint| endpoint.state.is_available()).count(),
            endpoints,
            in_flight: protection.map(|protection| protection.load),
        }
    }
}

impl EndpointStatus {
    fn of(endpoint: &Endpoint, protection: Option<&Protection>) -> Self {
        let ejected = protection.and_then(|known| known.ejected.iter().find(|ejected| *ejected.endpoint == *endpoint.id));
        let warming = protection.and_then(|known| known.warming.iter().find(|warming| *warming.endpoint == *endpoint.id));
        let state = match (endpoint.is_healthy(), ejected, warming) {
            (false, ..) => EndpointState::Failing,
            (true, Some(ejected), _) => EndpointState::Ejected { cause: ejected.cause.clone(), seconds_left: ejected.seconds_left },
            (true, None, Some(warming)) => EndpointState::SlowStart { share: warming.share },
            (true, None, None) if endpoint.health == Health::Warning => EndpointState::Warning,
            (true, None, None) => EndpointState::Healthy,
        };
        Self { id: endpoint.id.to_string(), address: endpoint.address.to_string(), weight: endpoint.weight, state }
    }
}

impl EndpointState {
    /// Whether it may be chosen.
    fn is_available(&self) -> bool {
        !matches!(self, Self::Ejected { .. } | Self::Failing)
    }
}
