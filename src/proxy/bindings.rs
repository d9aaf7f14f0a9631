//! How the listeners and their clusters fare at this moment, for the admin API.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::OwnedFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    guard::{Ejected, breaker::Load},
    listeners::Acceptor,
    live::{Live, Warming},
};
use crate::model::{
    cluster::TargetId,
    listener::{Address, ListenerKey},
};

/// How far the listeners are behind the snapshot, and what lives in those that are up; shared with the admin API.
#[derive(Default)]
pub struct Bindings {
    /// The first snapshot has been brought up.
    pub(super) started: AtomicBool,
    /// The generation of the snapshot that the listeners follow.
    pub(super) applied: watch::Sender<u64>,
    /// Listeners that could not be brought up, with the reason.
    pub(super) unbound: Mutex<BTreeMap<ListenerKey, String>>,
    /// Those that are up.
    pub(super) up: Mutex<BTreeMap<ListenerKey, Up>>,
    /// Another process accepts on the sockets.
    handed_over: AtomicBool,
}

/// A listener that is up.
pub(super) struct Up {
    pub(super) live: Arc<ArcSwap<Live>>,
    pub(super) address: Address,
    /// Gone once it does not accept any more.
    pub(super) socket: Weak<Acceptor>,
}

/// What a cluster has in flight, and which of its endpoints are left out.
#[derive(Debug, Serialize)]
pub struct Protection {
    /// In flight now, as its limits count it.
    pub load: Load,
    /// Left out by passive health.
    pub ejected: Vec<Ejected>,
    /// New, and not given their full share yet.
    pub warming: Vec<Warming>,
}

impl Bindings {
    /// What is not served yet, in words; empty is all.
    pub fn pending(&self) -> Vec<String> {
        if !self.started.load(Ordering::Acquire) {
            return vec!["listeners".to_owned()];
        }
        self.unbound.lock().iter().map(|(key, why)| format!("listener {key}: {why}")).collect()
    }

    /// Waits until the listeners follow a snapshot of this generation or a later one.
    pub async fn applied(&self, generation: u64) {
        // The sender is ours: it cannot be gone.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= generation).await;
    }

    /// Copies of the sockets that accept, with the addresses that the snapshot has for them.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn sockets(&self) -> io::Result<Vec<(Address, OwnedFd)>> {
        let up = self.up.lock();
        let accepting = up.values().filter_map(|up| Some((up.address.clone(), up.socket.upgrade()?)));
        accepting.map(|(address, socket)| Ok((address, socket.copy()?))).collect()
    }

    /// Another process accepts on copies of these sockets from now on: what ends here leaves them and their files alone.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Whether another process accepts on these sockets.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// How a listener's cluster fares; `None` for what is no upstream, or not up.
    pub fn protection(&self, listener: &ListenerKey, target: &TargetId) -> Option<Protection> {
        let live = self.up.lock().get(listener)?.live.load_full();
        let (cluster, now) = (live.all_clusters().iter().find(|cluster| cluster.cluster.target == *target)?, Instant::now());
        Some(Protection { load: cluster.state.breaker.load(), ejected: cluster.state.view(now), warming: cluster.warming(now) })
    }
}

impl fmt::Debug for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bindings").field("started", &self.started).field("unbound", &self.unbound).finish_non_exhaustive()
    }
}
