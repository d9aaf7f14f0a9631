//! A compiled discovery chain: `POST /v1/discovery-chain/<name>`.
//!
//! A chain is used whole or not at all: a route that cannot be matched makes it an error, since its requests would silently fall
//! through to a later route. What only shapes a request on its way (a header edit, a retry condition) is left out with a problem.

mod balance;
mod edits;
mod route;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use consul_api_types::{ChainNode, ChainResolver, ChainSplit, CompiledChain, GoDuration};

use super::registration::name;
use crate::model::{
    balance::{BalancePolicy, HashPolicy},
    cluster::TargetId,
    listener::Protocol,
    registration::{Chain, Naming, Target, Unusable},
    route::{self as model, HeaderEdits, Leg, Route, RouteTable},
};

/// A resolver's `ConnectTimeout` when unset, as Consul compiles it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The whole of the traffic in units of 0.01 %.
const WHOLE: f64 = 10_000.0;

/// Decodes a chain: its routes, and the targets that their legs lead to.
///
/// A target without a server name, as those in a cluster peer, is a problem and in no leg: it must never be dialled.
///
/// # Errors
/// The chain does not hold what it names, or has a route that cannot be matched; the place and the reason, in one line.
pub fn chain(wire: &CompiledChain) -> Result<Chain, String> {
    let protocol = match wire.protocol.as_str() {
        "" => Protocol::Tcp,
        text => Protocol::parse(text).ok_or_else(|| format!("protocol {text:?} is not known"))?,
    };
    let mut walk = Walk { wire, known: HashMap::new(), places: HashMap::new(), targets: Vec::new(), problems: Vec::new() };
    let start = walk.node(&wire.start_node)?;
    let routes = if start.kind != "router" {
        let Next { hash, legs } = walk.next(&wire.start_node)?;
        let timeout = start.resolver.as_ref().and_then(|resolver| set(resolver.request_timeout)).unwrap_or(model::TIMEOUT);
        vec![Route { timeout: Some(timeout), hash, ..Route::to(legs) }]
    } else if protocol.is_http() {
        route::routes(&mut walk, &start.routes)?
    } else {
        return Err("it has a service-router, which protocol tcp cannot have".to_owned());
    };
    if routes.is_empty() {
        return Err("its router has no routes".to_owned());
    }
    Ok(Chain { protocol, routes: Arc::new(RouteTable { routes }), targets: walk.targets, problems: walk.problems })
}

/// A chain on its way into the model.
struct Walk<'a> {
    wire: &'a CompiledChain,
    /// The nodes that were followed.
    known: HashMap<&'a str, Next>,
    /// Where a target stands in `targets`, by all that its resolver adds to it.
    places: HashMap<(TargetId, Duration, BalancePolicy), usize>,
    targets: Vec<Target>,
    problems: Vec<Unusable>,
}

/// What a splitter or resolver makes of a request.
#[derive(Clone)]
struct Next {
    hash: Vec<HashPolicy>,
    legs: Vec<Leg>,
}

impl<'a> Walk<'a> {
    fn problem(&mut self, path: String, why: impl Into<String>, advice: &str) {
        self.problems.push(Unusable { path, why: why.into(), advice: advice.to_owned() });
    }

    fn node(&self, key: &str) -> Result<&'a ChainNode, String> {
        self.wire.nodes.get(key).ok_or_else(|| format!("the chain has no node {key:?}"))
    }

    /// Follows a splitter or resolver.
    fn next(&mut self, key: &'a str) -> Result<Next, String> {
        if let Some(next) = self.known.get(key) {
            return Ok(next.clone());
        }
        let node = self.node(key)?;
        let legs = match (node.kind.as_str(), &node.resolver) {
            ("resolver", Some(resolver)) => vec![self.leg(key, node, resolver)?],
            ("splitter", _) => node.splits.iter().enumerate().map(|(at, split)| self.split(key, at, split)).collect::<Result<_, _>>()?,
            (kind, _) => return Err(format!("node {key:?} is a {kind} without what it needs, or out of place")),
        };
        if legs.iter().all(|leg| leg.weight == 0) {
            return Err(format!("node {key:?} sends its requests nowhere"));
        }
        let hash = node.load_balancer.as_ref().map(|wire| balance::hash(wire, key, &mut self.problems)).unwrap_or_default();
        let next = Next { hash, legs };
        self.known.insert(key, next.clone());
        Ok(next)
    }

    /// A leg of a splitter. Nested splitters arrive flattened, so that it leads to a resolver.
    fn split(&mut self, splitter: &str, at: usize, split: &'a ChainSplit) -> Result<Leg, String> {
        if self.node(&split.next_node)?.kind != "resolver" {
            return Err(format!("a split of {splitter:?} leads to {:?}, which is no resolver", split.next_node));
        }
        let to = self.next(&split.next_node)?.legs.into_iter().next().ok_or("a resolver without a leg")?;
        let mut headers = HeaderEdits::default();
        if let Some(definition) = &split.definition {
            let path = format!("{splitter}: Splits[{at}]");
            headers = edits::both(&definition.request_headers, &definition.response_headers, &path, &mut self.problems);
        }
        // Steps of 0.01 % as a binary fraction: rounded, not cut, so that 0.29 % stays 29 steps.
        Ok(Leg { weight: (split.weight * 100.0).round().clamp(0.0, WHOLE) as u32, headers, ..to })
    }

    /// A resolver as the only leg: its target, then its failover targets in order.
    fn leg(&mut self, key: &str, node: &'a ChainNode, resolver: &'a ChainResolver) -> Result<Leg, String> {
        let policy = node.load_balancer.as_ref().map(|wire| balance::policy(wire, key, &mut self.problems)).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut clusters = Vec::new();
        let failover = resolver.failover.iter().flat_map(|failover| &failover.targets);
        for id in std::iter::once(&resolver.target).chain(failover).filter(|id| seen.insert(id.as_str())) {
            clusters.extend(self.place(id, resolver, policy)?);
        }
        let name = key.strip_prefix("resolver:").unwrap_or(key);
        Ok(Leg { name: name.into(), weight: WHOLE as u32, headers: HeaderEdits::default(), clusters })
    }

    /// The place of a resolver's target among the targets; none for one that cannot be dialled.
    fn place(&mut self, id: &str, resolver: &ChainResolver, balance: BalancePolicy) -> Result<Option<usize>, String> {
        let wire = self.wire.targets.get(id).ok_or_else(|| format!("the chain names target {id:?} but does not hold it"))?;
        if wire.sni.is_empty() || !wire.peer.is_empty() {
            let path = format!("target {id}");
            if !self.problems.iter().any(|problem| problem.path == path) {
                let why = "targets without a server name, as those in a cluster peer, are not supported yet";
                self.problem(path, why, "its share is answered with 503, unless a failover target follows it");
            }
            return Ok(None);
        }
        let connect_timeout = set(resolver.connect_timeout).or(set(wire.connect_timeout)).unwrap_or(CONNECT_TIMEOUT);
        let id = TargetId(id.into());
        let key = (id.clone(), connect_timeout, balance);
        if let Some(place) = self.places.get(&key) {
            return Ok(Some(*place));
        }
        let place = self.targets.len();
        self.places.insert(key, place);
        self.targets.push(Target {
            id,
            service: name(&wire.partition, &wire.namespace, &wire.service),
            datacenter: wire.datacenter.as_str().into(),
            naming: Naming::Chain(wire.sni.as_str().into()),
            connect_timeout,
            balance,
            filter: wire.subset.filter.as_str().into(),
            only_passing: wire.subset.only_passing,
        });
        Ok(Some(place))
    }
}

/// A duration that is set and not switched off.
fn set(timeout: GoDuration) -> Option<Duration> {
    timeout.to_std().filter(|timeout| !timeout.is_zero())
}
