//! A path made into a route with its pools.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    consul,
    policy::{Policy, Scope},
    raw,
};
use crate::{
    config::{
        fault::{Check, Place},
        main_file::MainFile,
        read,
        shape::{At, place},
        tree::Key,
    },
    model::{
        ingress::{
            Action, IngressRoute, Pool, PoolSource, Server, ServerHost,
            filters::{Files, Redirect},
            hosts::NORMALIZATION,
            pool::KubernetesService,
        },
        listener::{Address, Bind},
        matching::{PathMatch, TextMatch},
        path,
        route::{HeaderEdits, Leg, Route, RouteMatch},
    },
};

/// A path as it stands in a file, or is made of a service.
#[derive(Clone, Debug)]
pub(super) struct RawRoute {
    pub(super) policy: raw::Policy,
    pub(super) keys: raw::RouteKeys,
    pub(super) servers: Option<At<Vec<At<raw::RawServer>>>>,
    pub(super) consul: Option<At<consul::Service>>,
    pub(super) kubernetes: Option<At<KubernetesService>>,
    pub(super) place: Place,
}

/// The route of a path, whose pools are added to `pools`; `None` after a fault was told.
pub(super) fn route(
    path: &Key,
    raw: &RawRoute,
    policy: Policy,
    scope: Scope<'_>,
    pools: &mut Vec<Arc<Pool>>,
    check: &mut Check,
) -> Option<IngressRoute> {
    let action = action(path, raw, scope, check)?;
    let mut places = Vec::new();
    if action == Action::Forward {
        for (suffix, source) in sources(path, raw, scope, check) {
            if let (PoolSource::Mesh(_), Some(at), true) = (&source, &raw.consul, policy.pool.announces()) {
                check.fault(&at.place, "proxy_header means nothing to sidecars", "write proxy_header: off for this path");
            }
            places.push(pools.len());
            pools.push(Arc::new(policy.pool.pool(format!("{}{suffix}", scope.name), source)));
        }
    }
    let prefix = TextMatch::Prefix(path.text.as_str().into());
    let route = Route { rewrite: rewrite(path, raw, &action, check), ..named(scope.name, prefix, places, &policy) };
    Some(IngressRoute { route, further: Vec::new(), action, filters: Arc::new(policy.filters) })
}

/// A route to these pools, with what its level says of routes.
pub(super) fn named(name: &str, path: TextMatch, pools: Vec<usize>, policy: &Policy) -> Route {
    let leg = Leg { name: name.into(), weight: 10_000, headers: HeaderEdits::default(), clusters: pools };
    Route {
        name: name.into(),
        matches: RouteMatch { path: Some(PathMatch { text: path, ignore_case: false }), ..RouteMatch::default() },
        timeout: policy.timeout,
        idle_timeout: policy.idle_timeout,
        retry: policy.retry.clone(),
        headers: policy.headers.clone(),
        hash: policy.pool.hash(),
        ..Route::to(vec![leg])
    }
}

fn action(path: &Key, raw: &RawRoute, scope: Scope<'_>, check: &mut Check) -> Option<Action> {
    let keys = &raw.keys;
    if keys.redirect_to.is_none() {
        for (key, found) in [("redirect_status", place(&keys.redirect_status)), ("redirect_exact", place(&keys.redirect_exact))] {
            if let Some(found) = found {
                check.fault(found, format!("{key} without redirect_to"), "say where clients are sent, or take it away");
            }
        }
    }
    match (&keys.files, &keys.redirect_to) {
        (Some(at), Some(_)) => {
            check.fault(&at.place, "files and redirect_to exclude each other", "keep one");
            None
        }
        (None, Some(to)) => {
            let status = keys.redirect_status.as_ref().map_or(301, |at| at.value.small());
            let status = [301, 302, 303, 307, 308].into_iter().find(|known| u32::from(*known) == status);
            if let (None, Some(at)) = (status, &keys.redirect_status) {
                check.fault(&at.place, "this status is no redirect", "use 301, 302, 303, 307 or 308");
            }
            let exact = keys.redirect_exact.as_ref().is_some_and(|at| at.value);
            Some(Action::Redirect(Redirect { to: to.value.0.0.as_str().into(), status: status.unwrap_or(301), exact }))
        }
        (Some(At { value, place: at }), None) => {
            let servers = place(&raw.servers).or(place(&raw.consul)).or(place(&raw.kubernetes));
            if let Some(servers) = servers {
                check.fault(servers, format!("the path {:?} has files already", path.text), "keep files or servers");
            }
            let Some(root) = &value.root else {
                check.lacking(at, "files without root", "name the folder");
                return None;
            };
            let index = value
                .index
                .as_ref()
                .map_or_else(|| vec!["index.html".into()], |list| list.value.0.iter().map(|name| file_name(name, check)).collect());
            let cache_control = value.cache_control.as_ref().and_then(|at| {
                let fine = read::header_value(&at.value).map_err(|(what, advice)| check.fault(&at.place, what, advice));
                fine.ok().map(|text| text.into())
            });
            Some(Action::Files(Files {
                root: read::absolute(scope.folder.join(&root.value)),
                index,
                listing: value.listing.as_ref().is_some_and(|at| at.value),
                precompressed: value.precompressed.as_ref().is_some_and(|at| at.value),
                cache_control,
                strip: path.text.as_str().into(),
            }))
        }
        (None, None) => Some(Action::Forward),
    }
}

fn file_name(name: &At<String>, check: &mut Check) -> Arc<str> {
    if name.value.contains('/') || matches!(&*name.value, "" | "." | "..") {
        check.fault(&name.place, format!("{:?} is no name of a file", name.value), "write a name without a folder, for example index.html");
    }
    name.value.as_str().into()
}

/// What takes the place of the prefix, so that `/a` as `/b` makes `/b/x` of `/a/x`, and `/b` of `/a`.
fn rewrite(path: &Key, raw: &RawRoute, action: &Action, check: &mut Check) -> Option<Arc<str>> {
    let strip = raw.keys.strip_prefix.as_ref().filter(|at| at.value);
    let (target, place) = match (&raw.keys.rewrite, strip) {
        (None, None) => return None,
        (Some(_), Some(strip)) => {
            check.fault(&strip.place, "rewrite and strip_prefix exclude each other", "keep one; strip_prefix is rewrite: /");
            return None;
        }
        (Some(rewrite), None) => (rewrite.value.as_str(), &rewrite.place),
        (None, Some(strip)) => ("/", &strip.place),
    };
    if *action != Action::Forward {
        check.fault(place, "only requests to servers are rewritten", "take it away");
    }
    match path::normalize(target, &NORMALIZATION) {
        Ok(normal) if normal.path_and_query == target && !target.contains('?') => {}
        _ => check.fault(place, format!("{target:?} is no path to rewrite to"), "write a path from the slash on, for example /v2"),
    }
    let bare = target.strip_suffix('/').unwrap_or(target);
    Some(if path.text.ends_with('/') { format!("{bare}/").into() } else { bare.into() })
}

/// The groups of servers with the ends of their names.
fn sources(path: &Key, raw: &RawRoute, scope: Scope<'_>, check: &mut Check) -> Vec<(&'static str, PoolSource)> {
    let consul = raw.consul.as_ref().map(|At { value, place }| (value, place));
    let kubernetes = raw.kubernetes.as_ref().map(|At { value, place }| (PoolSource::Kubernetes(value.clone()), place));
    match (&raw.servers, consul, kubernetes) {
        (Some(_), Some((_, second)), _) | (Some(_), _, Some((_, second))) | (None, Some(_), Some((_, second))) => {
            check.fault(second, format!("the path {:?} has servers already", path.text), "keep one of servers, consul and kubernetes");
            Vec::new()
        }
        (None, Some((service, _)), None) => vec![("", scope.mesh.source(service, check))],
        (None, None, Some((source, _))) => vec![("", source)],
        (Some(list), None, None) => {
            let (first, backup) = servers(raw, list, scope.main, check);
            if first.is_empty() && list.value.is_empty() {
                check.lacking(
                    &list.place,
                    format!("the path {:?} has no server", path.text),
                    "list at least one, for example servers: [\"127.0.0.1:8080\"]",
                );
            } else if first.is_empty() && !backup.is_empty() {
                check.fault(&list.place, "all servers are backup", "leave backup away at one at least");
            }
            let backup = (!backup.is_empty()).then_some(("#backup", PoolSource::Servers(backup)));
            std::iter::once(("", PoolSource::Servers(first))).chain(backup).collect()
        }
        (None, None, None) => {
            let advice = "give it servers, consul, kubernetes, files or redirect_to";
            check.lacking(&raw.place, format!("the path {:?} leads nowhere", path.text), advice);
            Vec::new()
        }
    }
}

/// The servers, and those that serve when these cannot.
fn servers(raw: &RawRoute, list: &At<Vec<At<raw::RawServer>>>, main: &MainFile, check: &mut Check) -> (Vec<Server>, Vec<Server>) {
    let (mut first, mut backup): (Vec<Server>, Vec<Server>) = (Vec::new(), Vec::new());
    let may_be_api = raw.keys.allow_api.as_ref().is_some_and(|at| at.value);
    for At { value: raw::RawServer(server), place } in &list.value {
        let Some(address) = &server.address else {
            check.lacking(place, "a server without address", "write address: \"host:port\"");
            continue;
        };
        let found = Server { weight: server.weight.as_ref().map_or(1, |at| at.value.small()), ..address.value.0.clone() };
        if first.iter().chain(&backup).any(|known| known.host == found.host) {
            check.fault(&address.place, format!("a second server {}", found.host), "keep one; its weight is its share");
        }
        if !may_be_api && is_api(&found.host, main) {
            let advice = "name another server, or write allow_api: true if everybody shall reach the config API";
            check.fault(&address.place, format!("{} is the config API", found.host), advice);
        }
        let group = if server.backup.as_ref().is_some_and(|at| at.value) { &mut backup } else { &mut first };
        group.push(found);
    }
    (first, backup)
}

/// Whether requests to a server would reach the config API of this process.
fn is_api(host: &ServerHost, main: &MainFile) -> bool {
    let binds = main.api.address.iter().chain(main.api.tls.as_ref().map(|tls| &tls.address));
    binds.into_iter().any(|Bind { address, .. }| match (address, host) {
        (Address::Tcp(api), ServerHost::Ip(ip, port)) => reaches(*ip, *port, *api),
        (Address::Tcp(api), ServerHost::Name(name, port)) => &**name == "localhost" && reaches([127, 0, 0, 1].into(), *port, *api),
        (Address::Unix(api), ServerHost::Unix(path)) => api == path,
        _ => false,
    })
}

/// Whether an address of this host reaches a listener. That of another interface than loopback is not known here.
fn reaches(ip: IpAddr, port: u16, listener: SocketAddr) -> bool {
    let near = |ip: IpAddr| ip.to_canonical().is_loopback() || ip.to_canonical().is_unspecified();
    let same = ip.to_canonical() == listener.ip().to_canonical() || (near(ip) && near(listener.ip()));
    port != 0 && port == listener.port() && same
}
