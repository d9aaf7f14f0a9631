//! `GET /status`: where requests may go, and how it is there.
//!
//! Plainly, `{"config": …, "hosts": {host: {path: {"backends": […]}}}}`; with `?live` or `?all` the hosts alone, as older tools know them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use axum::{
    Json,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::ConfigApi;
use crate::{
    model::{
        cluster::{Cluster, Endpoint},
        ingress::{Ingress, IngressRoute},
        listener::{Address, Listener, ListenerKey, Role},
    },
    snapshot::{Problem, Snapshot},
};

#[derive(Serialize)]
struct Status<'a> {
    config: Config<'a>,
    hosts: Hosts<'a>,
}

/// The configuration in force, and what is wrong with the one that is not.
#[derive(Serialize)]
struct Config<'a> {
    version: &'a str,
    source: &'static str,
    since: u64,
    generation: u64,
    problems: &'a [Problem],
}

type Hosts<'a> = BTreeMap<String, BTreeMap<&'a str, Backends>>;

#[derive(Serialize)]
struct Backends {
    backends: Vec<Backend>,
}

#[derive(Serialize)]
struct Backend {
    address: String,
    port: u16,
    alive: bool,
    scheme: Option<crate::model::ingress::pool::Scheme>,
    weight: u32,
}

pub(super) async fn status(State(api): State<ConfigApi>, RawQuery(query): RawQuery) -> Response {
    let snapshot = api.snapshots.current();
    let hosts = ingress(&snapshot).map(|(key, ingress)| hosts(&api, key, ingress)).unwrap_or_default();
    if query.is_some_and(|query| ["live", "all"].contains(&&*query)) {
        return Json(hosts).into_response();
    }
    let now = (api.in_force)();
    let config = Config {
        version: &now.version,
        source: if now.pushed { "push" } else { "files" },
        since: now.since,
        generation: snapshot.generation,
        problems: &snapshot.problems,
    };
    Json(Status { config, hosts }).into_response()
}

/// A listener of the proxy; all of them have the same routes, but for the file server.
fn ingress(snapshot: &Snapshot) -> Option<(&ListenerKey, &Ingress)> {
    let of = |listener: &'_ Listener| matches!(&*listener.key.name, "http" | "https");
    snapshot.listeners.values().filter(|listener| of(listener)).find_map(|listener| match &listener.role {
        Role::Ingress(ingress) => Some((&listener.key, &**ingress)),
        _ => None,
    })
}

fn hosts<'a>(api: &ConfigApi, key: &ListenerKey, ingress: &'a Ingress) -> Hosts<'a> {
    let paths = |paths: &'a crate::model::ingress::Paths| {
        let routes = paths.iter().filter_map(|(prefix, place)| Some((prefix, ingress.routing.routes.get(place)?)));
        routes.map(|(prefix, route)| (prefix, Backends { backends: backends(api, key, ingress, route) })).collect()
    };
    ingress.routing.hosts.iter().map(|(name, found)| (name, paths(found))).collect()
}

fn backends(api: &ConfigApi, key: &ListenerKey, ingress: &Ingress, route: &IngressRoute) -> Vec<Backend> {
    let places: BTreeSet<usize> = route.routes().iter().flat_map(|route| &route.legs).flat_map(|leg| &leg.clusters).copied().collect();
    let clusters = places.into_iter().filter_map(|place| ingress.clusters.get(place));
    clusters.flat_map(|cluster| of_cluster(api, key, cluster)).collect()
}

fn of_cluster(api: &ConfigApi, key: &ListenerKey, cluster: &Cluster) -> Vec<Backend> {
    let protection = (api.protection)(key, &cluster.target);
    let ejected: HashSet<String> = protection.iter().flat_map(ejected).collect();
    let backend = |endpoint: &Endpoint| {
        let (address, port) = match &endpoint.address {
            Address::Tcp(at) => (at.ip().to_string(), at.port()),
            Address::Unix(_) => (endpoint.address.to_string(), 0),
        };
        let alive = endpoint.is_healthy() && !ejected.contains(&*endpoint.id);
        Backend { address, port, alive, scheme: endpoint.dial.as_ref().map(|dial| dial.scheme), weight: endpoint.weight }
    };
    cluster.endpoints.iter().map(|endpoint| backend(endpoint)).collect()
}

/// The endpoints that passive health leaves out, by id.
fn ejected(protection: &serde_json::Value) -> Vec<String> {
    let endpoints = protection.get("ejected").and_then(|ejected| ejected.as_array()).into_iter().flatten();
    endpoints.filter_map(|ejected| Some(ejected.get("endpoint")?.as_str()?.to_owned())).collect()
}
