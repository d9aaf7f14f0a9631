//! The endpoints of pools: names resolved, protocols detected, health probed, Consul asked; all in the background, never for a request.
//!
//! ```text
//! names ──┐
//!         ├── pool ── endpoints ── IngressFeed
//! consul ─┤    │
//! cluster ┤    │
//!         └── server: detect, probe        (one task a server, shared by the pools that ask the same of it)
//! ```
//!
//! Whatever is in use lives over a reload; a source that fails keeps what it said last.

mod detect;
mod dial;
mod mesh;
mod names;
mod notes;
mod observed;
mod pool;
mod probe;
mod server;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    mesh::Mesh,
    names::Addresses,
    notes::Notes,
    observed::{Running, Shared},
    pool::Known,
    server::{Judgement, Server},
};
use crate::{
    config::{agent::AgentConfig, kubernetes::ClusterConfig},
    control::{
        consul::services::{Agents, Instances},
        dns,
        kubernetes::Cluster,
        reconciler::{IngressChange, IngressFeed},
        watches::Watches,
    },
    model::{
        cluster::TargetId,
        ingress::{
            PoolEndpoints, Routing,
            pool::{ConsulService, KubernetesService, Pool},
        },
        listener::Address,
    },
    snapshot::PoolServices,
};

/// How long a new routing waits for first answers of servers that were not known before. Whoever has not answered by then counts as healthy, as the
/// servers of a restarted proxy must.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How servers are found.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The name servers to ask; none: the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// The Consul agents, the first that answers is asked; none: the usual address.
    pub consul: Vec<AgentConfig>,
    /// The cluster of Kubernetes; none: Services of it cannot be found.
    pub kubernetes: Option<ClusterConfig>,
    /// Where this process listens itself: such a server answers only once the first routing is served, so that none waits for it.
    pub own: Vec<Address>,
}

/// Finds the endpoints of pools and keeps them fresh.
#[derive(Debug)]
pub struct Pools {
    /// Locked while the present endpoints are read and told, so that none are told after newer ones.
    feed: Arc<Mutex<IngressFeed>>,
    sources: Arc<Sources>,
    /// Those of the routing in force.
    current: BTreeMap<TargetId, Arc<Followed>>,
    /// Those of the routing that comes.
    prepared: Mutex<BTreeMap<TargetId, Arc<Followed>>>,
    telling: Vec<AbortOnDropHandle<()>>,
}

/// A pool with the task that finds its endpoints.
#[derive(Debug)]
struct Followed {
    pool: Arc<Pool>,
    running: Arc<Running<Known>>,
    sources: Arc<Sources>,
}

impl Followed {
    /// Whether it does for `pool`, as asked of these sources.
    fn serves(&self, pool: &Pool, sources: &Arc<Sources>) -> bool {
        let own = &self.pool;
        Arc::ptr_eq(&self.sources, sources)
            && (&own.source, &own.health, &own.tls, own.proxy_header) == (&pool.source, &pool.health, &pool.tls, pool.proxy_header)
    }
}

impl Pools {
    /// No pools yet; what changes later is told to `feed`. The state of watches of Consul is shown in `watches`.
    pub fn new(feed: IngressFeed, settings: Settings, watches: Arc<Watches>) -> Self {
        let sources = Arc::new(Sources::new(&feed, settings, watches));
        Self { feed: Arc::new(Mutex::new(feed)), sources, current: BTreeMap::new(), prepared: Mutex::default(), telling: Vec::new() }
    }

    /// From the next routing on asks other Consul agents, or another cluster of Kubernetes.
    pub fn set_sources(&mut self, consul: Vec<AgentConfig>, kubernetes: Option<ClusterConfig>) {
        let settings = &self.sources.settings;
        if (&settings.consul, &settings.kubernetes) != (&consul, &kubernetes) {
            self.sources = Arc::new(self.sources.with(consul, kubernetes));
        }
    }

    /// The cluster that the next routing's Services are of.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.sources.cluster.as_ref()
    }

    /// Servers that are probed, by name and address, and whether each is healthy by all probes of it: what a metric shows.
    pub fn health(&self) -> impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static {
        let servers = self.sources.shared.clone();
        move || {
            let mut all: BTreeMap<String, f64> = BTreeMap::new();
            for (server, running) in servers.servers.all() {
                let healthy = f64::from(u8::from(running.now.get().healthy));
                all.entry(server.label()).and_modify(|known| *known = known.min(healthy)).or_insert(healthy);
            }
            all.into_iter().collect()
        }
    }

    /// The endpoints of all pools of a routing, and what is known of those in the mesh, as far as that can be known within a short while. Nothing
    /// of the routing in force changes.
    pub async fn prepare(&self, routing: &Routing) -> (PoolEndpoints, PoolServices) {
        let pools: BTreeMap<TargetId, Arc<Followed>> = routing.pools.iter().map(|pool| (pool.id.clone(), self.followed(pool))).collect();
        self.prepared.lock().clone_from(&pools);
        let (changed, end) = (Arc::new(Notify::new()), Instant::now() + PATIENCE);
        pools.values().for_each(|followed| followed.running.now.observe(&changed));
        while pools.values().any(|followed| !followed.running.now.get().settled) {
            if timeout_at(end, changed.notified()).await.is_err() {
                break;
            }
        }
        let (mut endpoints, mut services) = (PoolEndpoints::new(), PoolServices::new());
        for (id, followed) in pools {
            let known = followed.running.now.get();
            services.extend(known.service.map(|service| (id.clone(), service)));
            endpoints.insert(id, known.endpoints);
        }
        (endpoints, services)
    }

    /// From now on looks after the pools of this routing, and of no other. To be called once the routing was handed over.
    pub fn adopt(&mut self, routing: &Routing) {
        self.current = routing.pools.iter().map(|pool| (pool.id.clone(), self.followed(pool))).collect();
        self.prepared.lock().clear();
        let tell = |(id, followed): (&TargetId, &Arc<Followed>)| {
            let changed = Arc::new(Notify::new());
            followed.running.now.observe(&changed);
            // What changed since `prepare` was told to a routing that did not have it yet.
            changed.notify_one();
            let (feed, id, running) = (self.feed.clone(), id.clone(), followed.running.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    changed.notified().await;
                    let feed = feed.lock();
                    let (pool, Known { endpoints, service, .. }) = (id.clone(), running.now.get());
                    feed.send(match service {
                        None => IngressChange::Endpoints { pool, endpoints },
                        Some(known) => IngressChange::Service { pool, known },
                    });
                }
            }))
        };
        self.telling = self.current.iter().map(tell).collect();
    }

    /// The pool as it is followed already, or from now on.
    fn followed(&self, pool: &Arc<Pool>) -> Arc<Followed> {
        let prepared = self.prepared.lock().get(&pool.id).cloned();
        let known = prepared.into_iter().chain(self.current.get(&pool.id).cloned()).find(|known| known.serves(pool, &self.sources));
        known.unwrap_or_else(|| {
            let (pool, sources) = (pool.clone(), self.sources.clone());
            let running = Running::start(Known::default(), |now| pool::follow(pool.clone(), sources.clone(), now));
            Arc::new(Followed { pool, running, sources })
        })
    }
}

/// Where pools get what they know.
#[derive(Debug)]
pub struct Sources {
    settings: Settings,
    agents: Result<Agents, String>,
    resolver: Arc<Result<TokioResolver, String>>,
    notes: Arc<Notes>,
    feed: IngressFeed,
    watches: Arc<Watches>,
    shared: Arc<InUse>,
    /// Not shared with other agents, as what follows.
    services: Shared<ConsulService, Running<Instances>>,
    mesh: Mesh,
    cluster: Option<Arc<Cluster>>,
    /// Not shared with other clusters.
    cluster_services: Shared<KubernetesService, Running<Instances>>,
}

/// What does not depend on the agents.
#[derive(Debug, Default)]
struct InUse {
    names: Shared<Arc<str>, Running<Addresses>>,
    servers: Shared<Server, Running<Judgement>>,
}

impl Sources {
    fn new(feed: &IngressFeed, settings: Settings, watches: Arc<Watches>) -> Self {
        let resolver = dns::resolver(&settings.dns_servers, |options| {
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // Each name is asked for by its own clock.
            options.cache_size = 0;
        });
        Self {
            agents: Agents::new(&settings.consul),
            cluster: settings.kubernetes.clone().map(|config| Cluster::start(config, watches.clone())),
            settings,
            resolver: Arc::new(resolver),
            notes: Notes::new(feed.clone()),
            feed: feed.clone(),
            watches,
            shared: Arc::default(),
            services: Shared::default(),
            mesh: Mesh::default(),
            cluster_services: Shared::default(),
        }
    }

    fn with(&self, consul: Vec<AgentConfig>, kubernetes: Option<ClusterConfig>) -> Self {
        let same = self.cluster.clone().filter(|known| Some(&known.config) == kubernetes.as_ref());
        let start = |config| Cluster::start(config, self.watches.clone());
        Self {
            agents: Agents::new(&consul),
            cluster: same.or_else(|| kubernetes.clone().map(start)),
            cluster_services: Shared::default(),
            settings: Settings { consul, kubernetes, ..self.settings.clone() },
            resolver: self.resolver.clone(),
            notes: self.notes.clone(),
            feed: self.feed.clone(),
            watches: self.watches.clone(),
            shared: self.shared.clone(),
            services: Shared::default(),
            mesh: Mesh::default(),
        }
    }

    fn name(&self, name: &Arc<str>) -> Arc<Running<Addresses>> {
        self.shared.names.get_or(name, || {
            Running::start(Addresses::default(), |now| names::follow(self.resolver.clone(), name.clone(), now, self.notes.clone()))
        })
    }

    fn server(&self, server: &Server) -> Arc<Running<Judgement>> {
        self.shared.servers.get_or(server, || {
            let first = Judgement { settled: self.settings.own.contains(&server.address), ..Judgement::first(server.scheme) };
            Running::start(first, |now| server::watch(server.clone(), now, self.notes.clone()))
        })
    }

    fn kubernetes_service(&self, service: &KubernetesService) -> Arc<Running<Instances>> {
        self.cluster_services.get_or(service, || {
            let note = self.notes.note("kubernetes", format!("Service {}/{}", service.namespace, service.name));
            let (cluster, service) = (self.cluster.clone(), service.clone());
            Running::start(Instances::default(), |now| async move {
                let tell = |instances: Instances| {
                    match &instances.failed {
                        Some(why) => note.set(why.clone(), "see to the Service and its ports; until then its paths are answered with 503"),
                        None => note.clear(),
                    }
                    now.set(instances);
                };
                if let Some(cluster) = cluster {
                    cluster.follow(&service, tell).await;
                }
            })
        })
    }

    fn service(&self, service: &ConsulService) -> Arc<Running<Instances>> {
        self.services.get_or(service, || {
            let note = self.notes.note("consul", service.name.to_string());
            let (agents, service, watches) = (self.agents.clone(), service.clone(), self.watches.clone());
            Running::start(Instances::default(), |now| async move {
                let agents = match agents {
                    Ok(agents) => agents,
                    Err(why) => {
                        note.set(why, "correct the section `consul`");
                        return now.set(Instances { settled: true, ..Instances::default() });
                    }
                };
                let tell = |instances: Instances| {
                    match &instances.failed {
                        Some(why) => note.set(why.clone(), "see to the agent, the token, and the names of service and datacenter"),
                        None => note.clear(),
                    }
                    now.set(instances);
                };
                agents.follow(&service, &watches, tell).await;
            })
        })
    }
}
