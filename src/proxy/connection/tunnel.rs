//! What a WebSocket's connection is from its upgrade on.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// A connection that carries a tunnel since one of its requests was upgraded.
#[derive(Default)]
pub struct Tunnel {
    /// How long it may stand still; set once it is one.
    idle: OnceLock<Option<Duration>>,
    began: Notify,
    /// Counts the reads and writes of the connection.
    moves: AtomicU64,
}

impl Tunnel {
    /// It begins; `idle` is how long it may stand still, `None` for ever.
    pub fn begin(&self, idle: Option<Duration>) {
        if self.idle.set(idle).is_ok() {
            self.began.notify_one();
        }
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.idle.get().is_some()
    }

    /// Waits until it has begun.
    pub async fn begun(&self) -> Option<Duration> {
        loop {
            match self.idle.get() {
                Some(idle) => {
                    // Whoever else waits is woken in turn.
                    self.began.notify_one();
                    return *idle;
                }
                None => self.began.notified().await,
            }
        }
    }

    /// Waits until it has begun, and then until nothing has moved on it for as long as it may stand still.
    pub async fn stood_still(&self) {
        let Some(idle) = self.begun().await else { return std::future::pending().await };
        loop {
            let before = self.moves.load(Ordering::Relaxed);
            tokio::time::sleep(idle).await;
            if self.moves.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Notes that bytes passed, in either direction.
    pub(super) fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}
