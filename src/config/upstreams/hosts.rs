//! Hosts and their paths, from whichever file, made into a routing.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use super::{
    consul, kubernetes,
    policy::{Policy, Scope},
    raw,
    route::{self, RawRoute},
};
use crate::{
    config::{
        fault::{Check, Place},
        read,
        shape::{At, Entries, Keys, Section, Shape, Wrong},
        tree::{Key, Kind, Node},
    },
    model::{
        ingress::{
            Paths, Routing,
            hosts::{NORMALIZATION, canonical},
        },
        path,
    },
};

/// Whether a key of the top level is one of the file's own rather than a host.
fn is_own(key: &Key) -> bool {
    let mut keys = Keys::default();
    raw::Upstreams::keys(&mut keys);
    let known = |(name, aliases): &(&str, &[&str])| *name == key.text || aliases.contains(&&*key.text);
    keys.known.iter().any(known) || keys.refused.iter().any(|(name, _)| *name == key.text)
}

/// Takes out the hosts that stand at the top level, as in the oldest layout: maps with `paths`.
pub(super) fn split_off(node: &mut Node, check: &mut Check) -> Entries<raw::Host> {
    let Kind::Map(entries) = &mut node.kind else { return Vec::new() };
    let is_host = |(key, value): &(Key, Node)| {
        let has_paths = matches!(&value.kind, Kind::Map(inner) if inner.iter().any(|(key, _)| key.text == "paths"));
        has_paths && !is_own(key)
    };
    let (hosts, own) = std::mem::take(entries).into_iter().partition(is_host);
    *entries = own;
    Entries::read(&Node { place: node.place.clone(), kind: Kind::Map(hosts) }, check).unwrap_or_default()
}

/// The hosts of a file of `conf.d`: at the top level, or under `upstreams`.
pub(super) fn of_part(node: Node, check: &mut Check) -> Entries<raw::Host> {
    let Node { place, kind } = node;
    match kind {
        Kind::Null => Vec::new(),
        Kind::Map(entries) => {
            let mut hosts = Vec::new();
            let mut rest = Vec::new();
            for (key, value) in entries {
                if key.text == "upstreams" {
                    hosts.extend(Entries::read(&value, check).unwrap_or_default());
                } else if is_own(&key) {
                    let what = format!("{:?} holds for all paths, and stands in a file of hosts only", key.text);
                    check.fault(&key.place, what, "write it in the routes file, or in a host");
                } else {
                    rest.push((key, value));
                }
            }
            hosts.extend(Entries::read(&Node { place, kind: Kind::Map(rest) }, check).unwrap_or_default());
            hosts
        }
        kind => Entries::read(&Node { place, kind }, check).unwrap_or_default(),
    }
}

/// A host with where it was said.
#[derive(Debug)]
struct Host {
    key: Key,
    policy: raw::Policy,
    paths: Vec<(Key, RawRoute, PathBuf)>,
    folder: PathBuf,
}

/// The hosts of all files by their one form.
#[derive(Debug, Default)]
pub(super) struct Table {
    hosts: Vec<Host>,
    places: HashMap<String, usize>,
}

impl Table {
    /// Adds hosts of a file; with `over`, those that are known from files before are replaced as a whole.
    pub(super) fn add(&mut self, hosts: Entries<raw::Host>, file: &Path, over: bool, check: &mut Check) {
        let before = if over { self.hosts.len() } else { 0 };
        // Of a key that stands there twice the reader has told.
        let twice: HashSet<String> = {
            let mut seen = HashSet::new();
            hosts.iter().filter(|(key, _)| !seen.insert(&key.text)).map(|(key, _)| key.text.clone()).collect()
        };
        for (key, At { value: raw, place: at }) in hosts {
            let folder = read::folder(file);
            let Some(name) = name(&key, check) else { continue };
            let place = key.place.clone();
            let paths = routes(&key, &at, raw.paths, &folder, check);
            let host = Host { key, policy: raw.policy, paths, folder };
            match self.places.get(&name).and_then(|at| Some((*at, self.hosts.get_mut(*at)?))) {
                Some((at, known)) if at < before && known.key.place.file != place.file => *known = host,
                Some((_, known)) if twice.contains(&host.key.text) && known.key.text == host.key.text => {}
                Some((_, known)) => {
                    let what = format!("{:?} is the same host as {:?} in line {}", host.key.text, known.key.text, known.key.place.line);
                    check.fault(&place, what, "keep one");
                }
                None => {
                    self.places.insert(name, self.hosts.len());
                    self.hosts.push(host);
                }
            }
        }
    }

    /// Adds a path of a host, which need not be known; by default all paths.
    pub(super) fn add_path(&mut self, host: &At<String>, path: Option<&At<String>>, route: RawRoute, file: &Path, check: &mut Check) {
        let key = |at: &At<String>| Key { place: at.place.clone(), text: at.value.clone() };
        let path = path.map_or_else(|| Key { place: route.place.clone(), text: "/".to_owned() }, key);
        let host = key(host);
        let Some(name) = name(&host, check) else { return };
        let folder = read::folder(file);
        let at = *self.places.entry(name).or_insert(self.hosts.len());
        if at == self.hosts.len() {
            self.hosts.push(Host { key: host.clone(), policy: raw::Policy::default(), paths: Vec::new(), folder: folder.clone() });
        }
        let Some(known) = self.hosts.get_mut(at) else { return };
        if let Some((first, ..)) = known.paths.iter().find(|(known, ..)| known.text == path.text) {
            let what = format!("the host {:?} has the path {:?} already, in line {}", host.text, path.text, first.place.line);
            return check.fault(&path.place, what, "keep one, or give this one another path");
        }
        known.paths.push((path, route, folder));
    }

    /// The routing of all hosts.
    pub(super) fn routing(self, globals: &Policy, whole: Scope<'_>, check: &mut Check) -> Routing {
        let mut routing = Routing::default();
        for Host { key, policy, paths, folder } in self.hosts {
            let policy = globals.with(&policy, Scope { name: &key.text, folder: &folder, ..whole }, check);
            let mut table = Paths::default();
            for (path, raw, folder) in paths {
                if let Err((what, advice)) = prefix(&path.text) {
                    check.fault(&path.place, what, advice);
                    continue;
                }
                let name = format!("{}{}", key.text, path.text);
                let scope = Scope { name: &name, folder: &folder, ..whole };
                let policy = policy.with(&raw.policy, scope, check);
                if let Some(route) = route::route(&path, &raw, policy, scope, &mut routing.pools, check) {
                    table.insert(&path.text, routing.routes.len());
                    routing.routes.push(route);
                }
            }
            routing.hosts.insert(&one_form(&key.text), table);
        }
        routing
    }
}

fn routes(
    host: &Key,
    at: &Place,
    paths: Option<At<Entries<raw::PathRoute>>>,
    folder: &Path,
    check: &mut Check,
) -> Vec<(Key, RawRoute, PathBuf)> {
    let (paths, at) = paths.map_or_else(|| (Vec::new(), at.clone()), |At { value, place }| (value, place));
    if paths.is_empty() {
        check.lacking(&at, format!("the host {:?} has no paths", host.text), "give it at least paths: {\"/\": {servers: [...]}}");
    }
    let route = |(key, At { value, place: at }): (Key, At<raw::PathRoute>)| {
        let is_service = value.consul.is_some();
        let consul = value.consul.and_then(|At { value, place }| consul::service(value.service.as_ref(), &value.keys, &place, check));
        let is_kubernetes = value.kubernetes.is_some();
        let kubernetes =
            value.kubernetes.and_then(|At { value, place }| kubernetes::service(value.service.as_ref(), &value.keys, &place, check));
        if (is_service && consul.is_none()) || (is_kubernetes && kubernetes.is_none()) {
            check.spoil(&at);
        }
        let route = RawRoute { policy: value.policy, keys: value.place, servers: value.servers, consul, kubernetes, place: at };
        (key, route, folder.to_owned())
    };
    paths.into_iter().map(route).collect()
}

/// The one form of a host, or `None` after a fault was told.
fn name(key: &Key, check: &mut Check) -> Option<String> {
    read::client_host(&key.text).map_err(|(what, advice)| check.fault(&key.place, what, advice)).ok()?;
    let name = one_form(&key.text);
    Some(if name == "*" { "default".to_owned() } else { name })
}

/// A host's name as requests have it: lower case, without a dot at its end, IPv6 in its shortest form.
fn one_form(text: &str) -> String {
    let v6 = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|v6| v6.parse::<Ipv6Addr>().ok());
    v6.map_or_else(|| canonical(text).into_owned(), |v6| format!("[{v6}]"))
}

/// Whether a path is in the form that requests have when routes are looked for.
fn prefix(text: &str) -> Result<(), Wrong> {
    if !text.starts_with('/') {
        return Err((format!("the path {text:?} does not begin with a slash"), format!("write \"/{text}\"")));
    }
    if text.contains(['?', '#']) {
        return Err((format!("the path {text:?} has a query or a fragment"), "paths are compared without them".to_owned()));
    }
    // Other programs write so; here it would be compared as it stands, and the policy of the path would hold for nothing.
    if let Some(above) = text.strip_suffix('*') {
        let above = above.strip_suffix('/').filter(|above| !above.is_empty()).unwrap_or(above);
        return Err((format!("the path {text:?} has a * at its end"), format!("write {above:?}; a path stands for all below it")));
    }
    match path::normalize(text, &NORMALIZATION) {
        Ok(normal) if normal.path_and_query == text => Ok(()),
        Ok(normal) => {
            Err((format!("no request ever has the path {text:?}"), format!("write {:?}, which it becomes", normal.path_and_query)))
        }
        Err(error) => {
            Err((format!("the path {text:?} cannot be asked for: {error}"), "write it as browsers send it, percent-encoded".to_owned()))
        }
    }
}
