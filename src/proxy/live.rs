//! A listener as the data plane uses it: everything that does not depend on the request is made here, once a snapshot.

mod cluster;
mod dial;

use std::{collections::HashMap, sync::Arc, time::Duration};

use openssl::ssl::SslAcceptor;
use pingora_core::{protocols::ALPN, upstreams::peer::HttpPeer};

pub use self::cluster::{Dialer, LiveCluster, Warming};
use self::{cluster::live_cluster, dial::app_peer};
use super::{
    filter::jwt::Verifier,
    ingress::{IngressSide, Shared},
    tls::Keys,
};
use crate::{
    model::{
        credentials::Identity,
        listener::{Address, Listener, Role},
        route::Leg,
    },
    telemetry::{
        Telemetry,
        metrics::{Hits, ListenerMetrics},
    },
};

/// A listener with its living parts.
pub struct Live {
    /// The listener of the snapshot.
    pub listener: Arc<Listener>,
    /// Its counters.
    pub metrics: Arc<ListenerMetrics>,
    /// What its role needs.
    pub side: Side,
}

impl Live {
    /// Its clusters, by their places; none on the inbound side.
    pub fn all_clusters(&self) -> &[Arc<LiveCluster>] {
        match &self.side {
            Side::App(_) => &[],
            Side::Upstream(clusters) => clusters,
            Side::Ingress(ingress) => &ingress.clusters,
        }
    }

    /// The clusters of a route's leg, in failover order; none on the inbound side.
    pub fn clusters<'a>(&'a self, leg: Option<&'a Leg>) -> impl Iterator<Item = &'a Arc<LiveCluster>> {
        let all = self.all_clusters();
        leg.into_iter().flat_map(|leg| &leg.clusters).filter_map(|place| all.get(*place))
    }
}

/// What a role needs.
pub enum Side {
    /// From peers (mTLS) or anybody (exposed paths), on to the app.
    App(Box<AppSide>),
    /// Plain from the app, on to peers: the clusters by their places.
    Upstream(Vec<Arc<LiveCluster>>),
    /// From anybody, on to servers.
    Ingress(Box<IngressSide>),
}

/// The living parts of listeners before the app.
pub struct AppSide {
    /// Accepts mTLS; `None` serves in clear.
    pub acceptor: Option<SslAcceptor>,
    /// Verifies the tokens that intentions ask for; outlives snapshots.
    pub tokens: Arc<Verifier>,
    /// Counts how often each rule of the intentions decides; outlives snapshots.
    pub hits: Hits,
    http1: HttpPeer,
    http2: HttpPeer,
}

impl AppSide {
    fn new(acceptor: Option<SslAcceptor>, app: &Address, connect_timeout: Duration, last: Option<&Live>) -> Result<Self, String> {
        let peer = |alpn| app_peer(app, connect_timeout, alpn);
        let tokens = match last.map(|l| &l.side) {
            Some(Side::App(app)) => app.tokens.clone(),
            _ => Arc::default(),
        };
        Ok(Self { acceptor, tokens, hits: Hits::default(), http1: peer(ALPN::H1)?, http2: peer(ALPN::H2)? })
    }

    /// The app, in cleartext HTTP/2 or in HTTP/1.1. Services of protocol `http2` and `grpc` are spoken to as the client speaks to us, others
    /// always in HTTP/1.1, as by Consul's Envoy path.
    pub fn peer(&self, http2: bool) -> HttpPeer {
        if http2 { self.http2.clone() } else { self.http1.clone() }
    }
}

/// Makes live listeners, sharing what they have in common.
pub struct Workshop {
    telemetry: Arc<Telemetry>,
    keys: HashMap<u64, Arc<Keys>>,
    ingress: Shared,
}

impl Workshop {
    /// A workshop whose listeners count into `telemetry`.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, keys: HashMap::new(), ingress: Shared::default() }
    }

    /// Forgets the keys of identities that no listener has any more.
    pub fn retain(&mut self, used: impl Fn(u64) -> bool) {
        self.keys.retain(|epoch, _| used(*epoch));
    }

    /// Makes a listener live. Clusters that did not change are taken over from its last form.
    ///
    /// # Errors
    /// In words, when OpenSSL refuses the identity or the mesh entry's TLS settings.
    pub fn make(&mut self, listener: &Arc<Listener>, last: Option<&Live>) -> Result<Live, String> {
        let keys = listener.identity.as_ref().map(|identity| self.keys(identity)).transpose()?;
        let metrics = match last {
            Some(last) if last.listener.key == listener.key && last.listener.protocol == listener.protocol => last.metrics.clone(),
            _ => self.telemetry.metrics.listener(listener),
        };
        let known = last.map_or(&[][..], Live::all_clusters);
        let side = match (&listener.role, &keys) {
            (Role::Inbound(_), None) => return Err("it has no identity".to_owned()),
            (Role::Inbound(inbound), Some(keys)) => {
                let acceptor = keys.acceptor(listener.protocol, &listener.tls).map_err(|e| e.to_string())?;
                let app = AppSide::new(Some(acceptor), &inbound.app.address, inbound.connect_timeout, last)?;
                Side::App(Box::new(AppSide { hits: metrics.hits(&inbound.intentions), ..app }))
            }
            (Role::Exposed(exposed), _) => Side::App(Box::new(AppSide::new(None, &exposed.app.address, exposed.connect_timeout, last)?)),
            (Role::Upstream(upstream), _) => {
                let clusters = upstream.clusters.iter().map(|cluster| live_cluster(listener, cluster, keys.as_deref(), None, known));
                Side::Upstream(clusters.collect::<Result<_, _>>()?)
            }
            (Role::Ingress(ingress), _) => {
                let known = &self.ingress.clusters;
                let clusters =
                    ingress.clusters.iter().map(|cluster| live_cluster(listener, cluster, keys.as_deref(), Some(&ingress.sealing), known));
                let clusters = clusters.collect::<Result<_, _>>()?;
                Side::Ingress(Box::new(IngressSide::new(ingress, clusters, &mut self.ingress)?))
            }
        };
        let live = Live { listener: listener.clone(), metrics, side };
        let all = live.all_clusters().iter().flat_map(|cluster| cluster.cluster.endpoints.iter());
        let (healthy, unhealthy): (Vec<_>, Vec<_>) = all.partition(|e| e.is_healthy());
        if !live.all_clusters().is_empty() {
            live.metrics.endpoints(healthy.len(), unhealthy.len());
        }
        Ok(live)
    }

    fn keys(&mut self, identity: &Identity) -> Result<Arc<Keys>, String> {
        if let Some(keys) = self.keys.get(&identity.epoch) {
            return Ok(keys.clone());
        }
        let keys = Arc::new(Keys::load(identity).map_err(|e| e.to_string())?);
        self.keys.insert(keys.epoch, keys.clone());
        Ok(keys)
    }
}
