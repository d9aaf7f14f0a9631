//! Kubernetes: its cluster, and Services as paths.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    hosts::Table,
    policy::Policy,
    raw::{self, Provider},
    route::{self, RawRoute},
};
use crate::{
    config::{
        fault::{Check, Place},
        kubernetes::{Access, CONTROLLER, ClusterConfig, IngressConfig, Kubernetes, RouteTemplate},
        shape::{At, Several, place},
    },
    model::{
        ingress::{Pool, PoolSource, Routing, pool::KubernetesService},
        matching::TextMatch,
    },
};

/// Where a pod finds what its service account has, as Kubernetes mounts it.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The cluster, if anything asks for one.
pub(super) fn cluster(raw: &raw::Upstreams, globals: &Policy, routing: &Routing, folder: &Path, check: &mut Check) -> Option<Kubernetes> {
    let is_provider = raw.provider.as_ref().is_some_and(|at| at.value.0 == Provider::Kubernetes);
    let named = routing.pools.iter().any(|pool| matches!(pool.source, PoolSource::Kubernetes(_)));
    if !is_provider && !named && raw.kubernetes.is_none() {
        return None;
    }
    let none = raw::Kubernetes::default();
    let section = raw.kubernetes.as_ref().map_or(&none, |at| &at.value);
    for At { value, place } in list(&section.status_address) {
        if value.parse::<std::net::IpAddr>().is_err() && !crate::config::read::is_host_name(value) {
            check.fault(place, format!("{value:?} is no address and no name"), "write an IP address or a DNS name");
        }
    }
    if !is_provider {
        for (key, found) in [("controller", place(&section.controller)), ("status_address", place(&section.status_address))] {
            if let Some(found) = found {
                check.fault(found, format!("{key} is of Ingresses, which are not followed"), "write provider: kubernetes, or take it away");
            }
        }
    }
    let ingresses = is_provider.then(|| IngressConfig {
        controller: section.controller.as_ref().map_or(CONTROLLER, |at| &at.value).into(),
        status: list(&section.status_address).iter().map(|at| at.value.as_str().into()).collect(),
    });
    let mut namespaces: Vec<String> = list(&section.namespaces).iter().map(|at| at.value.clone()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let cluster = ClusterConfig { access: access(section, folder, check)?, namespaces, ingresses };
    Some(Kubernetes { cluster, template: Arc::new(template(globals)) })
}

fn list(at: &Option<At<Several<String>>>) -> &[At<String>] {
    at.as_ref().map_or(&[], |at| &at.value.0)
}

fn access(section: &raw::Kubernetes, folder: &Path, check: &mut Check) -> Option<Access> {
    let file = |at: &Option<At<String>>| at.as_ref().map(|at| folder.join(&at.value));
    let servers = list(&section.server);
    if let [_, second, ..] = servers {
        check.fault(&second.place, "a second API server", "name one address; that of a balancer reaches them all");
    }
    let Some(server) = servers.first() else {
        for (key, found) in [("token_file", place(&section.token_file)), ("ca_file", place(&section.ca_file))] {
            if let Some(found) = found {
                check.fault(found, format!("{key} without server"), "name the API server's address, or take it away");
            }
        }
        return Some(Access::Usual { kubeconfig: file(&section.kubeconfig), context: section.context.as_ref().map(|at| at.value.clone()) });
    };
    for (key, found) in [("kubeconfig", place(&section.kubeconfig)), ("context", place(&section.context))] {
        if let Some(found) = found {
            check.fault(found, format!("{key} and server exclude each other"), "keep one");
        }
    }
    let text = if server.value.contains("://") { server.value.clone() } else { format!("https://{}", server.value) };
    let url = text.parse::<http::Uri>().ok().filter(|url| url.scheme_str() == Some("https") && url.host().is_some());
    let Some(url) = url else {
        // The token would go to whoever answers.
        check.fault(&server.place, format!("{:?} is no address of an API server", server.value), "write https://host:port");
        return None;
    };
    let or_account = |at: &Option<At<String>>, name: &str| file(at).unwrap_or_else(|| PathBuf::from(ACCOUNT).join(name));
    Some(Access::Server { url, token_file: or_account(&section.token_file, "token"), ca_file: or_account(&section.ca_file, "ca.crt") })
}

fn template(globals: &Policy) -> RouteTemplate {
    RouteTemplate {
        route: route::named("", TextMatch::Prefix("/".into()), Vec::new(), globals),
        filters: Arc::new(globals.filters.clone()),
        pool: Pool { health: None, ..globals.pool.pool(String::new(), PoolSource::Servers(Vec::new())) },
    }
}

/// A Service; `None` after a fault was told.
pub(super) fn service(
    name: Option<&At<String>>,
    keys: &raw::KubernetesKeys,
    at: &Place,
    check: &mut Check,
) -> Option<At<KubernetesService>> {
    let Some(name) = name.filter(|name| !name.value.is_empty()) else {
        check.lacking(at, "a Service of Kubernetes without its name", "name it as service");
        return None;
    };
    let namespace = keys.namespace.as_ref().map_or("default", |at| &at.value);
    Some(At {
        value: KubernetesService {
            namespace: namespace.into(),
            name: name.value.as_str().into(),
            port: keys.port.as_ref().map(|at| at.value.0.clone()),
            scheme: keys.scheme.as_ref().map(|at| at.value.0),
        },
        place: at.clone(),
    })
}

/// Adds the Services that are paths of hosts.
pub(super) fn paths(raw: Option<&At<raw::Kubernetes>>, file: &Path, table: &mut Table, check: &mut Check) {
    for At { value, place } in raw.iter().filter_map(|at| at.value.services.as_ref()).flat_map(|list| &list.value) {
        let service = service(value.service_name.as_ref(), &value.service, place, check);
        let Some(host) = &value.hostname else {
            check.lacking(place, "a Service of Kubernetes without its host", "name it as hostname");
            continue;
        };
        let Some(service) = service else { continue };
        let route = RawRoute {
            policy: value.policy.clone(),
            keys: value.place.clone(),
            servers: None,
            consul: None,
            kubernetes: Some(service),
            place: place.clone(),
        };
        table.add_path(host, value.path.as_ref(), route, file, check);
    }
}
