//! The one file that knows every part: build, run, drain.
//!
//! Two runtimes: one for control (watches, compile, admin), one for data, so that a slow decode never takes a request's thread.

use std::{
    fs::File,
    io::Write,
    os::fd::AsRawFd,
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
    cli::{Command, ConnectOptions, ProcessOptions},
    control::{
        consul::{self, Client},
        reconciler,
        watches::Watches,
    },
    proxy::{
        self,
        listeners::{Listeners, Unbound},
        live::Workshop,
    },
    snapshot::{self, Subscriber},
    telemetry::{Telemetry, log::LogHandle},
};

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

/// Runs a command to its end.
///
/// # Errors
/// [`Failure`], which knows its exit code.
pub fn run(command: Command, log: LogHandle) -> Result<(), Failure> {
    match command {
        Command::Connect(options) => connect(*options, log),
        Command::Dev(_) => Ok(()),
    }
}

/// `aralez connect`: the sidecar of one service.
fn connect(options: ConnectOptions, log: LogHandle) -> Result<(), Failure> {
    let ConnectOptions { selector, agent, process, notes, .. } = options;
    for note in notes {
        tracing::warn!("{note}");
    }
    let client = Client::new(agent).map_err(|problem| Failure::Configuration(problem.into()))?;
    let watches = Arc::new(Watches::default());
    let known = watches.clone();
    serve(&process, log, move |feed, stop| async move {
        consul::run(client, selector, feed, known, stop).await.map_err(|why| Failure::Configuration(why.into()))
    })
}

/// Runs the data plane on what `source` feeds, with the admin API beside it, until a signal; then drains.
fn serve<S, F>(process: &ProcessOptions, _log: LogHandle, source: S) -> Result<(), Failure>
where
    S: FnOnce(reconciler::Feed, CancellationToken) -> F,
    F: Future<Output = Result<(), Failure>> + 'static,
{
    let telemetry = Arc::new(Telemetry::start()?);
    let mut data = Data::build(process.threads.get(), telemetry)?;
    let control = Builder::new_current_thread().enable_all().build().context("cannot start the control runtime")?;
    let outcome = control.block_on(async {
        let (publisher, subscriber) = snapshot::channel();
        let (feed, reconciler) = reconciler::channel();
        // `drain` begins the end, `stop` ends the control plane after it, `now` skips the drain.
        let (drain, stop, now) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let draining = Arc::new(AtomicBool::new(false));
        follow_signals(draining.clone(), drain.clone(), now.clone())?;
        tokio::spawn(reconciler.run(publisher, stop.clone()));
        let mut source = std::pin::pin!(source(feed, stop.clone()));
        let mut serving = std::pin::pin!(data.serve(subscriber, drain, process.grace));
        let outcome = tokio::select! {
            // A source ends only when it cannot go on.
            ended = &mut source => ended,
            served = &mut serving => served.map_err(Failure::from),
            () = now.cancelled() => Ok(()),
        };
        stop.cancel();
        outcome
    });
    data.close();
    outcome
}

/// The data plane of this process with its own runtime.
pub struct Data {
    runtime: Runtime,
    /// What it records into.
    pub telemetry: Arc<Telemetry>,
    /// Listeners that could not be brought up.
    pub unbound: Unbound,
    listeners: Option<Listeners>,
}

impl Data {
    /// Builds the data plane with `threads` workers. Nothing listens yet.
    ///
    /// # Errors
    /// When the system gives no threads or memory.
    pub fn build(threads: usize, telemetry: Arc<Telemetry>) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("data").enable_all().build()?;
        let unbound = Unbound::default();
        let roots = NoRoots::new().context("cannot prepare TLS")?;
        let plane = {
            let _inside = runtime.enter();
            Arc::new(proxy::plane(threads, roots.path(), telemetry.clone()))
        };
        let listeners = Listeners::new(plane, Workshop::new(telemetry.clone()), unbound.clone());
        Ok(Self { runtime, telemetry, unbound, listeners: Some(listeners) })
    }

    /// Serves what the snapshots say until `shutdown`, then drains within `grace`.
    pub async fn serve(&mut self, snapshots: Subscriber, shutdown: CancellationToken, grace: Duration) -> anyhow::Result<()> {
        let Some(listeners) = self.listeners.take() else { return Ok(()) };
        self.runtime.spawn(listeners.run(snapshots, shutdown, grace)).await.context("the data plane ended unexpectedly")
    }

    /// Ends the runtime; what is still running on it is cut.
    pub fn close(self) {
        self.runtime.shutdown_timeout(Duration::from_millis(100));
    }
}

/// Waits for SIGTERM or SIGINT: the first begins the drain, a second one ends it at once.
///
/// # Errors
/// When signals cannot be received.
pub fn follow_signals(draining: Arc<AtomicBool>, shutdown: CancellationToken, now: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if draining.swap(true, Ordering::Relaxed) {
                tracing::warn!("{name} again: leaving at once");
                return now.cancel();
            }
            tracing::info!("{name}: draining");
            shutdown.cancel();
        }
    });
    Ok(())
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
