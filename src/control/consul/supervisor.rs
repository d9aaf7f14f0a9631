//! Which watches should exist: derived anew from the registration and the chains after each report, then started and stopped.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use consul_api_types::{DiscoveryChain, HealthConnect};
use tokio::{
    sync::{mpsc, watch as slot},
    task::{Id, JoinSet},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error};

use super::{
    Context, Found, chain, checks, default_policy, endpoints, endpoints::View, intentions, jwt, leaf, mesh, query, registration, roots,
};
use crate::{
    control::{keys, reconciler::Change},
    model::{
        identity::ServiceName,
        jwt::{KeyPlace, KeySource, ProviderEntry},
        registration::{Chain, Registration, UpstreamConfig, UpstreamKey},
    },
};

/// The pause before a watch that ended by itself (a defect of ours) is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// One watch, by all that it asks with: another question is another watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Registration,
    Roots,
    Mesh,
    Leaf(ServiceName),
    Intentions(ServiceName),
    Providers,
    Keys(KeyPlace),
    DefaultPolicy(ServiceName, Arc<str>),
    Chain(UpstreamKey, DiscoveryChain),
    Endpoints(HealthConnect, Locality),
    Query(UpstreamConfig, Arc<str>),
    Checks(Arc<str>),
}

/// Whether instances are in our own datacenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Locality {
    Own,
    Other,
}

/// A running watch; dropping it stops it.
struct Running {
    task: Id,
    views: slot::Sender<Arc<[View]>>,
    _stop: DropGuard,
}

/// Runs the watches of one sidecar.
pub(super) struct Supervisor {
    context: Context,
    id: Arc<str>,
    reports: mpsc::UnboundedReceiver<Found>,
    registration: Option<Arc<Registration>>,
    chains: HashMap<UpstreamKey, Arc<Chain>>,
    /// The token issuers that the intentions name.
    required: BTreeSet<Arc<str>>,
    /// All token issuers.
    providers: Vec<Arc<ProviderEntry>>,
    running: HashMap<Source, Running>,
    tasks: JoinSet<()>,
}

impl Supervisor {
    pub(super) fn new(context: Context, id: Arc<str>, reports: mpsc::UnboundedReceiver<Found>) -> Self {
        let (registration, chains, required, providers, running, tasks) = Default::default();
        Self { context, id, reports, registration, chains, required, providers, running, tasks }
    }

    /// Runs until `shutdown`; then every watch has ended.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        self.adjust(Duration::ZERO);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(found) = self.reports.recv() => {
                    self.take(found);
                    self.adjust(Duration::ZERO);
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = ended.as_ref().map_or_else(|e| e.id(), |(id, ())| *id);
                    if let Some(source) = self.source_of(id) {
                        error!(?source, why = ?ended.err(), "a watch ended by itself; it is started again");
                        self.running.remove(&source);
                        self.adjust(RESTART_PAUSE);
                    }
                }
            }
        }
        self.running.clear();
        self.tasks.shutdown().await;
    }

    fn source_of(&self, task: Id) -> Option<Source> {
        self.running.iter().find(|(_, running)| running.task == task).map(|(source, _)| source.clone())
    }

    /// Notes a report and passes it on, before any watch that follows from it can say more.
    fn take(&mut self, found: Found) {
        match found {
            Found::Registration(registration) => {
                self.chains.retain(|key, _| registration.upstreams.iter().any(|u| u.key == *key));
                if self.registration.as_ref().is_some_and(|last| last.service != registration.service) {
                    self.require(BTreeSet::new());
                }
                self.context.feed.send(Change::Registration(registration.clone()));
                self.registration = Some(registration);
            }
            Found::Gone => {
                self.chains.clear();
                self.require(BTreeSet::new());
                self.registration = None;
                self.context.feed.send(Change::RegistrationGone);
            }
            Found::Required(names) => self.require(names),
            Found::Providers(providers) => {
                if let Ok(providers) = &providers {
                    self.providers.clone_from(providers);
                }
                self.context.feed.send(Change::Providers(providers));
            }
            Found::Chain(upstream, chain) => {
                let named = self.registration.iter().flat_map(|r| &r.upstreams).any(|u| u.key == upstream);
                if !named {
                    return;
                }
                if let Ok(chain) = &chain {
                    self.chains.insert(upstream.clone(), chain.clone());
                }
                self.context.feed.send(Change::Chain { upstream, chain });
            }
            Found::Checks(checks) => self.context.feed.send(Change::ExposedChecks(checks)),
            Found::Queried(upstream, chain, endpoints) => {
                for target in &chain.targets {
                    let (upstream, endpoints) = (upstream.clone(), endpoints.clone());
                    let known = Change::Endpoints { upstream: upstream.clone(), target: target.id.clone(), listed: Ok(endpoints) };
                    self.context.feed.send(Change::Chain { upstream, chain: Ok(chain.clone()) });
                    self.context.feed.send(known);
                }
            }
        }
    }

    /// Which token issuers matter. Once there is none they are no longer watched, and what was known of them is forgotten.
    fn require(&mut self, names: BTreeSet<Arc<str>>) {
        if names.is_empty() {
            self.providers.clear();
        }
        self.required = names;
    }

    /// The watches that should run, each with the targets that want its answers.
    fn wanted(&self) -> HashMap<Source, Vec<View>> {
        let mut wanted = HashMap::from([(Source::Registration, Vec::new())]);
        let Some(registration) = &self.registration else { return wanted };
        let service = &registration.service;
        let fixed = [
            Source::Roots,
            Source::Mesh,
            Source::Leaf(service.clone()),
            Source::Intentions(service.clone()),
            Source::DefaultPolicy(service.clone(), registration.datacenter.clone()),
        ];
        wanted.extend(fixed.map(|source| (source, Vec::new())));
        if !self.required.is_empty() {
            wanted.insert(Source::Providers, Vec::new());
        }
        for provider in self.providers.iter().filter(|provider| self.required.contains(&provider.name)) {
            if let KeySource::Place(place) = &provider.keys {
                wanted.insert(Source::Keys(place.clone()), Vec::new());
            }
        }
        if let Some(service) = &registration.exposes_checks {
            wanted.insert(Source::Checks(service.clone()), Vec::new());
        }
        for upstream in &registration.upstreams {
            if upstream.is_query {
                wanted.insert(Source::Query(upstream.clone(), registration.datacenter.clone()), Vec::new());
                continue;
            }
            wanted.insert(Source::Chain(upstream.key.clone(), chain::query(upstream)), Vec::new());
            // A target under resolvers that differ in balancing stands more than once; its instances are asked for and told once.
            let mut told = HashSet::new();
            for target in self.chains.get(&upstream.key).iter().flat_map(|chain| &chain.targets).filter(|target| told.insert(&target.id)) {
                let locality = if target.datacenter == registration.datacenter { Locality::Own } else { Locality::Other };
                let view = View { upstream: upstream.key.clone(), target: target.id.clone(), only_passing: target.only_passing };
                wanted.entry(Source::Endpoints(endpoints::query(target), locality)).or_default().push(view);
            }
        }
        wanted
    }

    /// Stops what should not run and starts what should; what is started waits for `pause` first.
    fn adjust(&mut self, pause: Duration) {
        let wanted = self.wanted();
        self.running.retain(|source, _| wanted.contains_key(source));
        for (source, views) in wanted {
            match self.running.entry(source) {
                Entry::Occupied(running) => {
                    let views: Arc<[View]> = views.into();
                    running.get().views.send_if_modified(|last| {
                        let changed = *last != views;
                        *last = views;
                        changed
                    });
                }
                Entry::Vacant(place) => {
                    let (sender, receiver) = slot::channel(Arc::from(views));
                    let stop = CancellationToken::new();
                    let watch = run(self.context.clone(), self.id.clone(), place.key().clone(), receiver);
                    let stopped = stop.clone();
                    debug!(source = ?place.key(), "watch started");
                    let task = self.tasks.spawn(async move {
                        stopped
                            .run_until_cancelled(async {
                                sleep(pause).await;
                                watch.await;
                            })
                            .await;
                    });
                    place.insert(Running { task: task.id(), views: sender, _stop: stop.drop_guard() });
                }
            }
        }
    }
}

async fn run(context: Context, id: Arc<str>, source: Source, views: slot::Receiver<Arc<[View]>>) {
    match source {
        Source::Registration => registration::run(&context, &id).await,
        Source::Roots => roots::run(&context.agent, |roots| context.feed.send(Change::Roots(roots))).await,
        Source::Mesh => mesh::run(&context.agent, |mesh| context.feed.send(Change::Mesh(mesh))).await,
        Source::Leaf(service) => leaf::run(&context.agent, &service, |leaf| context.feed.send(Change::Leaf(leaf))).await,
        Source::Intentions(service) => intentions::run(&context, &service).await,
        Source::Providers => jwt::run(&context).await,
        Source::Keys(place) => {
            let tell = |keys| context.feed.send(Change::Keys { place: place.clone(), keys });
            keys::run(&place, &context.agent.watches, tell).await;
        }
        Source::DefaultPolicy(service, datacenter) => default_policy::run(&context, &service, &datacenter).await,
        Source::Chain(upstream, query) => {
            let tell = |chain, _: &str| context.found(Found::Chain(upstream.clone(), chain));
            chain::run(&context.agent, &upstream, &query, tell).await;
        }
        Source::Query(upstream, own) => query::run(&context, &upstream.key, &upstream, &own).await,
        Source::Checks(service) => checks::run(&context, &service).await,
        Source::Endpoints(query, locality) => {
            let tell = |View { upstream, target, .. }, listed| context.feed.send(Change::Endpoints { upstream, target, listed });
            endpoints::run(&context.agent, &query, locality == Locality::Own, views, tell).await;
        }
    }
}
