//! What is remembered of a cluster as long as it lives, whatever its snapshots say.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use super::{
    breaker::Breaker,
    outlier::{Cause, EndpointState, Outliers},
};
use crate::model::cluster::Endpoint;

/// The living state of a cluster. It belongs to the target of an upstream, and is taken over from snapshot to snapshot.
pub struct ClusterState {
    /// Limits.
    pub breaker: Arc<Breaker>,
    /// Passive health.
    pub outliers: Outliers,
    origin: Instant,
    endpoints: Mutex<HashMap<Arc<str>, Arc<EndpointState>>>,
}

impl ClusterState {
    /// Of a cluster that begins `now`.
    pub fn new(now: Instant) -> Self {
        Self { breaker: Arc::default(), outliers: Outliers::new(now), origin: now, endpoints: Mutex::default() }
    }

    /// Follows the endpoints of a new snapshot; returns their states in the same order. An endpoint is known again by its id. One that is gone is
    /// forgotten, but not before its ejection is over: Consul may take a failing instance out and put it back.
    pub fn follow(&self, endpoints: &[Arc<Endpoint>], now: Instant) -> Vec<Arc<EndpointState>> {
        let mut known = self.endpoints.lock();
        let mut gone = std::mem::take(&mut *known);
        let states = endpoints.iter().map(|endpoint| {
            let id = &endpoint.id;
            let new = || Arc::new(EndpointState::new(id.clone(), self.origin));
            let state = known.entry(id.clone()).or_insert_with(|| gone.remove(id).unwrap_or_else(new));
            state.seen(Some(endpoint.is_healthy()), now);
            state.clone()
        });
        let states: Vec<_> = states.collect();
        gone.values().for_each(|state| state.seen(None, now));
        known.extend(gone.into_iter().filter(|(_, state)| state.is_ejected(now)));
        self.outliers.follow(states.clone(), now);
        states
    }

    /// The endpoints that are left out now, by id.
    pub fn view(&self, now: Instant) -> Vec<Ejected> {
        let known = self.endpoints.lock();
        let ejected = known.values().filter(|state| state.is_present()).filter_map(|state| {
            let (cause, left) = state.ejection(now)?;
            Some(Ejected { endpoint: state.id.clone(), cause, left })
        });
        let mut ejected: Vec<_> = ejected.collect();
        ejected.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        ejected
    }
}

/// An endpoint that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ejected {
    /// Its id.
    pub endpoint: Arc<str>,
    /// Why.
    pub cause: Cause,
    /// For how long yet.
    #[serde(rename = "seconds_left", serialize_with = "seconds")]
    pub left: Duration,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// A request, or an opaque connection, that an endpoint has in flight; dropping it ends it.
#[must_use = "dropping it ends the request"]
pub struct ActiveRequest(Arc<EndpointState>);

impl ActiveRequest {
    /// Begins one.
    pub fn new(endpoint: Arc<EndpointState>) -> Self {
        endpoint.began();
        Self(endpoint)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.ended();
    }
}

#[cfg(test)]
mod tests;
