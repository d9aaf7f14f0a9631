//! The instances of a target: `GET /v1/health/connect/<service>`.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use consul_api_types::{ServiceEntry, Weights};

use super::super::names::Resolved;
use crate::model::{
    cluster::{Endpoint, Health},
    listener::Address,
};

/// The largest weight, as in Consul's Envoy path.
const LARGEST_WEIGHT: i64 = 128;

/// The host names among the instances' addresses.
pub fn hosts(entries: &[ServiceEntry], local: bool) -> BTreeSet<String> {
    let named = |entry| Some(address(entry, local).0.to_owned()).filter(|host| host.parse::<IpAddr>().is_err());
    entries.iter().filter_map(named).filter(|host| !host.is_empty()).collect()
}

/// All instances that have an address, by id; the unhealthy ones are marked, not left out.
///
/// `local` says whether they are in our own datacenter; those of another are dialled at their WAN address.
pub fn endpoints(entries: &[ServiceEntry], local: bool, only_passing: bool, names: &Resolved) -> Arc<[Arc<Endpoint>]> {
    let mut all: Vec<Endpoint> = entries.iter().filter_map(|entry| endpoint(entry, local, only_passing, names)).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.dedup_by(|a, b| a.id == b.id);
    all.into_iter().map(Arc::new).collect()
}

fn endpoint(entry: &ServiceEntry, local: bool, only_passing: bool, names: &Resolved) -> Option<Endpoint> {
    let (host, port) = address(entry, local);
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    let ip = names.ip(host).ok()?;
    let health = health(entry, only_passing);
    let id = format!("{}/{}", entry.node.node, entry.service.id).into();
    Some(Endpoint {
        id,
        address: Address::Tcp((ip, port).into()),
        weight: weight(entry.service.weights.unwrap_or_default(), health),
        health,
    })
}

/// Host and port to dial. Between datacenters the WAN address counts: the service's, else, if it has none at all, its node's.
fn address(entry: &ServiceEntry, local: bool) -> (&str, i64) {
    let (node, service) = (&entry.node, &entry.service);
    if !local {
        if let Some(wan) = service.tagged_addresses.get("wan").filter(|wan| !wan.address.is_empty()) {
            return (&wan.address, if wan.port == 0 { service.port } else { wan.port });
        }
        if let Some(wan) = node.tagged_addresses.get("wan").filter(|wan| service.address.is_empty() && !wan.is_empty()) {
            return (wan, service.port);
        }
    }
    (if service.address.is_empty() { &node.address } else { &service.address }, service.port)
}

/// The worst of all checks. A state that is not known counts as critical.
fn health(entry: &ServiceEntry, only_passing: bool) -> Health {
    let of = |status: &str| match status {
        "passing" => Health::Passing,
        "warning" if !only_passing => Health::Warning,
        _ => Health::Critical,
    };
    entry.checks.iter().map(|check| of(&check.status)).max().unwrap_or(Health::Passing)
}

fn weight(weights: Weights, health: Health) -> u32 {
    let weight = if health == Health::Warning { weights.warning } else { weights.passing };
    u32::try_from(weight.clamp(0, LARGEST_WEIGHT)).unwrap_or_default()
}
