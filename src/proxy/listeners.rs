//! Listeners: bind what a snapshot adds, drain what it removes, touch nothing else.

use std::{
    collections::BTreeMap,
    io, net,
    os::{
        fd::{AsFd, OwnedFd},
        unix,
    },
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    bindings::{Bindings, Up},
    connection::Socket,
    live::{Live, Workshop},
    serve::{Plane, serve},
};
use crate::{
    model::listener::{Address, Bind, Listener, ListenerKey, Role},
    process::sockets::{Sockets, remove_file},
    snapshot::{Snapshot, Subscriber},
};

/// How soon a listener that could not be bound is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long a removed listener's connections may go on.
const REMOVED_GRACE: Duration = Duration::from_secs(30);
/// How long idle connections are kept after a hand-over: a client that uses its connection meanwhile gets its answer, and `Connection: close` with it,
/// rather than a connection that ends under its request.
const HANDED_OVER_IDLE: Duration = Duration::from_secs(5);

/// What a connection knows of its listener's life.
#[derive(Clone)]
pub struct Turn {
    /// Becomes true when the listener drains.
    pub drain: watch::Receiver<bool>,
    /// The same, for a look without a lock.
    pub draining: Arc<AtomicBool>,
    /// Cancelled when a connection on which nothing is in flight is to end.
    pub leave: CancellationToken,
    /// Counts the listener's changes.
    pub changed: watch::Receiver<u64>,
}

/// A bound listener with its connections.
struct Running {
    bind: Bind,
    live: Arc<ArcSwap<Live>>,
    inbound: bool,
    changed: watch::Sender<u64>,
    drain: watch::Sender<bool>,
    draining: Arc<AtomicBool>,
    leave: CancellationToken,
    accepting: CancellationToken,
    /// Gone when accepting has ended.
    socket: Weak<Acceptor>,
    kill: CancellationToken,
    connections: TaskTracker,
}

impl Running {
    /// Stops accepting, and asks connections to end after their next answer.
    fn wind_down(&self) {
        self.accepting.cancel();
        self.draining.store(true, Ordering::Relaxed);
        self.drain.send_replace(true);
        self.connections.close();
    }

    /// Stops accepting, and asks connections to end after what is in flight.
    fn retire(&self) {
        self.wind_down();
        self.leave.cancel();
    }
}

/// The listeners of the process.
pub struct Listeners {
    plane: Arc<Plane>,
    workshop: Workshop,
    sockets: Arc<Sockets>,
    running: BTreeMap<ListenerKey, Running>,
    bindings: Arc<Bindings>,
}

impl Listeners {
    /// No listeners yet; they take their sockets from `sockets`, and how they are doing is told in `bindings`.
    pub fn new(plane: Arc<Plane>, workshop: Workshop, sockets: Arc<Sockets>, bindings: Arc<Bindings>) -> Self {
        Self { plane, workshop, sockets, running: BTreeMap::new(), bindings }
    }

    /// Follows the snapshots until `shutdown`; then drains: inbound first, while outbound keeps accepting until inbound is idle, so that
    /// the app can finish its calls; all within `grace`. What is left after that is cut. If another process has the sockets by then
    /// ([`Bindings::hand_over`]), nothing is accepted from the start.
    pub async fn run(mut self, mut snapshots: Subscriber, shutdown: CancellationToken, grace: Duration) {
        let mut current = snapshots.current();
        self.reconcile(&current, false);
        loop {
            let retry = !self.bindings.unbound.lock().is_empty();
            tokio::select! {
                () = shutdown.cancelled() => break,
                next = snapshots.next() => match next {
                    Some(next) => {
                        current = next;
                        self.reconcile(&current, false);
                    }
                    None => shutdown.cancelled().await,
                },
                () = sleep(RETRY), if retry => self.reconcile(&current, false),
            }
        }
        let deadline = Instant::now() + grace;
        if self.bindings.is_handed_over() {
            self.wind_down(deadline).await;
        } else {
            self.drain_inbound(&mut snapshots, deadline).await;
        }
        self.running.values().for_each(Running::retire);
        for running in self.running.values() {
            tokio::select! {
                () = running.connections.wait() => {}
                () = sleep_until(deadline) => running.kill.cancel(),
            }
            if !self.bindings.is_handed_over() {
                remove_file(&running.bind.address);
            }
        }
    }

    /// Gives the connections a while to end by themselves: the other process has the next ones.
    async fn wind_down(&self, deadline: Instant) {
        self.running.values().for_each(Running::wind_down);
        let idle = async {
            for running in self.running.values() {
                running.connections.wait().await;
            }
        };
        tokio::select! {
            () = idle => {}
            () = sleep_until(deadline.min(Instant::now() + HANDED_OVER_IDLE)) => {}
        }
    }

    /// Drains the inbound listeners, while the others follow the snapshots.
    async fn drain_inbound(&mut self, snapshots: &mut Subscriber, deadline: Instant) {
        let inbound: Vec<TaskTracker> = self.running.values().filter(|r| r.inbound).map(|r| r.connections.clone()).collect();
        self.running.values().filter(|r| r.inbound).for_each(Running::retire);
        let idle = async {
            for connections in inbound {
                connections.wait().await;
            }
        };
        tokio::pin!(idle);
        loop {
            tokio::select! {
                () = &mut idle => break,
                () = sleep_until(deadline) => break,
                Some(next) = snapshots.next() => self.reconcile(&next, true),
            }
        }
    }

    /// Brings the listeners to the snapshot's form. While `leaving`, inbound listeners are left as they are.
    fn reconcile(&mut self, snapshot: &Snapshot, leaving: bool) {
        let wanted = &snapshot.listeners;
        self.rename(wanted);
        let gone: Vec<ListenerKey> = self
            .running
            .iter()
            .filter(|(key, r)| !(leaving && r.inbound) && wanted.get(*key).is_none_or(|w| w.bind != r.bind))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(running) = self.running.remove(&key) {
                tracing::info!(listener = %key, address = %running.bind.address, "listener removed");
                remove(running);
            }
        }
        self.bindings.unbound.lock().retain(|key, _| wanted.contains_key(key));
        for (key, listener) in wanted {
            if leaving && !matches!(listener.role, Role::Upstream(_)) {
                continue;
            }
            let outcome = if self.running.contains_key(key) { self.change(key, listener) } else { self.add(key, listener) };
            let mut unbound = self.bindings.unbound.lock();
            match outcome {
                Ok(()) => {
                    unbound.remove(key);
                }
                Err(why) => {
                    if unbound.get(key) != Some(&why) {
                        tracing::error!(listener = %key, address = %listener.bind.address, "cannot listen: {why}; tried again until it works");
                    }
                    unbound.insert(key.clone(), why);
                }
            }
        }
        if !wanted.is_empty() {
            self.bindings.started.store(true, Ordering::Release);
        }
        let up = |running: &Running| {
            let (live, address) = (running.live.clone(), running.bind.address.clone());
            Up { live, address, socket: running.socket.clone() }
        };
        self.bindings.applied.send_replace(snapshot.generation);
        *self.bindings.up.lock() = self.running.iter().map(|(key, running)| (key.clone(), up(running))).collect();
        self.workshop.retain(|epoch| wanted.values().any(|l| l.identity.as_ref().is_some_and(|identity| identity.epoch == epoch)));
    }

    /// A listener that only changed its name keeps its socket and its connections.
    fn rename(&mut self, wanted: &BTreeMap<ListenerKey, Arc<Listener>>) {
        let renamed: Vec<(ListenerKey, ListenerKey)> = wanted
            .iter()
            .filter(|(key, _)| !self.running.contains_key(*key))
            .filter_map(|(key, listener)| {
                let inbound = !matches!(listener.role, Role::Upstream(_));
                let same =
                    |(old, r): &(&ListenerKey, &Running)| !wanted.contains_key(*old) && r.bind == listener.bind && r.inbound == inbound;
                self.running.iter().find(same).map(|(old, _)| (old.clone(), key.clone()))
            })
            .collect();
        for (old, new) in renamed {
            if let Some(running) = self.running.remove(&old) {
                self.running.insert(new, running);
            }
        }
    }

    fn change(&mut self, key: &ListenerKey, listener: &Arc<Listener>) -> Result<(), String> {
        let Some(running) = self.running.get(key) else { return Ok(()) };
        let last = running.live.load_full();
        if Arc::ptr_eq(&last.listener, listener) {
            return Ok(());
        }
        let live = self.workshop.make(listener, Some(&last))?;
        running.live.store(Arc::new(live));
        running.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    fn add(&mut self, key: &ListenerKey, listener: &Arc<Listener>) -> Result<(), String> {
        let live = self.workshop.make(listener, None)?;
        let socket = self.sockets.listen(&listener.bind).and_then(|socket| Acceptor::on(socket, &listener.bind.address));
        let acceptor = Arc::new(socket.map_err(|why| format!("{}: {why}", listener.bind.address))?);
        tracing::info!(listener = %key, address = %listener.bind.address, protocol = listener.protocol.as_str(), "listening");
        let running = Running {
            bind: listener.bind.clone(),
            live: Arc::new(ArcSwap::from_pointee(live)),
            inbound: !matches!(listener.role, Role::Upstream(_)),
            changed: watch::Sender::new(0),
            drain: watch::Sender::new(false),
            draining: Arc::default(),
            leave: CancellationToken::new(),
            accepting: CancellationToken::new(),
            socket: Arc::downgrade(&acceptor),
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        tokio::spawn(accept(acceptor, self.plane.clone(), Door::of(&running)));
        self.running.insert(key.clone(), running);
        Ok(())
    }
}

/// Retires a removed listener and cuts what is left of it after a while.
fn remove(running: Running) {
    remove_file(&running.bind.address);
    running.retire();
    tokio::spawn(async move {
        tokio::select! {
            () = running.connections.wait() => {}
            () = sleep(REMOVED_GRACE) => running.kill.cancel(),
        }
    });
}

/// What the accept loop needs of its listener.
struct Door {
    live: Arc<ArcSwap<Live>>,
    turn: Turn,
    accepting: CancellationToken,
    kill: CancellationToken,
    connections: TaskTracker,
}

impl Door {
    fn of(running: &Running) -> Self {
        let (drain, changed) = (running.drain.subscribe(), running.changed.subscribe());
        Self {
            live: running.live.clone(),
            turn: Turn { drain, draining: running.draining.clone(), leave: running.leave.clone(), changed },
            accepting: running.accepting.clone(),
            kill: running.kill.clone(),
            connections: running.connections.clone(),
        }
    }
}

/// A socket that listens, on the runtime.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    fn on(socket: OwnedFd, address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(_) => {
                let listener = net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            Address::Unix(_) => {
                let listener = unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?))
            }
        }
    }

    /// A copy of the socket.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

/// The accept loop of one listener.
async fn accept(acceptor: Arc<Acceptor>, plane: Arc<Plane>, door: Door) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = tokio::select! {
            biased;
            () = door.accepting.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            Err(why) => {
                // A client that left in the queue is its own matter; being out of descriptors needs a pause, or the loop spins.
                if !matches!(why.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidInput) {
                    tracing::warn!("cannot accept: {why}");
                    sleep(Duration::from_millis(20)).await;
                }
                continue;
            }
        };
        let live = door.live.load_full();
        let limit = match &live.listener.role {
            Role::Inbound(inbound) => inbound.max_connections,
            Role::Upstream(_) | Role::Exposed(_) | Role::Ingress(_) => None,
        };
        if limit.is_some_and(|limit| open.load(Ordering::Relaxed) >= limit as usize) {
            live.metrics.tls_failed("too_many_connections");
            continue;
        }
        let counted = Counted::new(open.clone(), live);
        let serving = serve(plane.clone(), door.live.clone(), door.turn.clone(), socket);
        let kill = door.kill.clone();
        door.connections.spawn(async move {
            tokio::select! {
                () = serving => {}
                () = kill.cancelled() => {}
            }
            drop(counted);
        });
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Counted {
    open: Arc<AtomicUsize>,
    live: Arc<Live>,
}

impl Counted {
    fn new(open: Arc<AtomicUsize>, live: Arc<Live>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        live.metrics.connection_opened();
        Self { open, live }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.live.metrics.connection_closed();
    }
}
