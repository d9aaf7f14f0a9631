//! Keeps what is in force in step with its files, and with what is pushed.
//!
//! Routes are built aside from all their files, checked, and handed over whole, endpoints and all; if any of the files is bad, nothing changes. What says
//! the same as what is in force changes nothing either. A push stands in the place of `upstreams.yaml`, with `conf.d` over it, until one of the files
//! changes or SIGHUP asks for them: then the files hold again. Saving makes it the file.

pub mod certificates;
mod save;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    keys::Keys,
    pools::Pools,
    replace,
    watch::{Place, Watch, aside},
};
use crate::{
    config::{agent::AgentConfig, changes, kubernetes::Kubernetes},
    control::{
        kubernetes::{GATHER, ingresses::Ingresses},
        reconciler::{IngressChange, IngressFeed},
    },
    model::{ingress::Routing, registration::Unusable},
    telemetry::{
        Telemetry,
        metrics::{ReloadOf, Reloaded},
    },
};

/// What the problems of the routes' files are filed under.
const SOURCE: &str = "upstreams";

/// How many changes a line of the log names.
const NAMED: usize = 20;

/// The first changes, for the log.
fn some(changes: &[String]) -> String {
    let named = changes.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    match changes.len().checked_sub(NAMED) {
        None | Some(0) => named,
        Some(more) => format!("{named}; and {more} more"),
    }
}

/// Ingresses that change are left to gather for as long as the last look at them took, but no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Pushes that may wait for the one before them.
const WAITING_PUSHES: usize = 4;

/// Checked routes.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Which request goes where.
    pub routing: Arc<Routing>,
    /// The agents that Consul services are asked of.
    pub consul: Vec<AgentConfig>,
    /// The cluster of Kubernetes that Services and Ingresses are read from.
    pub kubernetes: Option<Kubernetes>,
    /// Files that they were made of beside the usual ones: secrets, certificates, key sets.
    pub also_read: Vec<PathBuf>,
    /// The configuration that says so, as one YAML text without its secrets.
    pub shown: Arc<str>,
    /// Names what is shown of it.
    pub version: Arc<str>,
}

/// Reads and checks the files of the routes, with a text in the place of `upstreams.yaml` if there is one. All that is wrong comes at once.
pub type Load = Arc<dyn Fn(Option<&str>) -> Result<Loaded, Vec<Unusable>> + Send + Sync>;

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// What it says.
    pub loaded: Loaded,
    /// Whether it was pushed rather than read from its files.
    pub pushed: bool,
    /// Since when.
    pub since: SystemTime,
}

/// A configuration that somebody pushes.
#[derive(Clone, Debug)]
pub struct Push {
    /// A whole `upstreams.yaml`.
    pub text: String,
    /// Whether it becomes the file.
    pub save: bool,
    /// Whether it is only checked.
    pub dry_run: bool,
}

/// A push that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The generation of the snapshot that holds it; `None` for one that was only checked.
    pub generation: Option<u64>,
    /// Its version.
    pub version: Arc<str>,
    /// What it changed, or would change, in words; a line each.
    pub changes: Vec<String>,
}

/// Why a push changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// All that is wrong with it.
    #[error("{} problems", .0.len())]
    Wrong(Vec<Unusable>),
    /// It could not become the file.
    #[error("{0}")]
    NotSaved(String),
    /// The process is shutting down.
    #[error("shutting down")]
    Ending,
}

/// A wish to read all files anew (SIGHUP). It is fulfilled once everybody who heard it has dropped it.
pub type Reread = Arc<oneshot::Sender<()>>;

struct Order {
    push: Push,
    answer: oneshot::Sender<Result<Taken, NotTaken>>,
}

/// Pushes configurations, and shows the one in force; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pushes {
    orders: mpsc::Sender<Order>,
    in_force: watch::Receiver<Arc<InForce>>,
}

impl Pushes {
    /// Hands a configuration over, and waits until a snapshot holds it.
    ///
    /// # Errors
    /// [`NotTaken`], and nothing changed.
    pub async fn push(&self, push: Push) -> Result<Taken, NotTaken> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { push, answer }).await.map_err(|_| NotTaken::Ending)?;
        answered.await.unwrap_or(Err(NotTaken::Ending))
    }

    /// The configuration in force.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.borrow().clone()
    }
}

/// Where the routes are read from.
pub struct Files {
    /// `upstreams.yaml`.
    pub main: PathBuf,
    /// `conf.d`; it need not exist.
    pub folder: PathBuf,
    /// Reads and checks them.
    pub load: Load,
}

impl Files {
    /// All that is watched.
    fn places(&self, also: &[PathBuf]) -> Vec<Place> {
        let own = [Place::File(self.main.clone()), Place::Folder { path: self.folder.clone(), endings: &["yaml"] }];
        own.into_iter().chain(also.iter().cloned().map(Place::File)).collect()
    }
}

/// Keeps the routes; see [`Routes::run`].
pub struct Routes {
    files: Files,
    watch: Watch,
    pools: Pools,
    keys: Keys,
    ingresses: Ingresses,
    /// What was handed over last: the routes of the files with those of Ingresses.
    handed: Option<Arc<Routing>>,
    feed: IngressFeed,
    telemetry: Arc<Telemetry>,
    orders: mpsc::Receiver<Order>,
    in_force: watch::Sender<Arc<InForce>>,
}

impl Routes {
    /// For routes that are handed over at once, or as soon as the cluster's Ingresses are known, with the pools and the keys that look after them.
    pub fn new(files: Files, loaded: Loaded, pools: Pools, keys: Keys, feed: IngressFeed, telemetry: Arc<Telemetry>) -> (Self, Pushes) {
        let watch = Watch::new(files.places(&loaded.also_read));
        let (sender, orders) = mpsc::channel(WAITING_PUSHES);
        telemetry.metrics.reloaded(ReloadOf::Files, Reloaded::Applied);
        telemetry.metrics.config_version(&loaded.version);
        let mut ingresses = Ingresses::default();
        ingresses.turn_to(pools.cluster(), loaded.kubernetes.as_ref());
        let (in_force, shown) = watch::channel(Arc::new(InForce { loaded, pushed: false, since: SystemTime::now() }));
        (
            Self { files, watch, pools, keys, ingresses, handed: None, feed, telemetry, orders, in_force },
            Pushes { orders: sender, in_force: shown },
        )
    }

    /// Follows the files, what is pushed, and wishes to read the files anew, until `stop`.
    pub async fn run(mut self, mut wishes: broadcast::Receiver<Reread>, stop: CancellationToken) {
        self.hand_over().await;
        // All files are new to a watch at first: a push that came before would be taken back by them.
        let mut files_known = false;
        // Until when Ingresses that change are left to gather: each look is at all of them, and a deployment brings hundreds.
        let mut rested = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.ingresses.changed(rested) => {
                    let began = Instant::now();
                    self.hand_over().await;
                    debug!(took = ?began.elapsed(), "looked at the Ingresses");
                    rested = Instant::now() + began.elapsed().clamp(GATHER, LONGEST_REST);
                }
                () = self.watch.changed() => {
                    self.reread().await;
                    files_known = true;
                }
                Ok(_done) = wishes.recv() => {
                    self.reread().await;
                    files_known = true;
                }
                Some(Order { push, answer }) = self.orders.recv(), if files_known => {
                    // Whoever no longer waits does not need to know.
                    let _ = answer.send(self.push(push).await);
                }
            }
        }
    }

    async fn reread(&mut self) {
        let load = self.files.load.clone();
        let loaded = self.watch.read(move || load(None)).await;
        let problems = loaded.as_ref().err().cloned().unwrap_or_default();
        self.feed.send(IngressChange::Problems { source: SOURCE.into(), problems });
        match loaded {
            Ok(loaded) => drop(self.put_in_force(loaded, ReloadOf::Files).await),
            Err(problems) => {
                warn!(
                    problems = problems.len(),
                    version = &*self.version(),
                    "the files of the routes cannot be used: what was in force stays"
                );
                self.telemetry.metrics.reloaded(ReloadOf::Files, Reloaded::Refused(&problems));
            }
        }
    }

    async fn push(&mut self, Push { text, save, dry_run }: Push) -> Result<Taken, NotTaken> {
        let (load, pushed) = (self.files.load.clone(), text.clone());
        let loaded = aside(move || load(Some(&pushed))).await.map_err(|problems| {
            if !dry_run {
                self.telemetry.metrics.reloaded(ReloadOf::Push, Reloaded::Refused(&problems));
            }
            NotTaken::Wrong(problems)
        })?;
        let version = loaded.version.clone();
        if dry_run {
            return Ok(Taken { generation: None, version, changes: self.changes(&loaded).await });
        }
        if save {
            // First, since it may fail. The watch will find the file changed, and that it says what is in force.
            let path = self.files.main.clone();
            let saved =
                aside(move || save::replace(&path, text.as_bytes()).map_err(|why| format!("cannot write {}: {why}", path.display())));
            saved.await.map_err(NotTaken::NotSaved)?;
        }
        let changes = self.put_in_force(loaded, ReloadOf::Push).await;
        let generation = self.feed.published().await.ok_or(NotTaken::Ending)?;
        Ok(Taken { generation: Some(generation), version, changes })
    }

    fn version(&self) -> Arc<str> {
        self.in_force.borrow().loaded.version.clone()
    }

    /// What a configuration changes of the one in force, in words; nothing where it means the same.
    async fn changes(&self, loaded: &Loaded) -> Vec<String> {
        let now = self.in_force.borrow().clone();
        let known = &now.loaded;
        if (&loaded.routing, &loaded.consul, &loaded.kubernetes) == (&known.routing, &known.consul, &known.kubernetes) {
            return Vec::new();
        }
        let shown = loaded.shown.clone();
        let said = aside(move || changes::between(&now.loaded.shown, &shown)).await;
        if said.is_empty() { vec!["secrets, or files that it names".to_owned()] } else { said }
    }

    /// Gives what it changed.
    async fn put_in_force(&mut self, loaded: Loaded, of: ReloadOf) -> Vec<String> {
        let now = self.in_force.borrow().clone();
        let said = self.changes(&loaded).await;
        let changes = !said.is_empty();
        if loaded.also_read != now.loaded.also_read {
            self.watch.turn_to(self.files.places(&loaded.also_read)).await;
        }
        let since = if changes { SystemTime::now() } else { now.since };
        self.telemetry.metrics.reloaded(of, if changes { Reloaded::Applied } else { Reloaded::Unchanged });
        self.telemetry.metrics.config_version(&loaded.version);
        self.in_force.send_replace(Arc::new(InForce { loaded: loaded.clone(), pushed: of == ReloadOf::Push, since }));
        if changes {
            self.pools.set_sources(loaded.consul, loaded.kubernetes.as_ref().map(|kubernetes| kubernetes.cluster.clone()));
            self.ingresses.turn_to(self.pools.cluster(), loaded.kubernetes.as_ref());
            self.handed = None;
            self.hand_over().await;
            info!(version = &*loaded.version, source = ?of, changes = some(&said), "new routes");
        }
        said
    }

    /// Hands over what is in force, with the Ingresses over it; not before these are known.
    async fn hand_over(&mut self) {
        let files = self.in_force.borrow().loaded.routing.clone();
        let Some(routing) = self.ingresses.over(&files, &self.feed) else { return };
        if self.handed.as_ref() != Some(&routing) {
            replace(routing.clone(), &mut self.pools, &mut self.keys, &self.feed).await;
            self.handed = Some(routing);
        }
    }
}

#[cfg(test)]
mod tests;
