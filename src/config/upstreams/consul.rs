//! Consul: its agents, and services as paths.

use std::path::Path;

use super::{hosts::Table, raw, route::RawRoute};
use crate::{
    config::{
        agent::AgentConfig,
        fault::{Check, Place},
        named,
        shape::{At, place},
    },
    model::{
        identity::ServiceName,
        ingress::{
            PoolSource,
            pool::{ConsulService, MeshService},
        },
    },
};

/// Who this proxy is in the mesh if the file does not say.
const CALLER: &str = "aralez";

/// The agent that is asked if the file does not say: Consul's own default.
const AGENT: &str = "127.0.0.1:8500";

/// The agents, one for each address, with the same token.
pub(super) fn agents(raw: Option<&At<raw::Consul>>, folder: &Path, check: &mut Check) -> Vec<AgentConfig> {
    let none = raw::Consul::default();
    let raw = raw.map_or(&none, |at| &at.value);
    let default = [At { value: AGENT.to_owned(), place: Place::start(None) }];
    let addresses = raw.servers.as_ref().map_or(&default[..], |at| &at.value.0);
    // Of an agent without ACLs nobody has a token, and an empty variable is none to any tool of Consul.
    let inline = raw.token.as_ref().filter(|at| !at.value.trim().is_empty());
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

/// A service as a path names it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    called: ConsulService,
    /// Whether it is called through its sidecars, if that is said.
    connect: Option<bool>,
    /// Keys that mean nothing to sidecars.
    direct: Vec<(&'static str, Place)>,
}

/// What holds for all services.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    caller: ServiceName,
    connect: bool,
}

impl Mesh {
    pub(super) fn new(raw: Option<&At<raw::Consul>>, check: &mut Check) -> Self {
        let raw = raw.map(|at| &at.value);
        let caller = raw.and_then(|raw| raw.service.as_ref());
        if let Some(at) = caller.filter(|at| at.value.is_empty() || at.value.contains(|c: char| c == '/' || c.is_control())) {
            check.fault(
                &at.place,
                format!("{:?} is no name of a service", at.value),
                "write the name that intentions give it, for example edge",
            );
        }
        Self {
            caller: ServiceName::local(caller.map_or(CALLER, |at| &at.value)),
            connect: raw.and_then(|raw| raw.connect.as_ref()).is_some_and(|at| at.value),
        }
    }

    /// Where the servers of a service are.
    pub(super) fn source(&self, Service { called, connect, direct }: &Service, check: &mut Check) -> PoolSource {
        if !connect.unwrap_or(self.connect) {
            return PoolSource::Consul(called.clone());
        }
        for (key, place) in direct {
            check.fault(
                place,
                format!("{key} means nothing to sidecars"),
                "take it away: Consul says it for the service by its config entries",
            );
        }
        let local = ServiceName::local(&called.name);
        PoolSource::Mesh(MeshService {
            caller: self.caller.clone(),
            service: ServiceName { namespace: called.namespace.clone().unwrap_or(local.namespace), ..local },
            datacenter: called.datacenter.clone(),
        })
    }
}

/// A service; `None` after a fault was told.
pub(super) fn service(name: Option<&At<String>>, keys: &raw::ConsulKeys, at: &Place, check: &mut Check) -> Option<At<Service>> {
    let Some(name) = name.filter(|name| !name.value.is_empty()) else {
        check.lacking(at, "a service of Consul without its name", "name it as service");
        return None;
    };
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.as_str().into());
    let called = ConsulService {
        name: name.value.as_str().into(),
        tags: keys.tags.iter().flat_map(|at| &at.value.0).map(|tag| tag.value.as_str().into()).collect(),
        datacenter: text(&keys.datacenter),
        namespace: text(&keys.namespace),
        scheme: keys.scheme.as_ref().map(|at| at.value.0),
    };
    let direct = [("tags", place(&keys.tags)), ("scheme", place(&keys.scheme))];
    let direct = direct.into_iter().filter_map(|(key, place)| Some((key, place?.clone()))).collect();
    Some(At { value: Service { called, connect: keys.connect.as_ref().map(|at| at.value), direct }, place: at.clone() })
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
        let route = RawRoute {
            policy: value.policy.clone(),
            keys: value.place.clone(),
            servers: None,
            consul: Some(service),
            kubernetes: None,
            place: place.clone(),
        };
        table.add_path(host, value.path.as_ref(), route, file, check);
    }
}
