//! A compiled discovery chain: `POST /v1/discovery-chain/<name>`.

use std::{collections::HashSet, time::Duration};

use consul_api_types::{ChainResolver, ChainTarget, CompiledChain, GoDuration};

use super::registration::name;
use crate::model::{
    cluster::TargetId,
    listener::Protocol,
    registration::{Chain, Target},
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
    let request_timeout = resolver.request_timeout.to_std().filter(|timeout| !timeout.is_zero());
    Ok(Chain { protocol, targets, request_timeout })
}

fn target(id: &str, wire: &ChainTarget, resolver: &ChainResolver) -> Target {
    let set = |timeout: GoDuration| timeout.to_std().filter(|timeout| !timeout.is_zero());
    Target {
        id: TargetId(id.into()),
        service: name(&wire.partition, &wire.namespace, &wire.service),
        datacenter: wire.datacenter.as_str().into(),
        sni: if wire.peer.is_empty() { wire.sni.as_str() } else { "" }.into(),
        connect_timeout: set(resolver.connect_timeout).or(set(wire.connect_timeout)).unwrap_or(CONNECT_TIMEOUT),
        filter: wire.subset.filter.as_str().into(),
        only_passing: wire.subset.only_passing,
    }
}
