//! Passive health: an endpoint that keeps failing is left out for a while. The rules and numbers are those of Envoy's outlier detection.
//!
//! There is no background task. Envoy looks at its ejected hosts at every tick of an interval; here the ticks are a grid of moments from the cluster's
//! beginning on, and what a tick would have done is worked out by whoever comes next. All times are milliseconds since that beginning.

use std::{
    sync::{
        Arc,
        // Relaxed throughout: each number stands for itself, and what belongs together changes under the cluster's lock.
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

use super::outcome::Outcome;
use crate::model::balance::PassiveHealth;

/// No ejection is longer, unless the base is: Envoy's `max_ejection_time`.
const LONGEST: Duration = Duration::from_secs(300);
/// So many endpoints with enough traffic make a success rate comparable: Envoy's `success_rate_minimum_hosts`.
const RATE_HOSTS: usize = 5;
/// So many requests in an interval are enough traffic: Envoy's `success_rate_request_volume`.
const RATE_VOLUME: u32 = 100;
/// So many standard deviations below the mean is an outlier: Envoy's `success_rate_stdev_factor` of 1900, in thousandths.
const RATE_FACTOR: f64 = 1.9;

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Failures in a row: answers of 5xx, or none.
    #[serde(rename = "consecutive_5xx")]
    Consecutive5xx,
    /// A success rate far below that of the others.
    SuccessRate,
}

impl Cause {
    /// The word for it in metrics, as it is in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// What is remembered of an endpoint, by its id, as long as its cluster lives.
pub struct EndpointState {
    /// The endpoint's id.
    pub id: Arc<str>,
    origin: Instant,
    active: AtomicU32,
    /// When it was first seen healthy, plus one; 0 while it is not.
    healthy_since: AtomicU64,
    /// Whether it belongs to the cluster now.
    present: AtomicBool,
    /// When its last ejection ends; 0 if there was none.
    ejected_until: AtomicU64,
    failures: AtomicU32,
    gateway_failures: AtomicU32,
    /// Of the present interval.
    requests: AtomicU32,
    /// Of the present interval.
    failed: AtomicU32,
    history: Mutex<History>,
}

#[derive(Clone, Copy, Default)]
struct History {
    /// How many times the base the last ejection lasted; each calm interval since takes one off.
    times: u32,
    cause: Option<Cause>,
}

impl EndpointState {
    pub(super) fn new(id: Arc<str>, origin: Instant) -> Self {
        Self {
            id,
            origin,
            active: AtomicU32::new(0),
            healthy_since: AtomicU64::new(0),
            present: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            gateway_failures: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            history: Mutex::default(),
        }
    }

    /// Whether it is left out now. One atomic read for an endpoint that never was.
    pub fn is_ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Relaxed);
        until != 0 && millis(self.origin, now) < until
    }

    fn is_ejected_at(&self, at: u64) -> bool {
        at < self.ejected_until.load(Relaxed)
    }

    /// Requests, or opaque connections, that it has in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// How long it has been healthy by its checks without a break, for slow start; zero when it is not healthy. Ejections do not count, as in Envoy.
    pub fn healthy_for(&self, now: Instant) -> Duration {
        match self.healthy_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(millis(self.origin, now).saturating_sub(since - 1)),
        }
    }

    /// Failures in a row that were 502, 503, 504 or no answer: counted and shown, never a reason to eject (Envoy's default).
    pub fn gateway_failures(&self) -> u32 {
        self.gateway_failures.load(Relaxed)
    }

    pub(super) fn began(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    pub(super) fn ended(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub(super) fn is_present(&self) -> bool {
        self.present.load(Relaxed)
    }

    /// Follows what the checks say; `None` is that the endpoint is gone.
    pub(super) fn seen(&self, healthy: Option<bool>, now: Instant) {
        self.present.store(healthy.is_some(), Relaxed);
        if healthy != Some(true) {
            self.healthy_since.store(0, Relaxed);
        } else if self.healthy_since.load(Relaxed) == 0 {
            self.healthy_since.store(millis(self.origin, now) + 1, Relaxed);
        }
    }

    /// Why it is left out and for how long yet, if it is.
    pub(super) fn ejection(&self, now: Instant) -> Option<(Cause, Duration)> {
        let left = self.ejected_until.load(Relaxed).checked_sub(millis(self.origin, now)).filter(|left| *left > 0)?;
        Some((self.history.lock().cause?, Duration::from_millis(left)))
    }

    /// Notes an outcome; `true` when it fills the row of failures, which begins anew then.
    fn note(&self, status: u16, policy: &PassiveHealth) -> bool {
        self.requests.fetch_add(1, Relaxed);
        if !(500..600).contains(&status) {
            // Reading first spares the cache line of an endpoint that many threads use and that does not fail.
            for row in [&self.failures, &self.gateway_failures] {
                if row.load(Relaxed) != 0 {
                    row.store(0, Relaxed);
                }
            }
            return false;
        }
        self.failed.fetch_add(1, Relaxed);
        if (502..=504).contains(&status) {
            self.gateway_failures.fetch_add(1, Relaxed);
        } else {
            self.gateway_failures.store(0, Relaxed);
        }
        let row = self.failures.fetch_add(1, Relaxed) + 1;
        policy.max_failures > 0 && row >= policy.max_failures
    }

    /// Leaves it out from `at` on until the first tick after its time: as many times the base as it was ejected, less the calm intervals since.
    fn eject(&self, cause: Cause, policy: &PassiveHealth, at: u64) {
        let (base, longest) = (policy.base_ejection, policy.base_ejection.max(LONGEST));
        let mut history = self.history.lock();
        let last = self.ejected_until.load(Relaxed);
        let calm = if last == 0 { 0 } else { at.saturating_sub(last) / in_millis(policy.interval).max(1) };
        history.times = history.times.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX));
        if base.saturating_mul(history.times) < longest {
            history.times += 1;
        }
        history.cause = Some(cause);
        let lasts = in_millis(base.saturating_mul(history.times).min(longest));
        self.ejected_until.store(tick_from(at.saturating_add(lasts), policy), Relaxed);
    }

    /// Success rate in percent over the interval that ends now, if there was enough traffic; the next interval begins.
    fn close_interval(&self) -> Option<f64> {
        let (requests, failed) = (self.requests.swap(0, Relaxed), self.failed.swap(0, Relaxed));
        (requests >= RATE_VOLUME).then(|| 100.0 * f64::from(requests - failed.min(requests)) / f64::from(requests))
    }
}

/// The passive health of one cluster.
pub struct Outliers {
    origin: Instant,
    /// When the present interval ends; 0 before the first report.
    tick: AtomicU64,
    hosts: Mutex<Hosts>,
}

#[derive(Default)]
struct Hosts {
    all: Vec<Arc<EndpointState>>,
    /// Those of them that were ejected last; some may be back.
    ejected: Vec<Arc<EndpointState>>,
}

impl Outliers {
    pub(super) fn new(now: Instant) -> Self {
        Self { origin: now, tick: AtomicU64::new(0), hosts: Mutex::default() }
    }

    pub(super) fn follow(&self, all: Vec<Arc<EndpointState>>, now: Instant) {
        let ejected = all.iter().filter(|host| host.is_ejected(now)).cloned().collect();
        *self.hosts.lock() = Hosts { all, ejected };
    }

    /// Notes how a try at an endpoint ended, and ejects what has to be ejected; gives the cause of each ejection. `draw` gives a number in 0..100 and
    /// is called only when an ejection is at stake: of those for failures in a row, `enforcing` percent happen.
    pub fn report(
        &self,
        endpoint: &Arc<EndpointState>,
        outcome: Outcome,
        policy: &PassiveHealth,
        now: Instant,
        draw: impl FnOnce() -> u32,
    ) -> Vec<Cause> {
        let at = millis(self.origin, now);
        let mut ejected = self.pass_tick(at, policy);
        // What was in flight when it was ejected says nothing new.
        if endpoint.is_ejected_at(at) || !endpoint.note(outcome.status(), policy) {
            return ejected;
        }
        // The row begins anew even if nobody is ejected now: the next attempt at it takes as many failures again, as in Envoy.
        endpoint.failures.store(0, Relaxed);
        if draw() < policy.enforcing && self.hosts.lock().eject(endpoint, Cause::Consecutive5xx, policy, at) {
            ejected.push(Cause::Consecutive5xx);
        }
        ejected
    }

    /// When an interval has ended: compares the success rates in it, as of its end. Gives the cause of each ejection.
    fn pass_tick(&self, at: u64, policy: &PassiveHealth) -> Vec<Cause> {
        let tick = self.tick.load(Relaxed);
        if at < tick {
            return Vec::new();
        }
        let next = tick_from(at.saturating_add(1), policy);
        if self.tick.compare_exchange(tick, next, Relaxed, Relaxed).is_ok() && tick > 0 {
            return self.hosts.lock().compare(policy, tick);
        }
        Vec::new()
    }
}

impl Hosts {
    /// Ejects whose success rate in the interval that ended `at` lies far below the others'. Envoy enforces all of these by default, and Consul has no
    /// setting for them.
    fn compare(&mut self, policy: &PassiveHealth, at: u64) -> Vec<Cause> {
        let closed: Vec<_> = self.all.iter().map(|host| (host.clone(), host.close_interval())).collect();
        let rates: Vec<_> =
            closed.into_iter().filter_map(|(host, rate)| Some((host, rate?))).filter(|(host, _)| !host.is_ejected_at(at)).collect();
        if rates.len() < RATE_HOSTS {
            return Vec::new();
        }
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / rates.len() as f64;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
        let threshold = mean - RATE_FACTOR * variance.sqrt();
        let outliers = rates.iter().filter(|(host, rate)| *rate < threshold && self.eject(host, Cause::SuccessRate, policy, at));
        vec![Cause::SuccessRate; outliers.count()]
    }

    /// Whether it could be.
    fn eject(&mut self, endpoint: &Arc<EndpointState>, cause: Cause, policy: &PassiveHealth, at: u64) -> bool {
        if !endpoint.is_present() || endpoint.is_ejected_at(at) {
            return false;
        }
        self.ejected.retain(|host| host.is_ejected_at(at));
        if !may_eject(self.ejected.len(), self.all.len(), policy.max_ejection_percent) {
            return false;
        }
        endpoint.eject(cause, policy, at);
        self.ejected.push(endpoint.clone());
        true
    }
}

/// Whether one more of `all` endpoints may be ejected. The share counts with the one at stake, so that 10 % of fewer than ten are none: what Envoy does
/// since 1.28 unless `always_eject_one_host` is set, which Consul does not set.
fn may_eject(ejected: usize, all: usize, percent: u32) -> bool {
    (ejected as u64 + 1) * 100 <= all as u64 * u64::from(percent)
}

/// The first tick that is not before `at`.
fn tick_from(at: u64, policy: &PassiveHealth) -> u64 {
    at.checked_next_multiple_of(in_millis(policy.interval).max(1)).unwrap_or(u64::MAX)
}

fn millis(origin: Instant, now: Instant) -> u64 {
    in_millis(now.saturating_duration_since(origin))
}

fn in_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
