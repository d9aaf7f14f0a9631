//! How every watch is doing: for the admin API, metrics and the log.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{debug, info, warn};

/// The state of one watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WatchState {
    /// What is watched, for example `leaf web`.
    pub name: String,
    /// When the source last answered.
    #[serde(serialize_with = "rfc3339")]
    pub last_success: Option<SystemTime>,
    /// Why the last question failed, or why its answer could not be used.
    pub last_error: Option<String>,
    /// Failures in a row.
    pub failures: u32,
}

/// All watches of the process, by name.
#[derive(Debug, Default)]
pub struct Watches {
    // Numbered, since a watch that replaces another of its name may begin before that one has quite ended.
    states: Mutex<BTreeMap<(String, u64), WatchState>>,
    registered: AtomicU64,
}

impl Watches {
    /// Adds a watch; it is listed until the handle is dropped.
    pub fn register(self: &Arc<Self>, name: impl Into<String>) -> Watch {
        let key = (name.into(), self.registered.fetch_add(1, Ordering::Relaxed));
        self.states.lock().insert(key.clone(), WatchState { name: key.0.clone(), ..WatchState::default() });
        Watch { key, watches: self.clone() }
    }

    /// The state of all watches, by name.
    pub fn snapshot(&self) -> Vec<WatchState> {
        self.states.lock().values().cloned().collect()
    }
}

/// The handle of one watch: notes what comes of each question, and logs when that changes.
#[derive(Debug)]
pub struct Watch {
    key: (String, u64),
    watches: Arc<Watches>,
}

impl Watch {
    /// The source answered.
    pub fn succeeded(&self) {
        let last = self.update(|state| {
            (state.last_success, state.last_error, state.failures) = (Some(SystemTime::now()), None, 0);
        });
        if last.last_error.is_some() {
            info!(watch = self.key.0, failures = last.failures, "answers again");
        }
    }

    /// The source did not answer; it is asked again after `delay`. Only the first failure and a new reason are warnings.
    pub fn failed(&self, why: &str, delay: Duration) {
        let last = self.update(|state| {
            state.last_error = Some(why.to_owned());
            state.failures = state.failures.saturating_add(1);
        });
        if last.last_error.as_deref() == Some(why) {
            debug!(watch = self.key.0, why, ?delay, "still failing");
        } else {
            warn!(watch = self.key.0, why, ?delay, "failing; what was known before stays in use");
        }
    }

    /// The source answered, but what it said cannot be used. A warning, unless it said so before.
    pub fn unusable(&self, why: &str) {
        let last = self.update(|state| (state.last_error, state.failures) = (Some(why.to_owned()), 0));
        if last.last_error.as_deref() != Some(why) {
            warn!(watch = self.key.0, why, "the answer cannot be used");
        }
    }

    /// Changes the state and returns the one before.
    fn update(&self, change: impl FnOnce(&mut WatchState)) -> WatchState {
        let mut states = self.watches.states.lock();
        let Some(state) = states.get_mut(&self.key) else { return WatchState::default() };
        let last = state.clone();
        change(state);
        last
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.states.lock().remove(&self.key);
    }
}

fn rfc3339<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    at.and_then(|at| OffsetDateTime::from(at).format(&Rfc3339).ok()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_listed_with_its_failures_while_it_lives() {
        let watches = Arc::new(Watches::default());
        let leaf = watches.register("leaf web");
        leaf.failed("403", Duration::ZERO);
        leaf.failed("403", Duration::ZERO);
        let state = watches.snapshot().remove(0);
        assert_eq!((state.name.as_str(), state.failures, state.last_error.as_deref()), ("leaf web", 2, Some("403")));
        assert_eq!(state.last_success, None);
        leaf.succeeded();
        leaf.unusable("the list is empty");
        let state = watches.snapshot().remove(0);
        assert_eq!((state.failures, state.last_error.as_deref()), (0, Some("the list is empty")));
        assert!(serde_json::json!(state)["last_success"].as_str().is_some_and(|text| text.ends_with('Z')));
        let successor = watches.register("leaf web");
        drop(leaf);
        assert_eq!(watches.snapshot().remove(0).last_error, None);
        drop(successor);
        assert!(watches.snapshot().is_empty());
    }
}
