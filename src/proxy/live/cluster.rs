//! A cluster with its living parts: balancing state, limits, passive health, and its endpoints as they are dialled.

use std::{sync::Arc, time::Instant};

use http::HeaderValue;
use openssl::ssl::SslContext;
use pingora_core::upstreams::peer::HttpPeer;
use serde::Serialize;

use super::dial::{Peers, announce};
use crate::{
    model::{
        cluster::{Cluster, Endpoint, Trust},
        listener::{Listener, Protocol},
        matching::RequestView,
        secret::Secret,
    },
    proxy::{
        balance::{
            Balancer, Hosts,
            sticky::{StickyTable, Stuck, mesh_key, sealed_key},
            warmth,
        },
        connection::Context,
        guard::{ClusterState, EndpointState, Outcome, outlier::Cause},
        tls::Keys,
    },
};

/// A cluster with its living parts.
pub struct LiveCluster {
    /// The cluster of the snapshot.
    pub cluster: Arc<Cluster>,
    /// Limits and passive health; outlives snapshots.
    pub state: Arc<ClusterState>,
    /// The living state of each endpoint, by its place.
    pub endpoints: Vec<Arc<EndpointState>>,
    balancer: Balancer,
    sticky: Option<StickyTable>,
    peers: Peers,
    /// Dials opaque connections; only for protocol `tcp`.
    pub dialer: Option<Dialer>,
    epoch: Option<u64>,
}

/// An endpoint in its slow start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Warming {
    /// Its id.
    pub endpoint: Arc<str>,
    /// What it has of its full weight, from 0 to 1.
    pub share: f64,
}

/// Dials mesh peers for opaque connections.
pub struct Dialer {
    /// Checks the identity inside the handshake.
    pub context: SslContext,
    /// The server name that is sent.
    pub sni: Arc<str>,
}

impl LiveCluster {
    /// Whether any endpoint is healthy by its checks.
    pub fn has_endpoint(&self) -> bool {
        !self.balancer.is_empty()
    }

    /// The healthy endpoints that do not have their full share yet, because they are new.
    pub fn warming(&self, now: Instant) -> Vec<Warming> {
        let hosts = Now { cluster: self, tried: &[], now };
        let places = self.cluster.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.is_healthy());
        let shares = places.map(|(place, endpoint)| Warming { endpoint: endpoint.id.clone(), share: hosts.warmth(place) });
        shares.filter(|warming| warming.share < 1.0).collect()
    }

    /// The place of an endpoint for the next try: healthy, not ejected, none of `tried`.
    pub fn pick(&self, hash: Option<u64>, stuck: Stuck, tried: &[Arc<Endpoint>]) -> Option<usize> {
        let draw = self.balancer.draw(stuck.hash.or(hash), stuck.place);
        self.balancer.pick(draw, &Now { cluster: self, tried, now: Instant::now() })
    }

    /// What the request's sticky cookie says, where sticky sessions are on.
    pub fn stuck(&self, request: &RequestView<'_>) -> Stuck {
        self.sticky.as_ref().map(|table| table.find(request)).unwrap_or_default()
    }

    /// The cookie that ties the caller to the endpoint at `place`, unless `stuck` says that it has it.
    pub fn sticky_cookie(&self, stuck: Stuck, place: usize, secure: bool) -> Option<HeaderValue> {
        self.sticky.as_ref().filter(|_| stuck.place != Some(place))?.cookie_for(place, secure)
    }

    /// Notes how a try at an endpoint ended, for passive health; gives the cause of each ejection that this brings about.
    pub fn report(&self, place: usize, outcome: Outcome) -> Vec<Cause> {
        let Some(endpoint) = self.endpoints.get(place) else { return Vec::new() };
        self.state.outliers.report(endpoint, outcome, &self.cluster.passive, Instant::now(), || fastrand::u32(..100))
    }

    /// The chosen endpoint as Pingora dials it.
    pub fn peer(&self, place: usize, endpoint: &Endpoint) -> Option<HttpPeer> {
        self.peers.peer(place, endpoint)
    }

    /// Has connections to an endpoint begin with the PROXY header of the client's connection, if its servers want one.
    pub fn announced(&self, mut peer: HttpPeer, context: Option<&Context>) -> HttpPeer {
        if let Trust::Servers { proxy_header: Some(version), .. } = self.cluster.trust {
            announce(&mut peer, version, context);
        }
        peer
    }
}

/// A cluster's endpoints at this moment, for one request.
struct Now<'a> {
    cluster: &'a LiveCluster,
    tried: &'a [Arc<Endpoint>],
    now: Instant,
}

impl Hosts for Now<'_> {
    fn available(&self, place: usize) -> bool {
        let (Some(endpoint), Some(state)) = (self.cluster.cluster.endpoints.get(place), self.cluster.endpoints.get(place)) else {
            return false;
        };
        endpoint.is_healthy() && !state.is_ejected(self.now) && !self.tried.iter().any(|t| Arc::ptr_eq(t, endpoint))
    }

    fn active(&self, place: usize) -> u32 {
        self.cluster.endpoints.get(place).map_or(0, |state| state.active())
    }

    fn warmth(&self, place: usize) -> f64 {
        match (self.cluster.cluster.balance.slow_start, self.cluster.endpoints.get(place)) {
            (Some(window), Some(state)) => warmth(state.healthy_for(self.now), window),
            _ => 1.0,
        }
    }
}

/// Makes a cluster of a listener live; what did not change is taken over from `known`, and living state with it.
///
/// # Errors
/// In words, when OpenSSL refuses something of it or its endpoints could not be verified.
pub(super) fn live_cluster(
    listener: &Listener,
    cluster: &Arc<Cluster>,
    keys: Option<&Keys>,
    sealing: Option<&Secret>,
    known: &[Arc<LiveCluster>],
) -> Result<Arc<LiveCluster>, String> {
    let named = |k: &&Arc<LiveCluster>| k.cluster.target == cluster.target && k.cluster.balance.policy == cluster.balance.policy;
    let before = known.iter().find(named);
    // A listener may have servers beside mesh peers: a new leaf is nothing to them.
    let keys = keys.filter(|_| matches!(cluster.trust, Trust::Mesh { .. }));
    let epoch = keys.map(|keys| keys.epoch);
    if let Some(same) = before.filter(|k| Arc::ptr_eq(&k.cluster, cluster) && k.epoch == epoch) {
        return Ok(same.clone());
    }
    let now = Instant::now();
    let dialer = match (cluster.protocol, &cluster.trust, keys) {
        (Protocol::Tcp, Trust::Mesh { sni, expected }, Some(keys)) => {
            let context = keys.dialer(&listener.tls, expected.clone()).map_err(|e| e.to_string())?;
            Some(Dialer { context, sni: sni.clone() })
        }
        _ => None,
    };
    let sticky = cluster.balance.sticky.as_ref().map(|sticky| {
        let key = match (&listener.identity, sealing) {
            (_, Some(secret)) => sealed_key(secret, &cluster.target),
            (Some(identity), None) => mesh_key(&identity.roots.trust_domain, &cluster.service),
            (None, None) => return Err("there is nothing to seal sticky cookies with".to_owned()),
        };
        StickyTable::new(sticky, &key, &cluster.endpoints).map_err(|e| e.to_string())
    });
    let state = before.map_or_else(|| Arc::new(ClusterState::new(now)), |b| b.state.clone());
    Ok(Arc::new(LiveCluster {
        cluster: cluster.clone(),
        endpoints: state.follow(&cluster.endpoints, now),
        state,
        balancer: Balancer::new(cluster.balance.policy, &cluster.endpoints, before.map(|b| &b.balancer)),
        sticky: sticky.transpose()?,
        peers: Peers::new(cluster, keys)?,
        dialer,
        epoch,
    }))
}
