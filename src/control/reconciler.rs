//! The one owner of the inputs: gathers changes, compiles, publishes, and says what is missing or wrong.

mod ingress;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::ingress::{IngressChange, IngressFeed};
use crate::{
    model::{
        cluster::{Endpoint, TargetId},
        credentials::{Leaf, Roots},
        intention::{DefaultPolicy, Intention},
        jwt::{KeyPlace, KeySet, ProviderEntry},
        mesh::MeshConfig,
        registration::{Chain, ExposedCheck, Registration, UpstreamKey},
        tracing::TracingSettings,
    },
    snapshot::{Inputs, Problem, Publisher, SidecarInputs, Snapshot, Status, TokenInputs, compile},
};

/// A burst is over when nothing came for this long …
const QUIET: Duration = Duration::from_millis(20);

/// … or when it has lasted this long: a deny must not wait for a busy catalog to calm down.
const LONGEST_BURST: Duration = Duration::from_millis(100);

/// One new fact about a sidecar. A failed read is no change: the last good value stays.
#[derive(Clone, Debug)]
pub enum Change {
    /// The proxy's registration.
    Registration(Arc<Registration>),
    /// The proxy is no longer registered: its listeners drain, and all that was known of it is forgotten.
    RegistrationGone,
    /// The sidecar is no longer (or was never) ours to work for: nothing is known of it, and nothing waits for it.
    Forget,
    /// Our leaf.
    Leaf(Leaf),
    /// The roots.
    Roots(Roots),
    /// The intentions towards us, all of them.
    Intentions(Vec<Intention>),
    /// The `jwt-provider` entries that the intentions name; sent before the intentions that do.
    RequiredProviders(BTreeSet<Arc<str>>),
    /// The `jwt-provider` entries, all of them, or why they cannot be read; those known before stay then.
    Providers(Result<Vec<Arc<ProviderEntry>>, String>),
    /// The keys of a place that an entry names, or why there are none; those known before stay then.
    Keys {
        /// The place.
        place: KeyPlace,
        /// Its keys.
        keys: Result<Arc<KeySet>, String>,
    },
    /// The default intention policy.
    DefaultPolicy(DefaultPolicy),
    /// The mesh entry; its default when there is none.
    Mesh(MeshConfig),
    /// The app's checks that are exposed.
    ExposedChecks(Vec<ExposedCheck>),
    /// An upstream's chain, or why there is none that can be followed.
    Chain {
        /// The upstream.
        upstream: UpstreamKey,
        /// Its chain.
        chain: Result<Arc<Chain>, String>,
    },
    /// The instances of a target, all of them, or why they could not be read; those known before stay then.
    Endpoints {
        /// The upstream.
        upstream: UpstreamKey,
        /// The target in the upstream's chain.
        target: TargetId,
        /// Its instances.
        listed: Result<Arc<[Arc<Endpoint>]>, String>,
    },
}

/// What the queue carries.
#[derive(Debug)]
enum Fed {
    /// A change of a sidecar, by its proxy id.
    Sidecar(Arc<str>, Change),
    /// A change of the reverse proxy.
    Ingress(IngressChange),
    /// Tells the generation that holds all that was fed before.
    Mark(oneshot::Sender<u64>),
}

/// Where sources bring their changes; cheap to clone.
///
/// The queue has no bound: each watch limits its own rate, and the reconciler never waits for anything but this queue.
#[derive(Clone, Debug)]
pub struct Feed {
    changes: mpsc::UnboundedSender<Fed>,
}

impl Feed {
    /// The feed of one sidecar, by its proxy id.
    pub fn sidecar(&self, id: impl Into<Arc<str>>) -> SidecarFeed {
        SidecarFeed { id: id.into(), feed: self.clone() }
    }

    /// The feed of the reverse proxy.
    pub fn ingress(&self) -> IngressFeed {
        IngressFeed { changes: self.changes.clone() }
    }
}

/// A [`Feed`] for one sidecar.
#[derive(Clone, Debug)]
pub struct SidecarFeed {
    id: Arc<str>,
    feed: Feed,
}

impl SidecarFeed {
    /// Hands over a change. Once the reconciler has ended, changes go nowhere: the process is shutting down.
    pub fn send(&self, change: Change) {
        let _ = self.feed.changes.send(Fed::Sidecar(self.id.clone(), change));
    }
}

/// Owns the inputs; made by [`channel`], driven by [`Reconciler::run`].
#[derive(Debug)]
pub struct Reconciler {
    changes: mpsc::UnboundedReceiver<Fed>,
    /// Who waits for what was fed so far to be published.
    marks: Vec<oneshot::Sender<u64>>,
    inputs: Inputs,
    known_problems: HashSet<Problem>,
}

/// A feed and the reconciler that it feeds.
pub fn channel() -> (Feed, Reconciler) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Feed { changes: sender },
        Reconciler { changes: receiver, marks: Vec::new(), inputs: Inputs::default(), known_problems: HashSet::new() },
    )
}

impl Reconciler {
    /// Says what holds for tracing where nothing else is said.
    #[must_use]
    pub fn with_tracing(mut self, defaults: TracingSettings) -> Self {
        self.inputs.tracing = defaults;
        self
    }

    /// Applies changes and publishes what follows from them, until `shutdown` or until no feed is left.
    ///
    /// A snapshot is published only when something in it differs from the last one.
    pub async fn run(mut self, publisher: Publisher, shutdown: CancellationToken) {
        while let Some(Some(fed)) = shutdown.run_until_cancelled(self.changes.recv()).await {
            self.apply(fed);
            self.gather().await;
            self.publish(&publisher);
        }
    }

    /// Applies what follows closely, so that a burst makes one snapshot.
    async fn gather(&mut self) {
        let end = Instant::now() + LONGEST_BURST;
        while let Ok(Some(fed)) = timeout_at(end.min(Instant::now() + QUIET), self.changes.recv()).await {
            self.apply(fed);
            if Instant::now() >= end {
                return;
            }
        }
    }

    fn apply(&mut self, fed: Fed) {
        match fed {
            Fed::Sidecar(id, change) => apply(&mut self.inputs, id, change),
            Fed::Ingress(change) => ingress::apply(self.inputs.ingress.get_or_insert_default(), change),
            Fed::Mark(done) => self.marks.push(done),
        }
    }

    fn publish(&mut self, publisher: &Publisher) {
        let last = publisher.current();
        let compiled = compile(&self.inputs, &last);
        if differs(&compiled.snapshot, &last) {
            self.tell(&compiled.snapshot);
            publisher.publish(compiled.snapshot);
        }
        // After the snapshot: who sees "nothing is missing" must find it there.
        publisher.report(Status { missing: compiled.missing, unserved: compiled.unserved });
        for done in self.marks.drain(..) {
            // Whoever no longer waits does not need to know.
            let _ = done.send(publisher.current().generation);
        }
    }

    /// Logs each problem when it appears and when it goes, never in between.
    fn tell(&mut self, snapshot: &Snapshot) {
        debug!(generation = snapshot.generation, listeners = snapshot.listeners.len(), "new snapshot");
        let current: HashSet<Problem> = snapshot.problems.iter().cloned().collect();
        for Problem { sidecar, path, why, advice } in current.difference(&self.known_problems) {
            warn!(sidecar, path, why, advice, "problem");
        }
        for Problem { sidecar, path, why, .. } in self.known_problems.difference(&current) {
            info!(sidecar, path, why, "problem solved");
        }
        self.known_problems = current;
    }
}

/// Whether readers would see anything new. Compiling keeps the `Arc` of a listener that did not change.
fn differs(new: &Snapshot, last: &Snapshot) -> bool {
    let same_listeners = new.listeners.len() == last.listeners.len()
        && new.listeners.iter().zip(&last.listeners).all(|((k, l), (last_k, last_l))| k == last_k && Arc::ptr_eq(l, last_l));
    !same_listeners || new.problems != last.problems || new.metrics != last.metrics || new.ignored != last.ignored
}

fn apply(inputs: &mut Inputs, id: Arc<str>, change: Change) {
    if let Change::Forget = change {
        inputs.sidecars.remove(&id);
        return;
    }
    let sidecar = inputs.sidecars.entry(id).or_default();
    match change {
        Change::Forget => {}
        Change::Registration(registration) => register(sidecar, registration),
        Change::RegistrationGone => *sidecar = SidecarInputs::default(),
        Change::Leaf(leaf) => sidecar.leaf = Some(leaf),
        Change::Roots(roots) => sidecar.roots = Some(roots),
        Change::Intentions(intentions) => sidecar.intentions = Some(intentions),
        Change::RequiredProviders(names) if names.is_empty() => sidecar.tokens = TokenInputs::default(),
        Change::RequiredProviders(names) => {
            sidecar.tokens.required = names;
            sidecar.tokens.forget();
        }
        Change::Providers(entries) => {
            let known = &mut sidecar.tokens.entries;
            if entries.is_ok() || !matches!(known, Some(Ok(_))) {
                *known = Some(entries);
            }
            sidecar.tokens.forget();
        }
        Change::Keys { place, keys } => {
            let known = sidecar.tokens.keys.get(&place).is_some_and(Result::is_ok);
            if sidecar.tokens.asks(&place) && (keys.is_ok() || !known) {
                sidecar.tokens.keys.insert(place, keys);
            }
        }
        Change::DefaultPolicy(policy) => sidecar.default_policy = Some(policy),
        Change::Mesh(mesh) => sidecar.mesh = Some(mesh),
        Change::ExposedChecks(checks) => sidecar.exposed_checks = checks,
        Change::Chain { upstream, chain } => {
            if names(sidecar, &upstream) {
                sidecar.upstreams.entry(upstream).or_default().take_chain(chain);
            }
        }
        Change::Endpoints { upstream, target, listed } => {
            if let Some(known) = sidecar.upstreams.get_mut(&upstream) {
                known.take_endpoints(target, listed);
            }
        }
    }
}

fn register(sidecar: &mut SidecarInputs, registration: Arc<Registration>) {
    if sidecar.registration.as_ref().is_some_and(|last| last.service != registration.service) {
        // Another identity: neither the leaf nor the intentions of the old one may ever serve the new one.
        *sidecar = SidecarInputs { roots: sidecar.roots.take(), mesh: sidecar.mesh.take(), ..SidecarInputs::default() };
    }
    sidecar.upstreams.retain(|key, _| registration.upstreams.iter().any(|u| u.key == *key));
    sidecar.registration = Some(registration);
}

fn names(sidecar: &SidecarInputs, upstream: &UpstreamKey) -> bool {
    sidecar.registration.as_ref().is_some_and(|r| r.upstreams.iter().any(|u| u.key == *upstream))
}

#[cfg(test)]
mod tests {

    use tokio::time::advance;

    use super::*;
    use crate::{
        control::testing,
        model::{
            balance::BalancePolicy,
            identity::ServiceName,
            intention::{Action, Pattern, Rule, Source},
            listener::{Protocol, Role},
            registration::{Naming, Target},
            route::RouteTable,
        },
        snapshot::{self, Subscriber},
    };

    fn start() -> (SidecarFeed, Subscriber, CancellationToken) {
        let (feed, reconciler) = channel();
        let (publisher, subscriber) = snapshot::channel();
        let shutdown = CancellationToken::new();
        tokio::spawn(reconciler.run(publisher, shutdown.clone()));
        (feed.sidecar("web-sidecar-proxy"), subscriber, shutdown)
    }

    fn send_all(feed: &SidecarFeed) {
        let (leaf, roots) = testing::credentials("web");
        feed.send(Change::Registration(Arc::new(testing::registration("web", &[]))));
        feed.send(Change::Leaf(leaf));
        feed.send(Change::Roots(roots));
        feed.send(Change::Intentions(Vec::new()));
        feed.send(Change::DefaultPolicy(DefaultPolicy::Deny));
        feed.send(Change::Mesh(MeshConfig::default()));
    }

    fn deny(name: &str) -> Intention {
        let source = Source { peer: None, partition: "default".into(), namespace: Pattern::Any, name: Pattern::parse(name) };
        Intention { source, destination: "web".to_owned(), precedence: 9, rule: Rule::Action(Action::Deny), jwt: None }
    }

    fn target(id: &str) -> Target {
        Target {
            id: TargetId(id.into()),
            service: ServiceName::local("api"),
            datacenter: "dc1".into(),
            naming: Naming::Chain("api.sni".into()),
            connect_timeout: Duration::from_secs(5),
            balance: BalancePolicy::default(),
            filter: "".into(),
            only_passing: false,
        }
    }

    fn chain(targets: &[&str]) -> Change {
        let targets: Vec<Target> = targets.iter().map(|id| target(id)).collect();
        let routes = Arc::new(RouteTable::direct(targets.len(), None));
        let chain = Chain { protocol: Protocol::Tcp, routes, targets, problems: Vec::new() };
        Change::Chain { upstream: UpstreamKey("api".into()), chain: Ok(Arc::new(chain)) }
    }

    fn endpoints(target: &str) -> Change {
        Change::Endpoints { upstream: UpstreamKey("api".into()), target: TargetId(target.into()), listed: Ok(Arc::new([])) }
    }

    fn failed(target: &str) -> Change {
        Change::Endpoints { upstream: UpstreamKey("api".into()), target: TargetId(target.into()), listed: Err("403".to_owned()) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_makes_one_snapshot_and_an_equal_value_none() {
        let (feed, mut subscriber, _shutdown) = start();
        send_all(&feed);
        let snapshot = subscriber.next().await.unwrap();
        assert_eq!((snapshot.generation, snapshot.listeners.len()), (1, 1));
        feed.send(Change::Intentions(Vec::new()));
        feed.send(Change::DefaultPolicy(DefaultPolicy::Deny));
        advance(LONGEST_BURST * 2).await;
        feed.send(Change::Intentions(vec![deny("api")]));
        assert_eq!(subscriber.next().await.unwrap().generation, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_named_until_it_arrives() {
        let (feed, subscriber, _shutdown) = start();
        feed.send(Change::Registration(Arc::new(testing::registration("web", &["api"]))));
        advance_until(|| subscriber.status().missing.contains(&"web-sidecar-proxy: leaf".to_owned())).await;
        send_all(&feed);
        advance_until(|| subscriber.status().missing.is_empty()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_burst_does_not_hold_back_a_deny() {
        let (feed, mut subscriber, _shutdown) = start();
        send_all(&feed);
        subscriber.next().await.unwrap();
        let sent = Instant::now();
        feed.send(Change::Intentions(vec![deny("api")]));
        let noise = feed.clone();
        let noise = tokio::spawn(async move {
            loop {
                noise.send(Change::DefaultPolicy(DefaultPolicy::Deny));
                tokio::time::sleep(QUIET / 2).await;
            }
        });
        let snapshot = subscriber.next().await.unwrap();
        noise.abort();
        assert!(sent.elapsed() <= LONGEST_BURST + QUIET, "took {:?}", sent.elapsed());
        let public = snapshot.listeners.values().next().unwrap();
        let Role::Inbound(inbound) = &public.role else { panic!("no inbound listener") };
        let api = testing::peer("api");
        assert!(inbound.intentions.authorize(&api).is_err_and(|denied| denied.reason() == "intention_denied"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_registration_takes_the_listeners_and_readiness_away() {
        let (feed, mut subscriber, _shutdown) = start();
        send_all(&feed);
        subscriber.next().await.unwrap();
        feed.send(Change::RegistrationGone);
        assert!(subscriber.next().await.unwrap().listeners.is_empty());
        advance_until(|| subscriber.status().missing.contains(&"web-sidecar-proxy: registration".to_owned())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_on_shutdown() {
        let (feed, mut subscriber, shutdown) = start();
        shutdown.cancel();
        assert!(subscriber.next().await.is_none());
        feed.send(Change::RegistrationGone);
    }

    /// Lets the reconciler work until `done`, in paused time.
    async fn advance_until(done: impl Fn() -> bool) {
        for _ in 0..100 {
            if done() {
                return;
            }
            tokio::time::sleep(QUIET).await;
        }
        panic!("it never happened");
    }

    fn applied(changes: Vec<Change>) -> SidecarInputs {
        let mut inputs = Inputs::default();
        for change in changes {
            apply(&mut inputs, "p".into(), change);
        }
        inputs.sidecars.remove("p").unwrap()
    }

    fn registration(upstreams: &[&str]) -> Change {
        Change::Registration(Arc::new(testing::registration("web", upstreams)))
    }

    #[test]
    fn endpoints_clear_a_failure_and_a_failure_keeps_endpoints() {
        let known = applied(vec![registration(&["api"]), chain(&["t1"]), failed("t1")]);
        assert_eq!(known.upstreams.values().next().unwrap().failed.len(), 1);
        let known = applied(vec![registration(&["api"]), chain(&["t1"]), failed("t1"), endpoints("t1"), failed("t1")]);
        let api = known.upstreams.values().next().unwrap();
        assert_eq!((api.failed.len(), api.endpoints.len()), (0, 1));
    }

    #[test]
    fn what_the_chain_or_the_registration_no_longer_names_is_forgotten() {
        let grown = vec![registration(&["api"]), chain(&["t1", "t2"]), endpoints("t1"), failed("t2")];
        let shrunk = applied([grown.clone(), vec![chain(&["t3"])]].concat());
        let api = shrunk.upstreams.values().next().unwrap();
        assert!(api.endpoints.is_empty() && api.failed.is_empty());
        assert!(applied([grown, vec![registration(&[]), endpoints("t1")]].concat()).upstreams.is_empty());
        assert!(applied(vec![registration(&[]), chain(&["t1"])]).upstreams.is_empty());
    }

    #[test]
    fn a_chain_that_cannot_be_followed_leaves_the_good_one_in_force() {
        let refused = || Change::Chain { upstream: UpstreamKey("api".into()), chain: Err("route 1: no".to_owned()) };
        let changes = vec![registration(&["api"]), refused(), chain(&["t1"]), refused(), endpoints("t1")];
        let known = applied(changes.clone()).upstreams.into_values().next().unwrap();
        assert!(known.chain.unwrap().is_ok() && known.endpoints.len() == 1 && known.refused.as_deref() == Some("route 1: no"));
        let known = applied([changes, vec![chain(&["t1"])]].concat()).upstreams.into_values().next().unwrap();
        assert_eq!((known.endpoints.len(), known.refused), (1, None));
    }

    #[test]
    fn a_changed_service_forgets_the_old_identity_and_its_intentions() {
        let (leaf, roots) = testing::credentials("web");
        let other = Change::Registration(Arc::new(testing::registration("shop", &[])));
        let known = applied(vec![registration(&[]), Change::Leaf(leaf), Change::Roots(roots), Change::Intentions(Vec::new()), other]);
        assert!(known.leaf.is_none() && known.intentions.is_none() && known.roots.is_some());
    }
}
