//! The one file that knows every part: build, run, drain.
//!
//! Two runtimes: one for control (watches, compile, admin), one for data, so that a slow decode never takes a request's thread.

mod ask;
mod check;
mod explain;
mod ingress;
mod life;

use std::{fs::File, io::Write, net::SocketAddr, os::fd::AsRawFd, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use openssl::{
    asn1::Asn1Time,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    x509::X509,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use self::life::{End, Reload, Signals};
use crate::{
    admin::{Admin, AdminState, outlets},
    cli::{AdminBind, Command, ConnectOptions, DevOptions, ProcessOptions, SCRAPE_PATH, USUAL_ADMIN},
    config::{self, mesh_file::MeshFile, process::ProcessSettings},
    control::{
        consul::{self, Client},
        embedded::Mesh,
        reconciler,
        watches::Watches,
    },
    model::{
        listener::{Address, Bind},
        tracing::TracingSettings,
    },
    process::{sockets::Sockets, standing::Standing},
    proxy::{self, bindings::Bindings, listeners::Listeners, live::Workshop, serve::Patience},
    snapshot::{self, Subscriber},
    telemetry::{
        self, Telemetry,
        log::{Level, LogHandle},
    },
};

/// How long the last metrics and the last lines of the access log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent, to a collector that may be away.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// How a command that was understood can fail.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be used: exit code 2.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// Something broke: exit code 1.
    #[error("{0:#}")]
    Running(#[from] anyhow::Error),
}

/// Runs a command to its end; gives what it exits with if it did not fail.
///
/// # Errors
/// [`Failure`], which knows its exit code.
pub fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Connect(options) => life::enter(&options.process.clone(), |standing, log| connect(*options, standing, log)),
        Command::Dev(options) => life::enter(&options.process.clone(), |standing, log| dev(options, standing, log)),
        Command::Explain(options) => {
            // It tells what it found on standard output.
            telemetry::log::install(Level::Error, false, false).context("cannot set up the log")?;
            explain::run(*options)
        }
        Command::Serve(options) => ingress::run(options),
        Command::Check(options) => check::run(*options),
        Command::Schema(of) => Ok(check::schema(of)),
        Command::Status(options) => ask::status(options),
        Command::Wait(admin, patience) => ask::wait(admin, patience),
        Command::Drain(admin) => ask::drain(admin),
    }
}

/// `aralez connect`: the sidecar of one service.
fn connect(options: ConnectOptions, standing: Standing, log: LogHandle) -> Result<(), Failure> {
    let ConnectOptions { selector, agent, default_policy, ready, scrape_path, process, notes } = options;
    for note in notes {
        tracing::warn!("{note}");
    }
    let client = Client::new(agent).map_err(|problem| Failure::Configuration(problem.into()))?;
    let watches = Arc::new(Watches::default());
    let known = watches.clone();
    let telemetry = Arc::new(Telemetry::start()?);
    let timed = watches.clone();
    telemetry
        .metrics
        .consul_last_success_from(move || timed.snapshot().into_iter().filter_map(|w| Some((w.name, w.last_success?))).collect());
    let shown: ShowWatches = Arc::new(move || serde_json::json!(watches.snapshot()));
    let counted = telemetry.clone();
    serve(&process, standing, Outside { ready, scrape_path }, telemetry, log, shown, move |feed, around, stop| async move {
        tokio::spawn(count_reloads(around.snapshots, counted));
        consul::run(client, selector, default_policy, feed, known, stop).await.map_err(|why| Failure::Configuration(why.into()))
    })
}

/// `aralez dev`: a whole mesh in this process, on the embedded catalog.
fn dev(options: DevOptions, standing: Standing, log: LogHandle) -> Result<(), Failure> {
    let file = MeshFile::load(options.mesh.as_deref()).map_err(Failure::Configuration)?;
    let telemetry = Arc::new(Telemetry::start()?);
    let outside = Outside { ready: None, scrape_path: SCRAPE_PATH.to_owned() };
    let counted = telemetry.clone();
    serve(&options.process, standing, outside, telemetry, log, Arc::new(|| serde_json::json!([])), |feed, around, stop| async move {
        tokio::spawn(count_reloads(around.snapshots, counted));
        let mesh = Mesh::prepare(file)?;
        println!("{}", mesh.plan());
        Ok(mesh.run(feed, stop).await?)
    })
}

/// What is served beside the admin API.
struct Outside {
    /// A listener for probes.
    ready: Option<SocketAddr>,
    /// Where Prometheus looks on the listener that a registration asks for.
    scrape_path: String,
}

/// How the admin API asks for the state of the watches.
type ShowWatches = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What a source finds around it, beside its feed.
struct Around {
    /// Wishes to read the configuration anew.
    reloads: mpsc::Receiver<Reload>,
    snapshots: Subscriber,
    bindings: Arc<Bindings>,
    sockets: Arc<Sockets>,
    /// Ends what only one process can do.
    alone: CancellationToken,
}

/// Runs the data plane on what `source` feeds, with the admin API beside it, until a signal; then drains.
fn serve<S, F>(
    process: &ProcessOptions,
    mut standing: Standing,
    outside: Outside,
    telemetry: Arc<Telemetry>,
    log: LogHandle,
    watches: ShowWatches,
    source: S,
) -> Result<(), Failure>
where
    S: FnOnce(reconciler::Feed, Around, CancellationToken) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let ProcessOptions { admin, settings } = process;
    let mut data = Data::build(settings, standing.sockets.clone(), telemetry.clone())?;
    let end = End { bindings: data.bindings.clone(), ..End::default() };
    let control = Builder::new_current_thread().enable_all().build().context("cannot start the control runtime")?;
    let outcome = control.block_on(async {
        let (publisher, subscriber) = snapshot::channel();
        let (feed, reconciler) = reconciler::channel();
        let (reloads, reload_wishes) = mpsc::channel(1);
        let (log_file, can_hand_over) = (standing.log_file.clone(), standing.can_hand_over());
        Signals { end: end.clone(), telemetry: telemetry.clone(), log_file, can_hand_over, reloads }.follow()?;
        let (bindings, guards) = (data.bindings.clone(), data.bindings.clone());
        let state = AdminState {
            snapshots: subscriber.clone(),
            telemetry: telemetry.clone(),
            log,
            watches,
            pending: Arc::new(move || bindings.pending()),
            protection: Arc::new(move |listener, target| Some(serde_json::json!(guards.protection(listener, target)?))),
            draining: end.draining.clone(),
            drain: Arc::new({
                let end = end.clone();
                move || end.begin("POST /drain")
            }),
        };
        start_admin(*admin, outside.ready, state, &standing.sockets, &end.alone)?;
        let outlets = tokio::spawn(outlets::run(subscriber.clone(), telemetry.clone(), outside.scrape_path, end.alone.clone()));
        tokio::spawn(reconciler.with_tracing(tracing_defaults()).run(publisher, end.stop.clone()));
        let (snapshots, bindings) = (subscriber.clone(), data.bindings.clone());
        // A start does not wait for what single routes lack; a take-over does, since the running process may have it.
        let waits_for_all = standing.is_taking_over();
        let missing = move || {
            let status = snapshots.status();
            let unserved = if waits_for_all { status.unserved.clone() } else { Vec::new() };
            [status.missing.clone(), unserved, bindings.pending()].concat()
        };
        let around = Around {
            reloads: reload_wishes,
            snapshots: subscriber.clone(),
            bindings: data.bindings.clone(),
            sockets: standing.sockets.clone(),
            alone: end.alone.clone(),
        };
        let mut source = std::pin::pin!(source(feed, around, end.stop.clone()));
        let mut serving = std::pin::pin!(data.serve(subscriber, end.drain.clone(), settings.grace));
        let mut tending = std::pin::pin!(life::tend(&mut standing, &end, missing));
        let outcome = tokio::select! {
            // A source ends only when it cannot go on.
            ended = &mut source => ended,
            served = &mut serving => served.map_err(Failure::from),
            failed = &mut tending => failed.map(|never| match never {}).map_err(Failure::from),
            () = end.now.cancelled() => Ok(()),
        };
        end.alone.cancel();
        end.stop.cancel();
        // What was counted last is still sent.
        let _ = tokio::time::timeout(LAST_LINES, outlets).await;
        outcome
    });
    let handed_over = end.bindings.is_handed_over();
    data.close();
    telemetry.access.flush(LAST_LINES);
    telemetry.traces.flush(LAST_SPANS);
    standing.end(settings, handed_over);
    outcome
}

/// What the environment says of tracing.
fn tracing_defaults() -> TracingSettings {
    let (settings, unusable) = config::tracing::environment(|name| std::env::var(name).ok());
    for why in unusable {
        tracing::warn!("{why}");
    }
    settings
}

/// Notes each new snapshot, and whether all of it was usable.
async fn count_reloads(mut snapshots: Subscriber, telemetry: Arc<Telemetry>) {
    while let Some(snapshot) = snapshots.next().await {
        telemetry.metrics.config_reloaded(snapshot.problems.is_empty());
    }
}

/// Starts the admin listeners that are wanted.
fn start_admin(
    admin: AdminBind,
    ready: Option<SocketAddr>,
    state: AdminState,
    sockets: &Sockets,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listen = |address: SocketAddr| {
        let socket = sockets.listen_for_good(&Bind { address: Address::Tcp(address), mode: None })?;
        Admin::on(socket.into())
    };
    let bind = |address: SocketAddr, flag: &str| {
        listen(address).with_context(|| format!("cannot listen on {address} for the admin API; choose another address with {flag}"))
    };
    let admin = match admin {
        AdminBind::Off => None,
        AdminBind::At(address) => Some(bind(address, "-admin-bind, or turn it off with -admin-bind off")?),
        // Several sidecars share a host, and none of them was told where: none of them may fail for it.
        AdminBind::Usual => Some(listen(USUAL_ADMIN).or_else(|_| bind(SocketAddr::new(USUAL_ADMIN.ip(), 0), "-admin-bind"))?),
    };
    if let Some(admin) = admin {
        tracing::info!(address = %admin.address(), "admin API");
        tokio::spawn(admin.serve(state.clone(), stop.clone().cancelled_owned()));
    }
    if let Some(address) = ready {
        let ready = bind(address, "-envoy-ready-bind-port")?;
        tokio::spawn(ready.serve_ready(state, stop.clone().cancelled_owned()));
    }
    Ok(())
}

/// The data plane of this process with its own runtime.
struct Data {
    runtime: Runtime,
    bindings: Arc<Bindings>,
    listeners: Option<Listeners>,
}

impl Data {
    /// Builds the data plane, which will take its sockets from `sockets`. Nothing is accepted yet.
    fn build(settings: &ProcessSettings, sockets: Arc<Sockets>, telemetry: Arc<Telemetry>) -> anyhow::Result<Self> {
        let threads = settings.workers().get();
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("data").enable_all().build()?;
        let pool = settings.keepalive_pool.unwrap_or(proxy::POOL * threads);
        let bindings = Arc::<Bindings>::default();
        let roots = NoRoots::new().context("cannot prepare TLS")?;
        let plane = {
            let _inside = runtime.enter();
            Arc::new(proxy::plane(threads, pool, roots.path(), telemetry.clone(), Patience::default()))
        };
        let listeners = Listeners::new(plane, Workshop::new(telemetry), sockets, bindings.clone());
        Ok(Self { runtime, bindings, listeners: Some(listeners) })
    }

    /// Serves what the snapshots say until `shutdown`, then drains within `grace`.
    async fn serve(&mut self, snapshots: Subscriber, shutdown: CancellationToken, grace: Duration) -> anyhow::Result<()> {
        let Some(listeners) = self.listeners.take() else { return Ok(()) };
        self.runtime.spawn(listeners.run(snapshots, shutdown, grace)).await.context("the data plane ended unexpectedly")
    }

    /// Ends the runtime; what is still running on it is cut.
    fn close(self) {
        self.runtime.shutdown_timeout(Duration::from_millis(100));
    }
}

/// A file in memory with one certificate that signs nothing, in place of the system's roots.
struct NoRoots(File);

impl NoRoots {
    fn new() -> anyhow::Result<Self> {
        let key = PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)?;
        let mut certificate = X509::builder()?;
        certificate.set_pubkey(&key)?;
        certificate.set_not_before(&*Asn1Time::from_unix(0)?)?;
        certificate.set_not_after(&*Asn1Time::from_unix(1)?)?;
        certificate.sign(&key, MessageDigest::sha256())?;
        let mut file = File::from(rustix::fs::memfd_create("no-roots", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(&certificate.build().to_pem()?)?;
        Ok(Self(file))
    }

    /// Its path, for as long as it lives.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}
