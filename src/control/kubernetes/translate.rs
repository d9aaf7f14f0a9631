//! From Ingresses to routes: a pure function of what is known of the cluster, beside the routes of files.
//!
//! Who came first keeps a host's path: files go before Ingresses, an older Ingress before a younger one. A backend that cannot be found keeps its route,
//! which answers 503: a request never falls to a route that was not meant for it.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};
use kube::ResourceExt;

use super::{
    endpoints::{port, scheme},
    objects::Objects,
    tls,
};
use crate::{
    config::kubernetes::RouteTemplate,
    model::{
        cluster::TargetId,
        ingress::{
            Action, CertificatePair, IngressRoute, Pool, PoolSource, Routing,
            hosts::NORMALIZATION,
            pool::{KubernetesService, Scheme, ServicePort},
        },
        matching::{PathMatch, TextMatch},
        path,
        registration::Unusable,
        route::{HeaderEdits, Leg, Route, RouteMatch},
    },
};

/// Marks the class of Ingresses that name none.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// How Ingresses named their class before `spec.ingressClassName`.
const CLASS: &str = "kubernetes.io/ingress.class";
/// What every host that no rule names is called; not its name, which Ingresses may give to a host.
const EVERY_HOST: &str = "DEFAULT";

/// What Ingresses say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// The routes of files with theirs.
    pub routing: Routing,
    /// Their certificates, by name.
    pub certificates: Vec<Arc<CertificatePair>>,
    /// What is wrong with them.
    pub problems: Vec<Unusable>,
}

/// The Ingresses whose class is of this controller, the oldest first.
pub fn ours<'a>(objects: &'a Objects, controller: &str) -> Vec<&'a Arc<Ingress>> {
    let is_ours = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(controller);
    let is_default = |class: &IngressClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true");
    let by_default = objects.classes.iter().any(|class| is_ours(class) && is_default(class));
    let meant = |ingress: &Ingress| {
        let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        match named.or_else(|| ingress.annotations().get(CLASS)) {
            Some(name) => objects.classes.get("", name).is_some_and(|class| is_ours(class)),
            None => by_default,
        }
    };
    let mut ours: Vec<_> = objects.ingresses.iter().filter(|ingress| meant(ingress)).collect();
    // By namespace and name already, which decides between those of one second.
    ours.sort_by_key(|ingress| ingress.creation_timestamp().map(|at| at.0));
    ours
}

/// The routes and certificates of our Ingresses. `last` are the certificates before, `now` is in seconds since the Unix epoch.
pub fn translate(
    objects: &Objects,
    files: &Routing,
    controller: &str,
    template: &RouteTemplate,
    last: &[Arc<CertificatePair>],
    now: i64,
) -> Translation {
    let ours = ours(objects, controller);
    let mut rules = Rules { objects, template, routing: files.clone(), owners: BTreeMap::new(), problems: Vec::new() };
    for ingress in &ours {
        for rule in ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten()) {
            let host = rule.host.as_deref().filter(|host| !host.is_empty());
            for found in rule.http.iter().flat_map(|http| &http.paths) {
                let exact = found.path_type == "Exact";
                rules.add(ingress, host, found.path.as_deref().unwrap_or("/"), exact, &found.backend);
            }
        }
    }
    // What no rule took: after the rules of all.
    for ingress in &ours {
        let Some((spec, backend)) = ingress.spec.as_ref().and_then(|spec| Some((spec, spec.default_backend.as_ref()?))) else { continue };
        let hosts = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_deref());
        for host in hosts.filter(|host| !host.is_empty()) {
            if rules.owner(Some(host), "/", false).is_none() {
                rules.add(ingress, Some(host), "/", false, backend);
            }
        }
        rules.add(ingress, None, "/", false, backend);
    }
    let Rules { routing, mut problems, .. } = rules;
    let certificates = tls::certificates(objects, &ours, last, now, &mut problems);
    Translation { routing, certificates, problems }
}

/// A problem of an Ingress.
pub fn problem(ingress: &Ingress, why: String, advice: &str) -> Unusable {
    Unusable { path: named(ingress), why, advice: advice.to_owned() }
}

fn named(ingress: &Ingress) -> String {
    format!("Ingress {}/{}", ingress.namespace().unwrap_or_default(), ingress.name_any())
}

/// The routes so far.
struct Rules<'a> {
    objects: &'a Objects,
    template: &'a RouteTemplate,
    routing: Routing,
    /// Whose the routes of Ingresses are, by their place.
    owners: BTreeMap<usize, String>,
    problems: Vec<Unusable>,
}

impl Rules<'_> {
    /// Whose a path is already.
    fn owner(&self, host: Option<&str>, path: &str, exact: bool) -> Option<String> {
        let known = self.routing.hosts.get(host)?.get(path, exact)?;
        Some(self.owners.get(&known).cloned().unwrap_or_else(|| "the routes file".to_owned()))
    }

    fn add(&mut self, ingress: &Ingress, host: Option<&str>, text: &str, exact: bool, backend: &IngressBackend) {
        let Some(path) = one_form(text, exact) else {
            let why = format!("no request ever has the path {text:?}");
            return self.problems.push(problem(ingress, why, "write it as browsers send it, percent-encoded and without a query"));
        };
        // Lower case, so that no host has the name that stands for every other.
        let shown = host.map_or_else(|| EVERY_HOST.to_owned(), str::to_ascii_lowercase);
        if let Some(owner) = self.owner(host, &path, exact) {
            let why = format!("the path {path} of host {shown} belongs to {owner}");
            return self.problems.push(problem(ingress, why, "keep one of them"));
        }
        let name = if exact { format!("{shown} = {path}") } else { format!("{shown}{path}") };
        let pool = Pool { id: TargetId(name.as_str().into()), source: self.source(ingress, backend), ..self.template.pool.clone() };
        let leg =
            Leg { name: name.as_str().into(), weight: 10_000, headers: HeaderEdits::default(), clusters: vec![self.routing.pools.len()] };
        let text = if exact { TextMatch::Exact(path.as_str().into()) } else { TextMatch::Prefix(path.as_str().into()) };
        let route = Route {
            name: name.into(),
            matches: RouteMatch { path: Some(PathMatch { text, ignore_case: false }), ..RouteMatch::default() },
            legs: vec![leg],
            ..self.template.route.clone()
        };
        let place = self.routing.routes.len();
        self.routing.pools.push(Arc::new(pool));
        self.routing.routes.push(IngressRoute {
            route,
            further: Vec::new(),
            action: Action::Forward,
            filters: self.template.filters.clone(),
        });
        let paths = self.routing.hosts.entry(host);
        if exact {
            paths.insert_exact(&path, place)
        } else {
            paths.insert(&path, place)
        };
        self.owners.insert(place, named(ingress));
    }

    /// Where the servers of a backend come from; from nowhere if it is no Service.
    fn source(&mut self, ingress: &Ingress, backend: &IngressBackend) -> PoolSource {
        let Some(service) = &backend.service else {
            let why = "a backend is no Service".to_owned();
            self.problems.push(problem(ingress, why, "name a Service; until then its path is answered with 503"));
            return PoolSource::Servers(Vec::new());
        };
        let wanted = service.port.as_ref().and_then(|port| match (&port.name, port.number) {
            (Some(name), _) if !name.is_empty() => Some(ServicePort::Name(name.as_str().into())),
            (_, number) => number.and_then(|number| u16::try_from(number).ok()).map(ServicePort::Number),
        });
        let namespace = ingress.namespace().unwrap_or_default();
        let found = self.objects.services.get(&namespace, &service.name).and_then(|service| port(service, wanted.as_ref()).ok());
        PoolSource::Kubernetes(KubernetesService {
            namespace: namespace.into(),
            name: service.name.as_str().into(),
            port: wanted,
            scheme: Some(found.map_or(Scheme::Http, scheme)),
        })
    }
}

/// A path as requests have it when routes are looked for. A prefix is the same with and without a slash at its end.
fn one_form(text: &str, exact: bool) -> Option<String> {
    let sent = as_sent(text);
    let normal = path::normalize(&sent, &NORMALIZATION).ok()?.path_and_query;
    if !normal.starts_with('/') || normal.contains(['?', '#']) {
        return None;
    }
    let bare = normal.trim_end_matches('/');
    Some(if exact {
        normal.into_owned()
    } else if bare.is_empty() {
        "/".to_owned()
    } else {
        bare.to_owned()
    })
}

/// A path as clients send it: what is no ASCII, and spaces, percent-encoded.
fn as_sent(text: &str) -> Cow<'_, str> {
    let raw = |byte: u8| byte == b' ' || !byte.is_ascii();
    if !text.bytes().any(raw) {
        return Cow::Borrowed(text);
    }
    let encoded = |byte: u8| if raw(byte) { format!("%{byte:02X}") } else { char::from(byte).to_string() };
    Cow::Owned(text.bytes().map(encoded).collect())
}

#[cfg(test)]
mod tests;
