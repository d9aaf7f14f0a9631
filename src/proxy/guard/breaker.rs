//! Limits on what a cluster is given at once: connections, waiting requests, requests, retries.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use crate::model::balance::Limits;

/// So many retries may always be in flight, whatever the budget says: Envoy's `min_retry_concurrency`.
const MIN_RETRIES: u32 = 3;

/// Which limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// `max_connections`, where nothing waits: protocol `tcp`, or a limit of 0.
    Connections,
    /// `max_pending_requests`.
    Pending,
    /// `max_concurrent_requests`.
    Requests,
}

impl Overflow {
    /// Stable words for the log's `response_code_details` and the metric's label.
    pub fn details(self) -> &'static str {
        match self {
            Self::Connections => "upstream_max_connections",
            Self::Pending => "upstream_max_pending_requests",
            Self::Requests => "upstream_max_requests",
        }
    }
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// A limit is reached.
    Overflow(Overflow),
    /// It waited for a connection until its deadline.
    Deadline,
}

impl From<Overflow> for NotAdmitted {
    fn from(overflow: Overflow) -> Self {
        Self::Overflow(overflow)
    }
}

/// Counts what a cluster has in flight. The limits come with each call, since a snapshot may change them; what was admitted under wider limits
/// stays, and nothing more is until there is room under the present ones.
#[derive(Default)]
pub struct Breaker {
    connections: Counter,
    pending: Counter,
    requests: Counter,
    retries: Counter,
    gate: Gate,
}

impl Breaker {
    /// Admits an opaque connection (protocol `tcp`): bounded by `connections`, nothing waits.
    ///
    /// # Errors
    /// [`Overflow::Connections`].
    pub fn connection(self: &Arc<Self>, limits: &Limits) -> Result<ConnectionSlot, Overflow> {
        self.connections.take(limits.connections).then(|| ConnectionSlot(self.clone())).ok_or(Overflow::Connections)
    }

    /// Admits a request that shares its connection with others (HTTP/2): bounded by `requests`, nothing waits.
    ///
    /// # Errors
    /// [`Overflow::Requests`].
    pub fn request(self: &Arc<Self>, limits: &Limits) -> Result<RequestSlot, Overflow> {
        self.counted(limits, false)
    }

    /// Admits a request that has a connection to itself (HTTP/1): as many as `connections` are in flight, and `pending` more wait for one of them to
    /// end, first come first served, until `deadline`. Whoever gets through is bounded by `requests` too. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub async fn exclusive_request(self: &Arc<Self>, limits: &Limits, deadline: Option<Instant>) -> Result<RequestSlot, NotAdmitted> {
        if limits.connections == 0 {
            return Err(Overflow::Connections.into());
        }
        self.gate.resize(limits.connections);
        if !self.gate.try_enter() {
            let _waiting = Waiting::new(&self.pending, limits)?;
            match deadline {
                Some(deadline) => timeout_at(deadline, self.gate.enter()).await.map_err(|_| NotAdmitted::Deadline)?,
                None => self.gate.enter().await,
            }
        }
        let slot = self.counted(limits, true);
        if slot.is_err() {
            self.gate.leave();
        }
        Ok(slot?)
    }

    /// Admits a retry, by a budget: retries in flight are at most `retry_budget` percent of the requests that are in flight or wait, and 3 always are
    /// allowed (Envoy's `retry_budget` with its defaults). To be held until the repeated try has ended; `None` means that the first failure stands.
    pub fn retry(self: &Arc<Self>, limits: &Limits) -> Option<RetrySlot> {
        let active = u64::from(self.requests.get()) + u64::from(self.pending.get());
        let budget = u32::try_from(active * u64::from(limits.retry_budget) / 100).unwrap_or(u32::MAX);
        self.retries.take(budget.max(MIN_RETRIES)).then(|| RetrySlot(self.clone()))
    }

    /// What is in flight now.
    pub fn load(&self) -> Load {
        Load {
            connections: self.connections.get(),
            pending: self.pending.get(),
            requests: self.requests.get(),
            retries: self.retries.get(),
        }
    }

    fn counted(self: &Arc<Self>, limits: &Limits, gated: bool) -> Result<RequestSlot, Overflow> {
        let breaker = || RequestSlot { breaker: self.clone(), gated };
        self.requests.take(limits.requests).then(breaker).ok_or(Overflow::Requests)
    }
}

/// What a cluster has in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Opaque connections.
    pub connections: u32,
    /// Requests that wait.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries in flight.
    pub retries: u32,
}

/// An admitted opaque connection; dropping it makes room.
#[must_use = "dropping it gives the place away"]
pub struct ConnectionSlot(Arc<Breaker>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.connections.give_back();
    }
}

/// An admitted request; dropping it makes room.
#[must_use = "dropping it gives the place away"]
pub struct RequestSlot {
    breaker: Arc<Breaker>,
    gated: bool,
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.breaker.requests.give_back();
        if self.gated {
            self.breaker.gate.leave();
        }
    }
}

/// An admitted retry; dropping it makes room.
#[must_use = "dropping it gives the place away"]
pub struct RetrySlot(Arc<Breaker>);

impl Drop for RetrySlot {
    fn drop(&mut self) {
        self.0.retries.give_back();
    }
}

/// A place in the queue before the gate.
struct Waiting<'a>(&'a Counter);

impl<'a> Waiting<'a> {
    fn new(pending: &'a Counter, limits: &Limits) -> Result<Self, Overflow> {
        pending.take(limits.pending).then(|| Self(pending)).ok_or(Overflow::Pending)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A count that no race lifts above the limit of the call.
#[derive(Default)]
struct Counter(AtomicU32);

impl Counter {
    fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    fn take(&self, limit: u32) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1)).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Lets so many in at once; the rest wait in order. A semaphore whose size may change: what is inside beyond a new, smaller size is owed, and pays
/// when it leaves.
struct Gate {
    permits: Semaphore,
    /// The present size, to see without the lock that it did not change.
    size: AtomicU32,
    owed: Mutex<u32>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { permits: Semaphore::new(0), size: AtomicU32::new(0), owed: Mutex::new(0) }
    }
}

impl Gate {
    fn resize(&self, size: u32) {
        if self.size.load(Relaxed) == size {
            return;
        }
        let mut owed = self.owed.lock();
        let old = self.size.swap(size, Relaxed);
        if size >= old {
            let paid = (size - old).min(*owed);
            *owed -= paid;
            self.permits.add_permits((size - old - paid) as usize);
        } else {
            let taken = self.permits.forget_permits((old - size) as usize) as u32;
            *owed += old - size - taken;
        }
    }

    fn try_enter(&self) -> bool {
        self.permits.try_acquire().map(SemaphorePermit::forget).is_ok()
    }

    /// Cancel-safe: whoever stops waiting has not entered. The semaphore is never closed.
    async fn enter(&self) {
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }

    fn leave(&self) {
        let mut owed = self.owed.lock();
        if *owed > 0 {
            *owed -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests;
