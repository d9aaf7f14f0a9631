//! Pools of the reverse proxy that reach services in the mesh: a discovery chain becomes clusters, and its routes stand behind those of paths.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{BAD_LEAF, Compiled, identity, ingress, trust};
use crate::{
    model::{
        balance::{Balance, BalancePolicy},
        cluster::{Cluster, Subset, TargetId},
        credentials::Identity,
        identity::ServiceName,
        ingress::{Pool, PoolSource, Routing, pool::MeshService},
        listener::{Protocol, Role},
        registration::{Chain, Target},
        route::{Edits, HeaderEdits, IDLE_TIMEOUT, Leg, Route, RouteTable, TIMEOUT},
    },
    snapshot::{IngressInputs, Snapshot, UpstreamInputs},
};

/// What the mesh makes of a routing.
pub(super) struct Meshed {
    /// Who we are there, once that is known; `None` without a pool in the mesh.
    pub(super) identity: Option<Arc<Identity>>,
    /// The routing, with the chains' routes behind those of its paths.
    pub(super) routing: Arc<Routing>,
    /// The clusters of its pools, each at the place of its pool; behind them the further targets of chains.
    pub(super) clusters: Vec<Cluster>,
}

/// Makes clusters of all pools. One in the mesh that cannot be called yet has no endpoints, so that its routes answer 503 and no other.
pub(super) fn compile(inputs: &IngressInputs, routing: &Arc<Routing>, last: &Snapshot, out: &mut Compiled) -> Meshed {
    let identity = routing.pools.iter().find_map(|pool| called(pool)).and_then(|service| member(inputs, &service.caller, last, out));
    let mut clusters: Vec<Cluster> = routing.pools.iter().map(|pool| ingress::cluster(inputs, pool)).collect();
    let mut routes = HashMap::new();
    for (place, pool) in routing.pools.iter().enumerate() {
        let Some(service) = called(pool) else { continue };
        let known = inputs.services.get(&pool.id).map(AsRef::as_ref);
        let chain = chain(pool, service, known, out);
        let (Some(identity), Some(known), Some(chain)) = (&identity, known, chain) else { continue };
        let places: Vec<usize> = std::iter::once(place).chain(clusters.len()..).take(chain.targets.len()).collect();
        for (place, target) in places.iter().zip(&chain.targets) {
            let cluster = cluster(pool, target, chain.protocol, known, identity);
            match clusters.get_mut(*place) {
                Some(own) => *own = cluster,
                None => clusters.push(cluster),
            }
        }
        if !is_plain(&chain.routes) {
            routes.insert(place, chain.routes.routes.iter().map(|route| moved(route, &places)).collect());
        }
    }
    let routing = if routes.is_empty() { routing.clone() } else { Arc::new(further(routing, &routes)) };
    Meshed { identity, routing, clusters }
}

fn called(pool: &Pool) -> Option<&MeshService> {
    match &pool.source {
        PoolSource::Mesh(service) => Some(service),
        PoolSource::Servers(_) | PoolSource::Consul(_) | PoolSource::Kubernetes(_) => None,
    }
}

/// Who `caller` is in the mesh, as far as that is known.
fn member(inputs: &IngressInputs, caller: &ServiceName, last: &Snapshot, out: &mut Compiled) -> Option<Arc<Identity>> {
    let credentials = &inputs.credentials;
    for (there, what) in [(credentials.leaf.is_some(), "leaf"), (credentials.roots.is_some(), "roots")] {
        if !there {
            out.unserved.push(format!("{}: {what} of {caller}", ingress::NAME));
        }
    }
    let is_ours = |role: &Role| matches!(role, Role::Ingress(_));
    let last = last.listeners.values().filter(|listener| is_ours(&listener.role)).find_map(|listener| listener.identity.clone());
    let (identity, refused) = identity(caller, credentials.leaf.as_ref()?, credentials.roots.as_ref()?, last);
    if let Some(why) = refused {
        ingress::problem(out, &format!("leaf of {caller}"), &why.to_string(), BAD_LEAF);
    }
    if identity.is_none() {
        out.unserved.push(format!("{}: usable leaf of {caller}", ingress::NAME));
    }
    identity
}

/// The chain of a pool's service that can be followed; what is awaited or wrong with it is told.
fn chain<'a>(pool: &Pool, service: &MeshService, known: Option<&'a UpstreamInputs>, out: &mut Compiled) -> Option<&'a Chain> {
    let name = service.key().0;
    let unknown = UpstreamInputs::default();
    let inputs = known.unwrap_or(&unknown);
    if let Some(what) = inputs.awaited() {
        out.unserved.push(format!("{}: {name}: {what}", ingress::NAME));
    }
    let path = format!("{}: service {name}", pool.id);
    for (target, why) in &inputs.failed {
        let advice = "it serves nothing until the agent can list its instances";
        ingress::problem(out, &format!("{path}, target {target}"), why, advice);
    }
    if let Some(why) = &inputs.refused {
        ingress::problem(out, &path, why, "the last good chain stays in use");
    }
    let chain = match known?.chain.as_ref()? {
        Ok(chain) => chain,
        Err(why) => {
            ingress::problem(out, &path, why, "its routes answer 503 until its chain can be followed");
            return None;
        }
    };
    for bad in &chain.problems {
        ingress::problem(out, &format!("{path}, {}", bad.path), &bad.why, &bad.advice);
    }
    Some(chain)
}

/// A target as a pool's cluster: whom to call is said by the chain, how by the file.
fn cluster(pool: &Pool, target: &Target, protocol: Protocol, known: &UpstreamInputs, identity: &Identity) -> Cluster {
    let policy = if pool.balance.policy == BalancePolicy::default() { target.balance } else { pool.balance.policy };
    Cluster {
        target: TargetId(format!("{}#{}", pool.id, target.id).into()),
        service: target.service.clone(),
        datacenter: target.datacenter.clone(),
        trust: trust(target, identity),
        subset: Subset { filter: target.filter.clone(), only_passing: target.only_passing },
        // What is requests to us is only bytes to the sidecar of a service of protocol tcp.
        protocol: if protocol.is_http() { protocol } else { Protocol::Http },
        connect_timeout: pool.connect_timeout.min(target.connect_timeout),
        balance: Balance { policy, ..pool.balance.clone() },
        limits: pool.limits,
        passive: pool.passive,
        endpoints: known.endpoints.get(&target.id).cloned().unwrap_or_default(),
    }
}

/// Whether a chain's routes say nothing but "to its first target".
fn is_plain(table: &RouteTable) -> bool {
    let [route] = &*table.routes else { return false };
    let to_first = matches!(&*route.legs, [leg] if *leg.clusters == [0] && leg.headers == HeaderEdits::default());
    to_first && route.hash.is_empty() && own(route.timeout, TIMEOUT).is_none()
}

/// A chain's route whose legs lead to the targets at these places.
fn moved(route: &Route, places: &[usize]) -> Route {
    let leg = |leg: &Leg| Leg { clusters: leg.clusters.iter().filter_map(|place| places.get(*place).copied()).collect(), ..leg.clone() };
    Route { legs: route.legs.iter().map(leg).collect(), ..route.clone() }
}

/// The routing, with the chains' routes behind those of the paths that lead to their pools.
fn further(routing: &Routing, chains: &HashMap<usize, Vec<Route>>) -> Routing {
    let mut routing = routing.clone();
    for route in &mut routing.routes {
        let place = route.route.legs.first().and_then(|leg| leg.clusters.first());
        let Some(of_chain) = place.and_then(|place| chains.get(place)) else { continue };
        route.further = of_chain.iter().map(|of_chain| joined(&route.route, of_chain)).collect();
    }
    routing
}

/// A chain's route behind the route of a path: the shorter of both times, both edits of headers (the path has the last word), and the chain's retries
/// before those of the path; what is hashed is the path's to say first, as its balancing is.
fn joined(path: &Route, of_chain: &Route) -> Route {
    let shorter = |path: Option<Duration>, of_chain: Option<Duration>| path.into_iter().chain(of_chain).min();
    Route {
        // What takes the rest is the path itself.
        name: if &*of_chain.name == "default" { path.name.clone() } else { format!("{}: {}", path.name, of_chain.name).into() },
        matches: of_chain.matches.clone(),
        rewrite: of_chain.rewrite.clone(),
        timeout: shorter(path.timeout, own(of_chain.timeout, TIMEOUT)),
        idle_timeout: shorter(path.idle_timeout, own(of_chain.idle_timeout, IDLE_TIMEOUT)),
        retry: of_chain.retry.clone().or_else(|| path.retry.clone()),
        headers: HeaderEdits {
            request: both(&of_chain.headers.request, &path.headers.request),
            response: both(&of_chain.headers.response, &path.headers.response),
        },
        hash: if path.hash.is_empty() { of_chain.hash.clone() } else { path.hash.clone() },
        legs: of_chain.legs.clone(),
    }
}

/// A chain's time, unless it is the one that stands where the chain says none.
fn own(time: Option<Duration>, unset: Duration) -> Option<Duration> {
    time.filter(|time| *time != unset)
}

fn both(first: &Edits, then: &Edits) -> Edits {
    Edits {
        add: [&*first.add, &then.add].concat(),
        set: [&*first.set, &then.set].concat(),
        remove: [&*first.remove, &then.remove].concat(),
    }
}

#[cfg(test)]
mod tests;
