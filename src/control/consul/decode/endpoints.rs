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
        dial: None,
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

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;

    fn entry(id: &str, service: Value, checks: &[&str]) -> ServiceEntry {
        let mut entry = json!({
            "Node": {"Node": "n1", "Address": "10.0.0.1", "TaggedAddresses": {"wan": "192.0.2.1"}},
            "Service": {"Kind": "connect-proxy", "ID": id, "Service": "db-sidecar-proxy", "Address": "10.0.0.9", "Port": 21000,
                "Weights": {"Passing": 10, "Warning": 3}},
            "Checks": checks.iter().map(|status| json!({"Status": status})).collect::<Vec<_>>(),
        });
        for (key, value) in service.as_object().unwrap() {
            entry["Service"][key] = value.clone();
        }
        serde_json::from_value(entry).unwrap()
    }

    fn one(entry: ServiceEntry, local: bool, only_passing: bool) -> Endpoint {
        let names = Resolved::from([("db.internal", [10, 7, 7, 7].into())]);
        let all = endpoints(&[entry], local, only_passing, &names);
        (*all[0]).clone()
    }

    #[test]
    fn health_is_the_worst_check_and_decides_the_weight() {
        for (checks, only_passing, health, weight) in [
            (&[] as &[&str], false, Health::Passing, 10),
            (&["passing", "passing"], false, Health::Passing, 10),
            (&["passing", "warning"], false, Health::Warning, 3),
            (&["warning", "critical"], false, Health::Critical, 10),
            (&["warning"], true, Health::Critical, 10),
            (&["maintenance"], false, Health::Critical, 10),
        ] {
            let endpoint = one(entry("db-1", json!({}), checks), true, only_passing);
            assert_eq!((endpoint.health, endpoint.weight), (health, weight), "{checks:?}, only passing: {only_passing}");
        }
    }

    #[test]
    fn weights_are_capped_and_zero_is_unhealthy() {
        let weighed = |passing: i64| one(entry("db-1", json!({"Weights": {"Passing": passing, "Warning": 1}}), &[]), true, false);
        assert_eq!((weighed(500).weight, weighed(0).weight, weighed(-3).weight), (128, 0, 0));
        assert!(!weighed(0).is_healthy());
    }

    #[test]
    fn the_address_is_the_services_else_the_nodes_and_the_wide_one_between_datacenters() {
        let address = |service: Value, local| one(entry("db-1", service, &[]), local, false).address.to_string();
        assert_eq!(address(json!({}), true), "10.0.0.9:21000");
        assert_eq!(address(json!({"Address": ""}), true), "10.0.0.1:21000");
        assert_eq!(address(json!({"Address": "db.internal"}), true), "10.7.7.7:21000");
        let wan = |port: u16| json!({"TaggedAddresses": {"wan": {"Address": "198.51.100.4", "Port": port}}});
        assert_eq!(address(wan(8443), false), "198.51.100.4:8443");
        assert_eq!(address(wan(0), false), "198.51.100.4:21000");
        assert_eq!(address(wan(8443), true), "10.0.0.9:21000");
        assert_eq!(address(json!({"Address": ""}), false), "192.0.2.1:21000");
        assert_eq!(address(json!({}), false), "10.0.0.9:21000");
    }

    #[test]
    fn all_instances_are_listed_by_id_but_for_those_without_an_address() {
        let odd = |id, service| entry(id, service, &[]);
        let list = [odd("b", json!({})), odd("a", json!({})), odd("port", json!({"Port": 0})), odd("name", json!({"Address": "nobody"}))];
        let ids: Vec<_> = endpoints(&list, true, false, &Resolved::default()).iter().map(|e| e.id.to_string()).collect();
        assert_eq!(ids, ["n1/a", "n1/b"]);
        assert_eq!(hosts(&list, true).into_iter().collect::<Vec<_>>(), ["nobody"]);
    }
}
