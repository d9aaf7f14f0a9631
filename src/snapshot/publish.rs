//! One writer, many readers: the current snapshot behind one pointer, with a wake-up for those who follow it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::watch;

use super::Snapshot;

/// What stands between this process and readiness. Empty is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Names of what has not arrived yet, for example `web-sidecar-proxy: leaf`.
    pub missing: Vec<String>,
    /// What single routes still lack, for example `ingress: leaf of edge`: they answer 503, and the others serve.
    pub unserved: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Snapshot>,
    status: ArcSwap<Status>,
}

/// The writing end. There is one.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    changed: watch::Sender<u64>,
}

/// A reading end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Subscriber {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
}

/// A publisher and a first subscriber. The first snapshot is empty, with generation 0, and nothing is ready.
pub fn channel() -> (Publisher, Subscriber) {
    let waiting = Status { missing: vec!["first snapshot".to_owned()], unserved: Vec::new() };
    let shared = Arc::new(Shared { current: ArcSwap::default(), status: ArcSwap::from_pointee(waiting) });
    let (sender, receiver) = watch::channel(0);
    (Publisher { shared: shared.clone(), changed: sender }, Subscriber { shared, changed: receiver })
}

impl Publisher {
    /// The snapshot that readers see.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// Replaces the snapshot and wakes those who follow. The caller has set its generation.
    pub fn publish(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.shared.current.store(Arc::new(snapshot));
        self.changed.send_replace(generation);
    }

    /// Says what is missing.
    pub fn report(&self, status: Status) {
        self.shared.status.store(Arc::new(status));
    }
}

impl Subscriber {
    /// The current snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// What is missing.
    pub fn status(&self) -> Arc<Status> {
        self.shared.status.load_full()
    }

    /// Waits for a snapshot that this reader has not seen; `None` when the publisher is gone.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.changed.changed().await.ok()?;
        Some(self.current())
    }
}
