//! Liveness and readiness.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::AdminState;
use crate::{
    model::{listener::Listener, moment::unix_now},
    snapshot::Snapshot,
};

/// The body of a 503.
#[derive(Debug, Serialize)]
struct NotReady {
    missing: Vec<String>,
}

pub(super) async fn live() -> &'static str {
    "LIVE\n"
}

/// 200 with Envoy's word, so that probes written for Envoy fit; 503 with everything that is missing, all at once.
pub(super) async fn ready(State(state): State<AdminState>) -> Response {
    let missing = missing(&state);
    if missing.is_empty() {
        return "LIVE\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(NotReady { missing })).into_response()
}

/// Everything that is missing before it is ready, in words.
pub(super) fn missing(state: &AdminState) -> Vec<String> {
    let status = state.snapshots.status();
    let mut missing = [status.missing.as_slice(), &status.unserved].concat();
    missing.extend(expired(&state.snapshots.current(), unix_now()));
    missing.extend((state.pending)());
    if state.draining.load(Ordering::Relaxed) {
        missing.push("not draining".to_owned());
    }
    missing
}

/// The sidecars whose leaf is not valid at `now` (seconds since the Unix epoch), each said once.
fn expired(snapshot: &Snapshot, now: i64) -> BTreeSet<String> {
    let is_expired = |listener: &&Arc<Listener>| listener.identity.as_ref().is_some_and(|identity| identity.leaf.not_after <= now);
    let expired = snapshot.listeners.values().filter(is_expired);
    expired.map(|listener| format!("{}: valid leaf", listener.key.sidecar)).collect()
}
