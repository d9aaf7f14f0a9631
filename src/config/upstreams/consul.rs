//! Consul: its agents, and services as paths.

use std::path::Path;

use super::{hosts::Table, raw, route::RawRoute};
use crate::{
    config::{
        agent::AgentConfig,
        fault::{Check, Place},
        named,
        shape::At,
        tree::Key,
    },
    model::ingress::pool::ConsulService,
};

/// The agent that is asked if the file does not say: Consul's own default.
const AGENT: &str = "127.0.0.1:8500";

/// The agents, one for each address, with the same token.
pub(super) fn agents(raw: Option<&At<raw::Consul>>, folder: &Path, check: &mut Check) -> Vec<AgentConfig> {
    let none = raw::Consul::default();
    let raw = raw.map_or(&none, |at| &at.value);
    let default = [At { value: AGENT.to_owned(), place: Place::start(None) }];
    let addresses = raw.servers.as_ref().map_or(&default[..], |at| &at.value.0);
    let inline = raw.token.as_ref();
    let token = if inline.is_some() { named::secret("token", inline, raw.token_file.as_ref(), folder, check) } else { None };
    let agent = |address: &At<String>| AgentConfig {
        address: address.value.clone(),
        token: token.as_ref().map(|at| at.value.clone()),
        token_file: raw.token_file.as_ref().map(|at| folder.join(&at.value)),
        ssl_verify: true,
        ca_file: raw.ca_file.as_ref().map(|at| folder.join(&at.value)),
        ..AgentConfig::default()
    };
    for address in addresses {
        if !is_agent(&address.value) {
            let advice = "write host:port, http://host:port, https://host:port or unix:///path";
            check.fault(&address.place, format!("{:?} is no address of an agent", address.value), advice);
        }
    }
    addresses.iter().map(agent).collect()
}

fn is_agent(address: &str) -> bool {
    match address.split_once("://") {
        Some(("unix", path)) => path.starts_with('/'),
        Some(("http" | "https", rest)) => rest.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty())),
        Some(_) => false,
        None => {
            address.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.host().is_empty() && authority.port_u16().is_some())
        }
    }
}

/// A service; `None` after a fault was told.
pub(super) fn service(name: Option<&At<String>>, keys: &raw::ConsulKeys, at: &Place, check: &mut Check) -> Option<At<ConsulService>> {
    let Some(name) = name.filter(|name| !name.value.is_empty()) else {
        check.lacking(at, "a service of Consul without its name", "name it as service");
        return None;
    };
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.as_str().into());
    Some(At {
        value: ConsulService {
            name: name.value.as_str().into(),
            tags: keys.tags.iter().flat_map(|at| &at.value.0).map(|tag| tag.value.as_str().into()).collect(),
            datacenter: text(&keys.datacenter),
            namespace: text(&keys.namespace),
            scheme: keys.scheme.as_ref().map(|at| at.value.0),
        },
        place: at.clone(),
    })
}

/// Adds the services that are paths of hosts.
pub(super) fn paths(raw: Option<&At<raw::Consul>>, file: &Path, table: &mut Table, check: &mut Check) {
    for At { value, place } in raw.iter().filter_map(|at| at.value.services.as_ref()).flat_map(|list| &list.value) {
        let service = service(value.service_name.as_ref(), &value.service, place, check);
        let Some(host) = &value.hostname else {
            check.lacking(place, "a service of Consul without its host", "name it as hostname");
            continue;
        };
        let Some(service) = service else { continue };
        let path = value.path.as_ref().map_or_else(|| Key { place: place.clone(), text: "/".to_owned() }, key);
        let route = RawRoute {
            policy: value.policy.clone(),
            keys: value.place.clone(),
            servers: None,
            consul: Some(service),
            kubernetes: None,
            place: place.clone(),
        };
        table.add_path(&key(host), path, route, file, check);
    }
}

pub(super) fn key(at: &At<String>) -> Key {
    Key { place: at.place.clone(), text: at.value.clone() }
}
