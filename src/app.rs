//! The one file that knows every part: build, run, drain.
//!
//! Two runtimes: one for control (watches, compile, admin), one for data, so that a slow decode never takes a request's thread.

mod explain;

use std::{
    fs::File,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, AdminState, outlets},
    cli::{AdminBind, Command, ConnectOptions, DevOptions, ProcessOptions, SCRAPE_PATH},
    config::mesh_file::MeshFile,
    control::{
        consul::{self, Client},
        embedded::Mesh,
        reconciler,
        watches::Watches,
    },
    proxy::{self, bindings::Bindings, listeners::Listeners, live::Workshop, serve::Patience},
    snapshot::{self, Subscriber},
    telemetry::{Telemetry, log::LogHandle},
};

/// How long the last metrics and the last lines of the access log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

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
pub fn run(command: Command, log: LogHandle) -> Result<ExitCode, Failure> {
    match command {
        Command::Connect(options) => connect(*options, log).map(|()| ExitCode::SUCCESS),
        Command::Dev(options) => dev(options, log).map(|()| ExitCode::SUCCESS),
        Command::Explain(options) => explain::run(*options),
        Command::Serve(_) | Command::Check(_) | Command::Schema(_) => {
            Err(Failure::Configuration(anyhow::anyhow!("the reverse proxy is not part of this version")))
        }
    }
}

/// `aralez connect`: the sidecar of one service.
fn connect(options: ConnectOptions, log: LogHandle) -> Result<(), Failure> {
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
    serve(&process, Outside { ready, scrape_path }, telemetry, log, shown, move |feed, stop| async move {
        consul::run(client, selector, default_policy, feed, known, stop).await.map_err(|why| Failure::Configuration(why.into()))
    })
}

/// `aralez dev`: a whole mesh in this process, on the embedded catalog.
fn dev(options: DevOptions, log: LogHandle) -> Result<(), Failure> {
    let file = MeshFile::load(options.mesh.as_deref()).map_err(Failure::Configuration)?;
    let telemetry = Arc::new(Telemetry::start()?);
    let outside = Outside { ready: None, scrape_path: SCRAPE_PATH.to_owned() };
    serve(&options.process, outside, telemetry, log, Arc::new(|| serde_json::json!([])), |feed, stop| async move {
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

/// Runs the data plane on what `source` feeds, with the admin API beside it, until a signal; then drains.
fn serve<S, F>(
    process: &ProcessOptions,
    outside: Outside,
    telemetry: Arc<Telemetry>,
    log: LogHandle,
    watches: ShowWatches,
    source: S,
) -> Result<(), Failure>
where
    S: FnOnce(reconciler::Feed, CancellationToken) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let mut data = Data::build(process.threads.get(), telemetry.clone())?;
    let control = Builder::new_current_thread().enable_all().build().context("cannot start the control runtime")?;
    let outcome = control.block_on(async {
        let (publisher, subscriber) = snapshot::channel();
        let (feed, reconciler) = reconciler::channel();
        let end = End::default();
        end.follow_signals()?;
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
        start_admin(process.admin, outside.ready, state, &end.stop)?;
        let outlets = tokio::spawn(outlets::run(subscriber.clone(), telemetry.clone(), outside.scrape_path, end.stop.clone()));
        tokio::spawn(count_reloads(subscriber.clone(), telemetry.clone()));
        tokio::spawn(reconciler.run(publisher, end.stop.clone()));
        let mut source = std::pin::pin!(source(feed, end.stop.clone()));
        let mut serving = std::pin::pin!(data.serve(subscriber, end.drain.clone(), process.grace));
        let outcome = tokio::select! {
            // A source ends only when it cannot go on.
            ended = &mut source => ended,
            served = &mut serving => served.map_err(Failure::from),
            () = end.now.cancelled() => Ok(()),
        };
        end.stop.cancel();
        // What was counted last is still sent.
        let _ = tokio::time::timeout(LAST_LINES, outlets).await;
        outcome
    });
    data.close();
    telemetry.access.flush(LAST_LINES);
    outcome
}

/// Notes each new snapshot, and whether all of it was usable.
async fn count_reloads(mut snapshots: Subscriber, telemetry: Arc<Telemetry>) {
    while let Some(snapshot) = snapshots.next().await {
        telemetry.metrics.config_reloaded(snapshot.problems.is_empty());
    }
}

/// Where the admin API of Envoy under Consul listens.
const USUAL_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 19000);

/// Starts the admin listeners that are wanted.
fn start_admin(admin: AdminBind, ready: Option<SocketAddr>, state: AdminState, stop: &CancellationToken) -> anyhow::Result<()> {
    let bind = |address: SocketAddr, flag: &str| {
        Admin::bind(address).with_context(|| format!("cannot listen on {address} for the admin API; choose another address with {flag}"))
    };
    let admin = match admin {
        AdminBind::Off => None,
        AdminBind::At(address) => Some(bind(address, "-admin-bind, or turn it off with -admin-bind off")?),
        // Several sidecars share a host, and none of them was told where: none of them may fail for it.
        AdminBind::Usual => Some(Admin::bind(USUAL_ADMIN).or_else(|_| bind(SocketAddr::new(USUAL_ADMIN.ip(), 0), "-admin-bind"))?),
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

/// The ways this process ends.
#[derive(Clone, Default)]
struct End {
    /// Set once it drains: not ready any more.
    draining: Arc<AtomicBool>,
    /// Begins the drain of the data plane.
    drain: CancellationToken,
    /// Ends the control plane, after the drain.
    stop: CancellationToken,
    /// Skips the drain.
    now: CancellationToken,
}

impl End {
    /// The first call begins the drain, a second one leaves at once.
    fn begin(&self, why: &str) {
        if self.draining.swap(true, Ordering::Relaxed) {
            tracing::warn!("{why} while draining: leaving at once");
            return self.now.cancel();
        }
        tracing::info!("{why}: draining");
        self.drain.cancel();
    }

    /// SIGTERM and SIGINT (Nomad's raw_exec sends the latter) both begin the drain.
    fn follow_signals(&self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot receive SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot receive SIGINT")?;
        let end = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => end.begin("SIGTERM"),
                    _ = interrupt.recv() => end.begin("SIGINT"),
                }
            }
        });
        Ok(())
    }
}

/// The data plane of this process with its own runtime.
struct Data {
    runtime: Runtime,
    bindings: Arc<Bindings>,
    listeners: Option<Listeners>,
}

impl Data {
    /// Builds the data plane with `threads` workers. Nothing listens yet.
    fn build(threads: usize, telemetry: Arc<Telemetry>) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("data").enable_all().build()?;
        let bindings = Arc::<Bindings>::default();
        let roots = NoRoots::new().context("cannot prepare TLS")?;
        let plane = {
            let _inside = runtime.enter();
            Arc::new(proxy::plane(threads, roots.path(), telemetry.clone(), Patience::default()))
        };
        let listeners = Listeners::new(plane, Workshop::new(telemetry), bindings.clone());
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
