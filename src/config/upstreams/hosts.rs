//! Hosts and their paths, from whichever file, made into a routing.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    policy::Policy,
    raw::{RawHost, RawPath},
    route,
};
use crate::{
    config::{
        fault::Check,
        read,
        shape::{At, Entries, Shape},
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

/// Takes the hosts out that stand at the top level, as in the oldest layout: maps with `paths`.
pub(super) fn split_off(node: &mut Node) -> Entries<RawHost> {
    let _ = node;
    Vec::new()
}

/// A host with where it was said.
#[derive(Debug)]
struct Host {
    key: Key,
    raw: RawHost,
    folder: PathBuf,
}

/// The hosts of all files by their one form.
#[derive(Debug, Default)]
pub(super) struct Table {
    hosts: Vec<Host>,
    places: HashMap<String, usize>,
}

impl Table {
    /// Adds the hosts of the routes file.
    pub(super) fn merge(&mut self, hosts: Entries<RawHost>, file: &Path, check: &mut Check) {
        self.add(hosts, file, false, check);
    }

    /// Adds the hosts of a file of `conf.d`: a host that is known is replaced as a whole.
    pub(super) fn merge_over(&mut self, node: &Node, file: &Path, check: &mut Check) {
        let hosts = match &node.kind {
            Kind::Null => Vec::new(),
            Kind::Map(entries) if entries.len() == 1 && entries.iter().all(|(key, _)| key.text == "upstreams") => {
                entries.iter().filter_map(|(_, hosts)| Entries::read(hosts, check)).flatten().collect()
            }
            _ => Entries::read(node, check).unwrap_or_default(),
        };
        self.add(hosts, file, true, check);
    }

    fn add(&mut self, hosts: Entries<RawHost>, file: &Path, over: bool, check: &mut Check) {
        let before = self.hosts.len();
        for (key, At { value: raw, .. }) in hosts {
            if let Err((what, advice)) = host_name(&key.text) {
                check.fault(&key.place, what, advice);
                continue;
            }
            let name = canonical(&key.text).into_owned();
            let name = if name == "*" { "default".to_owned() } else { name };
            let host = Host { key, raw, folder: read::folder(file) };
            match self.places.get(&name).and_then(|place| Some((*place, self.hosts.get_mut(*place)?))) {
                Some((place, known)) if over && place < before => *known = host,
                Some((_, known)) => {
                    let what = format!("{:?} is the same host as {:?} in line {}", host.key.text, known.key.text, known.key.place.line);
                    check.fault(&host.key.place, what, "keep one");
                }
                None => {
                    self.places.insert(name, self.hosts.len());
                    self.hosts.push(host);
                }
            }
        }
    }

    /// The routing of all hosts.
    pub(super) fn routing(self, globals: &Policy, check: &mut Check) -> Routing {
        let mut routing = Routing::default();
        for Host { key, raw, folder } in self.hosts {
            let policy = globals.with(&raw.policy, &key.text, &folder, check);
            let Some(At { value: entries, place }) = raw.paths else {
                check.fault(
                    &key.place,
                    format!("the host {:?} has no paths", key.text),
                    "give it at least paths: {\"/\": {servers: [...]}}",
                );
                continue;
            };
            if entries.is_empty() {
                check.fault(&place, format!("the host {:?} has no paths", key.text), "give it at least \"/\"");
            }
            let mut paths = Paths::default();
            for (path, At { value: raw, .. }) in entries {
                add_path(&mut paths, &mut routing, &key, &path, raw, &policy, &folder, check);
            }
            routing.hosts.insert(&key.text, paths);
        }
        routing
    }
}

#[allow(clippy::too_many_arguments)]
fn add_path(
    paths: &mut Paths,
    routing: &mut Routing,
    host: &Key,
    path: &Key,
    raw: RawPath,
    policy: &Policy,
    folder: &Path,
    check: &mut Check,
) {
    if let Err((what, advice)) = path_prefix(&path.text) {
        return check.fault(&path.place, what, advice);
    }
    let name = format!("{}{}", host.text, path.text);
    let policy = policy.with(&raw.policy, &name, folder, check);
    if let Some(route) = route::route(&name, path, raw, policy, &mut routing.pools, check) {
        paths.insert(&path.text, routing.routes.len());
        routing.routes.push(route);
    }
}

/// Whether a host can be asked for.
fn host_name(text: &str) -> Result<(), (String, String)> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let fine = text == "*"
        || text.eq_ignore_ascii_case("default")
        || read::is_host_name(name)
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    if fine {
        return Ok(());
    }
    let advice =
        "write a name such as shop.example, *.shop.example, [::1], or DEFAULT for every other; ports do not matter and are left out";
    Err((format!("{text:?} is no host"), advice.to_owned()))
}

/// Whether a path is in the form that requests have when routes are looked for.
fn path_prefix(text: &str) -> Result<(), (String, String)> {
    if !text.starts_with('/') {
        return Err((format!("the path {text:?} does not begin with a slash"), format!("write \"/{text}\"")));
    }
    if text.contains(['?', '#']) {
        return Err((format!("the path {text:?} has a query or a fragment"), "paths are compared without them".to_owned()));
    }
    match path::normalize(text, &NORMALIZATION) {
        Ok(normal) if normal.path_and_query == text => Ok(()),
        Ok(normal) => {
            Err((format!("no request ever has the path {text:?}"), format!("write it in its one form, {:?}", normal.path_and_query)))
        }
        Err(error) => {
            Err((format!("the path {text:?} cannot be asked for: {error}"), "write it as browsers send it, percent-encoded".to_owned()))
        }
    }
}
