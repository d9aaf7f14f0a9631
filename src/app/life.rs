//! How the process comes into service, and how it leaves: readiness, signals, hand-over.

use std::{
    convert::Infallible,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::{
    cli::{AdminBind, ProcessOptions},
    model::listener::{Address, Bind},
    process::{
        background::{self, Entered},
        handover::{Name, Named},
        log_file::LogFile,
        notify,
        privileges::Account,
        standing::Standing,
    },
    proxy::bindings::Bindings,
    telemetry::{
        Telemetry,
        log::{self, LogHandle},
    },
};

/// How long a new process may take until it serves all listeners, and how long SIGQUIT waits for one.
const TAKE_OVER: Duration = Duration::from_secs(60);
/// How often it is looked whether all is served at start.
const LOOK: Duration = Duration::from_millis(20);

/// A wish to read the configuration files anew (SIGHUP); dropped or answered once that is done.
pub(super) type Reload = oneshot::Sender<()>;

/// Takes what the options say from the operating system and goes on with it: in the background, if they want that.
pub(super) fn enter(process: &ProcessOptions, go: impl FnOnce(Standing, LogHandle) -> Result<(), Failure>) -> Result<ExitCode, Failure> {
    let mut settings = process.settings.clone();
    if let AdminBind::At(address) = process.admin {
        settings.listen.push(Bind { address: Address::Tcp(address), mode: None });
    }
    let account = Account::find(settings.user.as_deref(), settings.group.as_deref()).map_err(Failure::Configuration)?;
    let background = match settings.daemon.then(background::enter).transpose()? {
        Some(Entered::Outside(code)) => return Ok(code),
        Some(Entered::Inside(background)) => Some(background),
        None => None,
    };
    let log = log::install(settings.log_level, settings.log_json, settings.error_log.is_some()).context("cannot set up the log")?;
    go(Standing::take(&settings, account.as_ref(), background)?, log).map(|()| ExitCode::SUCCESS)
}

/// The ways this process ends.
#[derive(Clone, Debug, Default)]
pub(super) struct End {
    /// Set once it drains: not ready any more.
    pub(super) draining: Arc<AtomicBool>,
    /// Begins the drain of the data plane.
    pub(super) drain: CancellationToken,
    /// Ends what only one process can do: the listeners that no data plane drains.
    pub(super) alone: CancellationToken,
    /// Ends the control plane, after the drain.
    pub(super) stop: CancellationToken,
    /// Skips the drain.
    pub(super) now: CancellationToken,
    pub(super) bindings: Arc<Bindings>,
}

impl End {
    /// The first call begins the drain, a second one leaves at once.
    pub(super) fn begin(&self, why: &str) {
        if self.draining.swap(true, Ordering::Relaxed) {
            tracing::warn!("{why} while draining: leaving at once");
            return self.now.cancel();
        }
        tracing::info!("{why}: draining");
        notify::stopping();
        self.drain.cancel();
    }

    /// Another process serves all listeners.
    fn hand_over(&self, pid: i32) {
        self.bindings.hand_over();
        if self.draining.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::info!("process {pid} serves now: draining");
        notify::successor(pid.unsigned_abs());
        self.alone.cancel();
        self.drain.cancel();
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Waits until nothing is `missing` any more, tells everybody who waits for that, and then waits at the door for the next process.
///
/// # Errors
/// When a take-over does not come to pass, or what belongs to it cannot be had.
pub(super) async fn tend(standing: &mut Standing, end: &End, missing: impl Fn() -> Vec<String>) -> anyhow::Result<Infallible> {
    let deadline = Instant::now() + TAKE_OVER;
    loop {
        let missing = missing();
        if missing.is_empty() || end.is_draining() {
            break;
        }
        ensure!(
            !standing.is_taking_over() || Instant::now() < deadline,
            "cannot take over from the running process, which goes on: not served within {TAKE_OVER:?}: {}",
            missing.join(", ")
        );
        sleep(LOOK).await;
    }
    if end.is_draining() {
        std::future::pending::<()>().await;
    }
    standing.serves()?;
    if let Some((door, own)) = standing.door()? {
        let (end, sockets) = (end.clone(), standing.sockets.clone());
        let all = move |end: &End| {
            ensure!(!end.is_draining(), "it is about to end");
            let copies = own.iter().map(|(name, descriptor)| Ok((name.clone(), descriptor.try_clone()?)));
            let listeners = end.bindings.sockets()?.into_iter().chain(sockets.lasting()?);
            copies.chain(listeners.map(|(address, socket)| Ok((Name::Listener(address), socket)))).collect::<anyhow::Result<Vec<Named>>>()
        };
        thread::Builder::new().name("door".to_owned()).spawn(move || {
            let pid = door.wait(|| all(&end));
            end.hand_over(pid.as_raw_nonzero().get());
        })?;
    }
    notify::ready();
    Ok(notify::stay_alive().await)
}

/// What signals act on.
pub(super) struct Signals {
    pub(super) end: End,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) log_file: Option<Arc<LogFile>>,
    /// Whether SIGQUIT waits for a new process.
    pub(super) can_hand_over: bool,
    /// Who reads files anew; gone where nothing comes from files.
    pub(super) reloads: mpsc::Sender<Reload>,
}

impl Signals {
    /// SIGTERM and SIGINT (Nomad's raw_exec sends the latter) begin the drain; SIGQUIT hands over, or drains where that is not set up; SIGHUP reads
    /// the files anew; SIGUSR1 opens the logs anew.
    ///
    /// # Errors
    /// When the system does not let signals be received.
    pub(super) fn follow(self) -> anyhow::Result<()> {
        let on = |kind: SignalKind| -> anyhow::Result<Signal> { signal(kind).with_context(|| format!("cannot receive {kind:?}")) };
        let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let (mut quit, mut hangup, mut reopen) = (on(SignalKind::quit())?, on(SignalKind::hangup())?, on(SignalKind::user_defined1())?);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => self.end.begin("SIGTERM"),
                    _ = interrupt.recv() => self.end.begin("SIGINT"),
                    _ = quit.recv() => self.quit(),
                    _ = hangup.recv() => self.reload(),
                    _ = reopen.recv() => self.reopen(),
                }
            }
        });
        Ok(())
    }

    fn quit(&self) {
        if self.end.bindings.is_handed_over() {
            return tracing::info!("SIGQUIT: handed over already");
        }
        if !self.can_hand_over {
            return self.end.begin("SIGQUIT");
        }
        tracing::info!("SIGQUIT: waiting for a new process (-u) to take over, for {TAKE_OVER:?}");
        let end = self.end.clone();
        tokio::spawn(async move {
            sleep(TAKE_OVER).await;
            if !end.is_draining() {
                tracing::warn!("no new process took over within {TAKE_OVER:?} after SIGQUIT: this one goes on");
            }
        });
    }

    fn reload(&self) {
        let reloads = self.reloads.clone();
        tokio::spawn(async move {
            let (done, wait) = oneshot::channel();
            notify::reloading();
            match reloads.send(done).await {
                Ok(()) => {
                    tracing::info!("SIGHUP: reading the configuration anew");
                    // Dropped is done as well: the one who reads has said in the log what is wrong.
                    let _ = wait.await;
                }
                Err(_) => tracing::info!("SIGHUP: nothing is read from files here"),
            }
            notify::ready();
        });
    }

    fn reopen(&self) {
        if let Some(log_file) = &self.log_file {
            log_file.reopen();
        }
        self.telemetry.access.reopen();
        tracing::info!("SIGUSR1: log files are opened anew");
    }
}
