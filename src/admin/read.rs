//! What can be looked at.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::AdminState;
use crate::{
    model::{
        cluster::{Cluster, Endpoint},
        listener::{Exposed, Inbound, Listener, Role, Upstream},
    },
    snapshot::Snapshot,
    telemetry::metrics::Format,
};

pub(super) async fn metrics(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    encoded(&headers, |format| state.telemetry.metrics.encode_as(format))
}

/// Metrics in the format that these headers ask for.
pub(super) fn encoded(headers: &HeaderMap, encode: impl FnOnce(Format) -> prometheus::Result<String>) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    match encode(format) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}

/// The sidecars, and when the leaf of each expires, in seconds since the Unix epoch.
pub(super) fn leaf_expiries(snapshot: &Snapshot) -> Vec<(String, i64)> {
    // Every listener of a sidecar has the same leaf.
    let leaf = |listener: &Arc<Listener>| Some((listener.key.sidecar.to_string(), listener.identity.as_ref()?.leaf.not_after));
    snapshot.listeners.values().filter_map(leaf).collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// The snapshot in force, with what stands in the way of it.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotView {
    #[serde(flatten)]
    snapshot: Arc<Snapshot>,
    pending: Vec<String>,
}

pub(super) async fn snapshot(State(state): State<AdminState>) -> Json<SnapshotView> {
    Json(SnapshotView { snapshot: state.snapshots.current(), pending: (state.pending)() })
}

/// One listener, short.
#[derive(Debug, Serialize)]
struct ListenerView<'a> {
    name: String,
    direction: &'static str,
    address: String,
    protocol: &'static str,
    service: String,
    clusters: Vec<&'a str>,
}

pub(super) async fn listeners(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.current();
    let views = snapshot.listeners.values().map(|listener| ListenerView {
        name: listener.key.to_string(),
        direction: listener.role.direction(),
        address: listener.bind.address.to_string(),
        protocol: listener.protocol.as_str(),
        service: listener.service.to_string(),
        clusters: match &listener.role {
            Role::Inbound(Inbound { app, .. }) | Role::Exposed(Exposed { app, .. }) => vec![&*app.id],
            Role::Upstream(Upstream { clusters, .. }) => clusters.iter().map(|cluster| &*cluster.target.0).collect(),
            Role::Ingress(ingress) => ingress.clusters.iter().map(|cluster| &*cluster.target.0).collect(),
        },
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

/// One cluster of one listener, short.
#[derive(Debug, Serialize)]
struct ClusterView<'a> {
    name: &'a str,
    listener: String,
    healthy: bool,
    endpoints: Vec<&'a Endpoint>,
    /// What is in flight, and who is left out for the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    protection: Option<serde_json::Value>,
}

impl<'a> ClusterView<'a> {
    fn new(listener: &Listener, name: &'a str, endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>) -> Self {
        let endpoints: Vec<&Endpoint> = endpoints.into_iter().map(|endpoint| &**endpoint).collect();
        let healthy = endpoints.iter().any(|e| e.is_healthy());
        Self { name, listener: listener.key.to_string(), healthy, endpoints, protection: None }
    }
}

pub(super) async fn clusters(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.current();
    let views = snapshot.listeners.values().flat_map(|listener| match &listener.role {
        Role::Inbound(Inbound { app, .. }) | Role::Exposed(Exposed { app, .. }) => vec![ClusterView::new(listener, &app.id, [app])],
        Role::Upstream(upstream) => clusters_of(&state, listener, &upstream.clusters),
        Role::Ingress(ingress) => clusters_of(&state, listener, &ingress.clusters),
    });
    Json(views.collect::<Vec<_>>()).into_response()
}

fn clusters_of<'a>(state: &AdminState, listener: &Listener, clusters: &'a [Arc<Cluster>]) -> Vec<ClusterView<'a>> {
    let views = clusters.iter().map(|cluster| ClusterView {
        protection: (state.protection)(&listener.key, &cluster.target),
        ..ClusterView::new(listener, &cluster.target.0, &*cluster.endpoints)
    });
    views.collect()
}

pub(super) async fn watches(State(state): State<AdminState>) -> Json<serde_json::Value> {
    Json((state.watches)())
}

pub(super) async fn level(State(state): State<AdminState>) -> String {
    format!("{}\n", state.log.level())
}
