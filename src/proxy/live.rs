//! A listener as the data plane uses it: everything that does not depend on the request is made here, once a snapshot.

use std::{
    collections::HashMap,
    hash::Hasher,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use openssl::ssl::{SslAcceptor, SslContext};
use parking_lot::Mutex;
use pingora_core::{
    ErrorType, OrErr,
    protocols::{ALPN, l4::socket::SocketAddr as PingoraAddress},
    upstreams::peer::HttpPeer,
};

use super::{
    balance::{
        Balancer, Hosts,
        sticky::{StickyTable, Stuck, mesh_key},
        warmth,
    },
    filter::jwt::Verifier,
    guard::{ClusterState, EndpointState, Outcome},
    tls::{Keys, ServerIdentity},
};
use crate::{
    model::{
        cluster::{Cluster, Endpoint},
        identity::SpiffeId,
        listener::{Address, Listener, Protocol, Role},
        matching::RequestView,
        route::Leg,
    },
    telemetry::{Telemetry, metrics::ListenerMetrics},
};

/// How long an idle connection to the local app is kept: shorter than the keep-alive of common app servers (5 s), since a request
/// with a body cannot be repeated when the app closes first.
const APP_IDLE: Duration = Duration::from_secs(4);
/// How long an idle connection to a mesh peer is kept: shorter than our own inbound keep-alive.
const PEER_IDLE: Duration = Duration::from_secs(50);
/// Streams on one HTTP/2 connection; the peer's own limit is respected besides.
const STREAMS: usize = 100;
/// HTTP/2 window of a stream towards an upstream, bytes: as large as that towards clients, for the same reason (see `proxy::plane`).
const STREAM_WINDOW: u32 = 16 << 20;

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
    /// The clusters of a route's leg, in failover order; none on the inbound side.
    pub fn clusters<'a>(&'a self, leg: Option<&'a Leg>) -> impl Iterator<Item = &'a Arc<LiveCluster>> {
        let all: &[Arc<LiveCluster>] = match &self.side {
            Side::App(_) => &[],
            Side::Upstream(clusters) => clusters,
        };
        leg.into_iter().flat_map(|leg| &leg.clusters).filter_map(|place| all.get(*place))
    }
}

/// What a role needs.
pub enum Side {
    /// From peers (mTLS) or anybody (exposed paths), on to the app.
    App(Box<AppSide>),
    /// Plain from the app, on to peers: the clusters by their places.
    Upstream(Vec<Arc<LiveCluster>>),
}

/// The living parts of listeners before the app.
pub struct AppSide {
    /// Accepts mTLS; `None` serves in clear.
    pub acceptor: Option<SslAcceptor>,
    /// Verifies the tokens that intentions ask for; outlives snapshots.
    pub tokens: Arc<Verifier>,
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
        Ok(Self { acceptor, tokens, http1: peer(ALPN::H1)?, http2: peer(ALPN::H2)? })
    }

    /// The app, in cleartext HTTP/2 or in HTTP/1.1. Services of protocol `http2` and `grpc` are spoken to as the client speaks to us, others
    /// always in HTTP/1.1, as by Consul's Envoy path.
    pub fn peer(&self, http2: bool) -> HttpPeer {
        if http2 { self.http2.clone() } else { self.http1.clone() }
    }
}

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
    template: HttpPeer,
    /// Dials opaque connections; only for protocol `tcp`.
    pub dialer: Option<SslContext>,
    epoch: u64,
}

impl LiveCluster {
    /// Whether any endpoint is healthy by its checks.
    pub fn has_endpoint(&self) -> bool {
        !self.balancer.is_empty()
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
    pub fn sticky_cookie(&self, stuck: Stuck, place: usize) -> Option<HeaderValue> {
        self.sticky.as_ref().filter(|_| stuck.place != Some(place))?.cookie_for(place)
    }

    /// Notes how a try at an endpoint ended, for passive health.
    pub fn report(&self, place: usize, outcome: Outcome) {
        if let Some(endpoint) = self.endpoints.get(place) {
            self.state.outliers.report(endpoint, outcome, &self.cluster.passive, Instant::now(), || fastrand::u32(..100));
        }
    }

    /// The endpoint as Pingora dials it.
    pub fn peer(&self, endpoint: &Endpoint) -> HttpPeer {
        let mut peer = self.template.clone();
        if let Address::Tcp(address) = &endpoint.address {
            peer._address = PingoraAddress::Inet(*address);
        }
        if self.cluster.protocol.is_http2() {
            cut_impostors(&mut peer, self.cluster.expected.clone());
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

/// Makes live listeners, sharing what they have in common.
pub struct Workshop {
    telemetry: Arc<Telemetry>,
    keys: HashMap<u64, Arc<Keys>>,
}

impl Workshop {
    /// A workshop whose listeners count into `telemetry`.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, keys: HashMap::new() }
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
        let keys = self.keys(listener)?;
        let metrics = match last {
            Some(last) if last.listener.key == listener.key && last.listener.protocol == listener.protocol => last.metrics.clone(),
            _ => self.telemetry.metrics.listener(listener),
        };
        let side = match &listener.role {
            Role::Inbound(inbound) => {
                let acceptor = keys.acceptor(listener.protocol, &listener.tls).map_err(|e| e.to_string())?;
                Side::App(Box::new(AppSide::new(Some(acceptor), &inbound.app.address, inbound.connect_timeout, last)?))
            }
            Role::Exposed(exposed) => Side::App(Box::new(AppSide::new(None, &exposed.app.address, exposed.connect_timeout, last)?)),
            Role::Upstream(upstream) => {
                let known: &[Arc<LiveCluster>] = match last.map(|l| &l.side) {
                    Some(Side::Upstream(clusters)) => clusters,
                    _ => &[],
                };
                let clusters = upstream.clusters.iter().map(|cluster| live_cluster(listener, cluster, &keys, known));
                let clusters = clusters.collect::<Result<Vec<_>, _>>()?;
                let all = upstream.clusters.iter().flat_map(|c| c.endpoints.iter());
                let (healthy, unhealthy): (Vec<_>, Vec<_>) = all.partition(|e| e.is_healthy());
                metrics.endpoints(healthy.len(), unhealthy.len());
                Side::Upstream(clusters)
            }
        };
        Ok(Live { listener: listener.clone(), metrics, side })
    }

    fn keys(&mut self, listener: &Listener) -> Result<Arc<Keys>, String> {
        if let Some(keys) = self.keys.get(&listener.identity.epoch) {
            return Ok(keys.clone());
        }
        let keys = Arc::new(Keys::load(&listener.identity).map_err(|e| e.to_string())?);
        self.keys.insert(keys.epoch, keys.clone());
        Ok(keys)
    }
}

fn app_peer(app: &Address, connect_timeout: Duration, alpn: ALPN) -> Result<HttpPeer, String> {
    let mut peer = match app {
        Address::Tcp(address) => HttpPeer::new(*address, false, String::new()),
        Address::Unix(path) => {
            let path = path.to_str().ok_or("the app's socket path is not UTF-8")?;
            HttpPeer::new_uds(path, false, String::new()).map_err(|e| e.to_string())?
        }
    };
    peer.options.alpn = alpn;
    peer.options.connection_timeout = Some(connect_timeout);
    peer.options.total_connection_timeout = Some(connect_timeout);
    peer.options.idle_timeout = Some(APP_IDLE);
    windows(&mut peer);
    Ok(peer)
}

fn windows(peer: &mut HttpPeer) {
    peer.options.max_h2_streams = STREAMS;
    peer.options.h2_stream_window_size = Some(STREAM_WINDOW);
    peer.options.h2_connection_window_size = Some(STREAM_WINDOW * 2);
}

fn live_cluster(listener: &Listener, cluster: &Arc<Cluster>, keys: &Keys, known: &[Arc<LiveCluster>]) -> Result<Arc<LiveCluster>, String> {
    let named = |k: &&Arc<LiveCluster>| k.cluster.target == cluster.target && k.cluster.balance.policy == cluster.balance.policy;
    let before = known.iter().find(named);
    if let Some(same) = before.filter(|k| Arc::ptr_eq(&k.cluster, cluster) && k.epoch == keys.epoch) {
        return Ok(same.clone());
    }
    let now = Instant::now();
    let dialer = match cluster.protocol {
        Protocol::Tcp => Some(keys.dialer(&listener.tls, cluster.expected.clone()).map_err(|e| e.to_string())?),
        _ => None,
    };
    let sticky = cluster.balance.sticky.as_ref().map(|sticky| {
        let key = mesh_key(&listener.identity.roots.trust_domain, &cluster.service);
        StickyTable::new(sticky, &key, &cluster.endpoints).map_err(|e| e.to_string())
    });
    let state = before.map_or_else(|| Arc::new(ClusterState::new(now)), |b| b.state.clone());
    Ok(Arc::new(LiveCluster {
        cluster: cluster.clone(),
        endpoints: state.follow(&cluster.endpoints, now),
        state,
        balancer: Balancer::new(cluster.balance.policy, &cluster.endpoints, before.map(|b| &b.balancer)),
        sticky: sticky.transpose()?,
        template: mesh_peer(cluster, keys)?,
        dialer,
        epoch: keys.epoch,
    }))
}

/// A mesh peer without its address.
fn mesh_peer(cluster: &Cluster, keys: &Keys) -> Result<HttpPeer, String> {
    // Nobody is expected where nobody is: a prepared query that found no instance.
    let unnamed = cluster.expected.is_empty() && !cluster.endpoints.is_empty();
    if cluster.sni.is_empty() || unnamed {
        return Err(format!("target {} has no server name or no expected identity", cluster.target));
    }
    let unset = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let mut peer = HttpPeer::new(unset, true, cluster.sni.to_string());
    peer.client_cert_key = Some(keys.cert_key.clone());
    peer.group_key = group_key(cluster, keys);
    peer.options.ca = Some(keys.ca.clone());
    peer.options.verify_hostname = false;
    peer.options.alpn = if cluster.protocol.is_http2() { ALPN::H2 } else { ALPN::H1 };
    peer.options.connection_timeout = Some(cluster.connect_timeout);
    peer.options.total_connection_timeout = Some(cluster.connect_timeout);
    peer.options.idle_timeout = Some(PEER_IDLE);
    peer.options.upstream_tls_handshake_complete_hook = Some(Arc::new(|ssl| Some(Arc::new(ServerIdentity::of(ssl)))));
    windows(&mut peer);
    Ok(peer)
}

/// Shuts the socket of a new connection as soon as its server shows another identity than expected. For HTTP/1 the check before the request is
/// early enough; for HTTP/2 Pingora sends its preface and settings right after the handshake, and not even those are an impostor's to see.
/// Its handshake hook cannot refuse, so it takes the connection away instead.
fn cut_impostors(peer: &mut HttpPeer, expected: Arc<[SpiffeId]>) {
    let socket: Arc<Mutex<Option<OwnedFd>>> = Arc::default();
    let opened = socket.clone();
    peer.options.upstream_tcp_sock_tweak_hook = Some(Arc::new(move |new| {
        let copy = new.as_fd().try_clone_to_owned();
        *opened.lock() = Some(copy.or_err(ErrorType::SocketError, "cannot keep the socket at hand")?);
        Ok(())
    }));
    peer.options.upstream_tls_handshake_complete_hook = Some(Arc::new(move |ssl| {
        let server = ServerIdentity::of(ssl);
        let socket = socket.lock().take();
        if !server.id.as_ref().is_some_and(|id| expected.contains(id))
            && let Some(socket) = socket
        {
            // A socket that cannot be shut is gone already.
            let _ = std::net::TcpStream::from(socket).shutdown(std::net::Shutdown::Both);
        }
        Some(Arc::new(server))
    }));
}

/// Pingora's pool key holds neither the CA list nor the whole client certificate nor the identity that we expect: this does.
fn group_key(cluster: &Cluster, keys: &Keys) -> u64 {
    use std::hash::{DefaultHasher, Hash};
    let mut hasher = DefaultHasher::new();
    (keys.epoch, &cluster.expected, cluster.protocol).hash(&mut hasher);
    hasher.finish()
}
