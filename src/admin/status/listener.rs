//! Listeners: traffic, routes, and who may call.

use std::sync::Arc;

use serde::Serialize;

use super::ClusterStatus;
use crate::{
    admin::AdminState,
    model::{
        ingress::{Action as IngressAction, Filters, Ingress},
        intention::{Action, DecidedBy, DefaultPolicy, Intention, Intentions, Permission, Rule},
        listener::{Listener, Role},
        route::{Leg, Route, RouteMatch},
    },
    snapshot::Snapshot,
    telemetry::metrics::{Hits, Totals},
};

/// One listener.
#[derive(Debug, Serialize)]
pub struct ListenerStatus {
    /// Its name, as metrics and logs have it.
    pub name: String,
    /// `public`, `upstream`, `exposed` or `ingress`.
    pub role: &'static str,
    /// The local service that it works for.
    pub service: String,
    /// The service that is called by it.
    pub destination: String,
    /// Where it listens.
    pub address: String,
    /// What is spoken on it: `tcp`, `http`, `http2` or `grpc`.
    pub protocol: &'static str,
    /// Whether clients speak TLS with it.
    pub tls: bool,
    /// What it has counted; `None` while it is not up.
    pub traffic: Option<Totals>,
    /// Where the local app is, on the inbound side of a sidecar.
    pub app: Option<String>,
    /// Who may call, on the inbound side of a sidecar.
    pub intentions: Option<IntentionsStatus>,
    /// The listener that has the same routes and clusters, which are told there.
    pub same_as: Option<String>,
    /// Which request goes where, in the order in which the routes are considered; those of a reverse proxy by host and path.
    pub routes: Vec<RouteStatus>,
    /// Where requests go.
    pub clusters: Vec<ClusterStatus>,
}

/// Who may call.
#[derive(Debug, Serialize)]
pub struct IntentionsStatus {
    /// What happens to a caller that no intention names: `allow`, `deny` or `unknown`.
    pub default: DefaultPolicy,
    /// How often the default policy allowed.
    pub default_allowed: u64,
    /// How often it denied.
    pub default_denied: u64,
    /// How often a caller was denied that is no service of the trust domain.
    pub foreign_denied: u64,
    /// The rules in the order in which they are considered: each intention, after it its permissions.
    pub rules: Vec<RuleStatus>,
}

/// An intention, or a permission of one.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct RuleStatus {
    /// The intention, as logs name it: `web -> api (precedence 9)`.
    pub intention: String,
    /// The place of the permission in it, from 1; `None` is the intention itself.
    pub permission: Option<usize>,
    /// What a permission asks of a request.
    pub tests: Option<String>,
    /// What it says: `allow`, `deny`, `permissions`, or `unsupported`, which denies.
    pub action: &'static str,
    /// Whether a token must come with the request.
    pub token: bool,
    /// How often it allowed.
    pub allowed: u64,
    /// How often it denied.
    pub denied: u64,
}

/// One route.
#[derive(Debug, Serialize)]
pub struct RouteStatus {
    /// Its name in logs.
    pub name: String,
    /// What it takes.
    pub matches: String,
    /// What becomes of a request: `forward`, `redirect` or `files`.
    pub action: &'static str,
    /// What a request must pass, by the keys of `upstreams.yaml`.
    pub filters: Vec<&'static str>,
    /// Where requests go, by share.
    pub legs: Vec<LegStatus>,
}

/// One leg of a route.
#[derive(Debug, Serialize)]
pub struct LegStatus {
    /// Its share of the route's requests, from 0 to 1.
    pub share: f64,
    /// Its clusters by name, in failover order.
    pub clusters: Vec<String>,
}

/// All listeners of a snapshot.
pub(super) fn all(state: &AdminState, snapshot: &Snapshot) -> Vec<ListenerStatus> {
    let mut told: Vec<(&Ingress, String)> = Vec::new();
    let mut listeners = Vec::new();
    for listener in snapshot.listeners.values() {
        let mut status = ListenerStatus::bare(state, listener);
        match &listener.role {
            Role::Inbound(inbound) => {
                let hits = state.telemetry.metrics.known(&listener.key).map(|metrics| metrics.hits(&inbound.intentions));
                status.intentions = Some(IntentionsStatus::of(&inbound.intentions, &hits.unwrap_or_default()));
                status.app = Some(inbound.app.address.to_string());
            }
            Role::Exposed(exposed) => status.app = Some(format!("{}{}", exposed.app.address, exposed.path)),
            Role::Upstream(upstream) => {
                let route = |route| RouteStatus::of(route, &upstream.clusters);
                status.routes = upstream.routes.routes.iter().map(route).collect();
                status.clusters = upstream.clusters.iter().map(|cluster| ClusterStatus::of(state, listener, cluster)).collect();
            }
            Role::Ingress(ingress) => match told.iter().find(|(known, _)| Arc::ptr_eq(&known.routing, &ingress.routing)) {
                Some((_, name)) => status.same_as = Some(name.clone()),
                None => {
                    status.routes = ingress_routes(ingress);
                    status.clusters = ingress.clusters.iter().map(|cluster| ClusterStatus::of(state, listener, cluster)).collect();
                    told.push((ingress, status.name.clone()));
                }
            },
        }
        listeners.push(status);
    }
    listeners
}

impl ListenerStatus {
    /// With nothing of what belongs to its role.
    fn bare(state: &AdminState, listener: &Listener) -> Self {
        let (role, tls) = match &listener.role {
            Role::Inbound(_) => ("public", true),
            Role::Upstream(_) => ("upstream", false),
            Role::Exposed(_) => ("exposed", false),
            Role::Ingress(ingress) => ("ingress", ingress.tls.is_some()),
        };
        Self {
            name: listener.key.to_string(),
            role,
            service: listener.service.to_string(),
            destination: listener.role.destination(&listener.service).to_string(),
            address: listener.bind.address.to_string(),
            protocol: listener.protocol.as_str(),
            tls,
            traffic: state.telemetry.metrics.known(&listener.key).map(|metrics| metrics.totals()),
            app: None,
            intentions: None,
            same_as: None,
            routes: Vec::new(),
            clusters: Vec::new(),
        }
    }
}

impl IntentionsStatus {
    fn of(intentions: &Intentions, hits: &Hits) -> Self {
        let mut rules = Vec::new();
        for (rank, (id, intention)) in intentions.iter().enumerate() {
            let rule = |permission, by| {
                let (allowed, denied) = hits.of(by);
                RuleStatus::of(id.to_string(), intention, permission, (allowed, denied))
            };
            rules.push(rule(None, DecidedBy::Intention(rank)));
            let permissions = intention.permissions().iter().zip(1..);
            rules.extend(permissions.map(|(permission, place)| rule(Some((place, permission)), DecidedBy::Permission(rank, place))));
        }
        let ((default_allowed, default_denied), (_, foreign_denied)) = (hits.of(DecidedBy::Default), hits.of(DecidedBy::Nobody));
        Self { default: intentions.default_policy(), default_allowed, default_denied, foreign_denied, rules }
    }
}

impl RuleStatus {
    fn of(intention: String, rule: &Intention, permission: Option<(usize, &Permission)>, (allowed, denied): (u64, u64)) -> Self {
        let word = |action| match action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let action = match (&rule.rule, permission) {
            (_, Some((_, permission))) => word(permission.action),
            (Rule::Action(action), None) => word(*action),
            (Rule::Permissions(_), None) => "permissions",
            (Rule::Unsupported(_), None) => "unsupported",
        };
        let token = permission.map_or(&rule.jwt, |(_, permission)| &permission.jwt).is_some();
        let tests = permission.map(|(_, permission)| permission.to_string());
        Self { intention, permission: permission.map(|(place, _)| place), tests, action, token, allowed, denied }
    }
}

impl RouteStatus {
    fn of(route: &Route, clusters: &[Arc<crate::model::cluster::Cluster>]) -> Self {
        let whole: u32 = route.legs.iter().map(|leg| leg.weight).sum();
        let leg = |leg: &Leg| LegStatus {
            share: f64::from(leg.weight) / f64::from(whole.max(1)),
            clusters: leg.clusters.iter().filter_map(|place| Some(clusters.get(*place)?.target.to_string())).collect(),
        };
        Self {
            name: route.name.to_string(),
            matches: route.matches.to_string(),
            action: "forward",
            filters: Vec::new(),
            legs: route.legs.iter().map(leg).collect(),
        }
    }
}

/// The routes by host and path, which say what each takes.
fn ingress_routes(ingress: &Ingress) -> Vec<RouteStatus> {
    let places = ingress.routing.hosts.iter().flat_map(|(host, paths)| {
        let of_host = paths.iter().map(move |(prefix, place)| (host.clone(), prefix, place));
        of_host.collect::<Vec<_>>()
    });
    let mut places: Vec<_> = places.collect();
    places.sort();
    let routes = |(host, prefix, place): (String, &str, usize)| {
        let route = ingress.routing.routes.get(place)?;
        let action = match &route.action {
            IngressAction::Forward => "forward",
            IngressAction::Redirect(_) => "redirect",
            IngressAction::Files(_) => "files",
        };
        let status = move |taken: &Route| {
            let rest = route.further.is_empty() || taken.matches == RouteMatch::default();
            let matches = if rest { format!("{host}{prefix}") } else { format!("{host}{prefix}, {}", taken.matches) };
            RouteStatus { matches, action, filters: filters(&route.filters), ..RouteStatus::of(taken, &ingress.clusters) }
        };
        Some(route.routes().iter().map(status).collect::<Vec<_>>())
    };
    places.into_iter().filter_map(routes).flatten().collect()
}

fn filters(filters: &Filters) -> Vec<&'static str> {
    let present = [
        ("addresses", filters.addresses.is_some()),
        ("to_https", filters.to_https),
        ("cors", filters.cors.is_some()),
        ("rate_limit", !filters.limits.is_empty()),
        ("authorization", filters.auth.is_some()),
        ("body_limit", filters.body_limit.is_some()),
        ("compression", filters.compression.is_some()),
    ];
    present.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}
