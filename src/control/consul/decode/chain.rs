//! A compiled discovery chain: `POST /v1/discovery-chain/<name>`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use consul_api_types::{ChainResolver, ChainTarget, CompiledChain, GoDuration};

use super::registration::name;
use crate::model::{
    balance::BalancePolicy,
    cluster::TargetId,
    listener::Protocol,
    registration::{Chain, Target},
    route::{self, RouteTable},
};

/// A resolver's `ConnectTimeout` when unset, as Consul compiles it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Decodes a chain that is one resolver: its target, then its failover targets in order.
///
/// A target in a cluster peer keeps its place without a server name, so that it is reported and never dialled.
///
/// # Errors
/// The chain starts with a router or splitter (not supported yet), or does not hold what it names.
pub fn chain(chain: &CompiledChain) -> Result<Chain, String> {
    let start =
        chain.nodes.get(&chain.start_node).ok_or_else(|| format!("the chain has no node {:?}, where it starts", chain.start_node))?;
    let kind = start.kind.as_str();
    if matches!(kind, "router" | "splitter") {
        return Err(format!("it has a service-{kind}; {kind}s are not supported yet"));
    }
    let resolver = start.resolver.as_ref().ok_or_else(|| format!("the chain starts with a node of type {kind:?}"))?;
    let protocol = match chain.protocol.as_str() {
        "" => Protocol::Tcp,
        text => Protocol::parse(text).ok_or_else(|| format!("protocol {text:?} is not known"))?,
    };
    let failover = resolver.failover.iter().flat_map(|f| &f.targets);
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for id in std::iter::once(&resolver.target).chain(failover).filter(|id| seen.insert(id.as_str())) {
        let wire = chain.targets.get(id).ok_or_else(|| format!("the chain names target {id:?} but does not hold it"))?;
        targets.push(target(id, wire, resolver));
    }
    let timeout = resolver.request_timeout.to_std().filter(|timeout| !timeout.is_zero());
    let routes = Arc::new(RouteTable::direct(targets.len(), Some(timeout.unwrap_or(route::TIMEOUT))));
    Ok(Chain { protocol, routes, targets, problems: Vec::new() })
}

fn target(id: &str, wire: &ChainTarget, resolver: &ChainResolver) -> Target {
    let set = |timeout: GoDuration| timeout.to_std().filter(|timeout| !timeout.is_zero());
    Target {
        id: TargetId(id.into()),
        service: name(&wire.partition, &wire.namespace, &wire.service),
        datacenter: wire.datacenter.as_str().into(),
        sni: if wire.peer.is_empty() { wire.sni.as_str() } else { "" }.into(),
        connect_timeout: set(resolver.connect_timeout).or(set(wire.connect_timeout)).unwrap_or(CONNECT_TIMEOUT),
        balance: BalancePolicy::default(),
        filter: wire.subset.filter.as_str().into(),
        only_passing: wire.subset.only_passing,
    }
}

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;

    fn target(id: &str, service: &str, fields: Value) -> Value {
        let mut target = json!({"ID": id, "Service": service, "Namespace": "default", "Partition": "default", "Datacenter": "dc1",
            "MeshGateway": {}, "Subset": {}, "ConnectTimeout": "5s", "SNI": format!("{service}.sni"), "Name": id});
        for (key, value) in fields.as_object().unwrap() {
            target[key] = value.clone();
        }
        target
    }

    /// As the agent gives it: a subset, a redirect's target elsewhere, a peer; mixed forms of durations.
    fn captured() -> Value {
        json!({
            "ServiceName": "db", "Namespace": "default", "Datacenter": "dc1", "Protocol": "http",
            "StartNode": "resolver:v1.db.default.default.dc1",
            "Nodes": {"resolver:v1.db.default.default.dc1": {"Type": "resolver", "Name": "v1.db.default.default.dc1", "Resolver": {
                "ConnectTimeout": "3s", "RequestTimeout": 7000000000i64, "Target": "v1.db.default.default.dc1",
                "Failover": {"Targets": ["dbalt.default.default.dc1", "s2.default.default.external.open-to-p", "dbalt.default.default.dc1",
                    "v1.db.default.default.dc7"]}}}},
            "Targets": {
                "v1.db.default.default.dc1": target("v1", "db", json!({"Subset": {"Filter": "Service.Meta.v == 1", "OnlyPassing": true}})),
                "dbalt.default.default.dc1": target("dbalt", "dbalt", json!({})),
                "s2.default.default.external.open-to-p": target("s2", "s2", json!({"Peer": "open-to-p", "Datacenter": "", "SNI": ""})),
                "v1.db.default.default.dc7": target("v1", "db", json!({"Datacenter": "dc7"})),
            },
        })
    }

    fn decode(wire: Value) -> Result<Chain, String> {
        chain(&serde_json::from_value(wire).unwrap())
    }

    #[test]
    fn a_resolver_gives_its_target_then_its_failover_targets_in_order() {
        let chain = decode(captured()).unwrap();
        assert_eq!((chain.protocol, chain.routes.routes[0].timeout), (Protocol::Http, Some(Duration::from_secs(7))));
        let seen: Vec<_> = chain.targets.iter().map(|t| (&*t.service.name, &*t.datacenter, &*t.sni)).collect();
        assert_eq!(seen, [("db", "dc1", "db.sni"), ("dbalt", "dc1", "dbalt.sni"), ("s2", "", ""), ("db", "dc7", "db.sni")]);
        let first = &chain.targets[0];
        assert_eq!((&*first.filter, first.only_passing, first.connect_timeout), ("Service.Meta.v == 1", true, Duration::from_secs(3)));
    }

    #[test]
    fn timeouts_that_are_not_set_are_the_defaults() {
        let mut wire = captured();
        let node = "resolver:v1.db.default.default.dc1";
        wire["Nodes"][node]["Resolver"]["RequestTimeout"] = json!(0);
        wire["Nodes"][node]["Resolver"]["ConnectTimeout"] = json!("0s");
        wire["Targets"]["v1.db.default.default.dc1"]["ConnectTimeout"] = json!("");
        let chain = decode(wire);
        assert!(chain.is_ok_and(|c| c.routes.routes[0].timeout == Some(route::TIMEOUT) && c.targets[0].connect_timeout == CONNECT_TIMEOUT));
    }

    #[test]
    fn a_chain_that_cannot_be_followed_says_why() {
        let changed = |path: &str, value: Value| {
            let mut wire = captured();
            *wire.pointer_mut(path).unwrap() = value;
            decode(wire).unwrap_err()
        };
        let node = "/Nodes/resolver:v1.db.default.default.dc1";
        assert!(changed(&format!("{node}/Type"), json!("router")).contains("routers are not supported yet"));
        assert!(changed(&format!("{node}/Type"), json!("splitter")).contains("splitters are not supported yet"));
        assert!(changed(&format!("{node}/Resolver"), Value::Null).contains("resolver"));
        assert!(changed("/StartNode", json!("resolver:gone")).contains("gone"));
        assert!(changed("/Targets", json!({})).contains("does not hold it"));
        assert!(changed("/Protocol", json!("smtp")).contains("smtp"));
    }
}
