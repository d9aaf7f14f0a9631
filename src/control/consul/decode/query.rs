//! What a prepared query found, as a chain of one target.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consul_api_types::{PreparedQueryResult, ServiceEntry};

use super::registration::name;
use crate::model::{
    balance::BalancePolicy,
    cluster::TargetId,
    identity::ServiceName,
    registration::{Chain, Naming, Target, Unusable, UpstreamConfig},
    route::{self, RouteTable},
};

/// `connect_timeout_ms` when unset, as in Consul's Envoy path.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The chain of an upstream by prepared query. Its servers may show the identity of any instance that was found, as in Consul's Envoy path; `own` is our
/// datacenter, where the query was asked. `failed` says why there is no result.
pub fn chain(upstream: &UpstreamConfig, result: &PreparedQueryResult, own: &str, failed: Option<&str>) -> Chain {
    let asked = upstream.datacenter.as_deref().unwrap_or(own);
    let instances: BTreeSet<(ServiceName, Arc<str>)> = result.nodes.iter().filter_map(identity).collect();
    let target = Target {
        id: TargetId(format!("query.{}.{asked}", upstream.destination.name).into()),
        service: upstream.destination.clone(),
        datacenter: asked.into(),
        naming: Naming::Query(instances.into_iter().collect()),
        connect_timeout: upstream.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        balance: BalancePolicy::default(),
        filter: "".into(),
        only_passing: false,
    };
    Chain {
        protocol: upstream.protocol.unwrap_or_default(),
        routes: Arc::new(RouteTable::direct(1, Some(route::TIMEOUT))),
        targets: vec![target],
        problems: failed.map(problem).into_iter().collect(),
    }
}

fn problem(why: &str) -> Unusable {
    Unusable {
        path: "prepared query".to_owned(),
        why: format!("it cannot be executed: {why}"),
        advice: "create it, or correct the upstream's DestinationName; callers are answered with 503 until then".to_owned(),
    }
}

/// The service that an instance is, with its datacenter; `None` for one that shows no identity of its own, as a gateway.
pub fn identity(entry: &ServiceEntry) -> Option<(ServiceName, Arc<str>)> {
    let service = &entry.service;
    let proxied = service.proxy.as_ref().map(|proxy| proxy.destination_service_name.as_str()).filter(|name| !name.is_empty());
    let native = service.connect.as_ref().is_some_and(|connect| connect.native).then_some(service.service.as_str());
    let own = proxied.or(native)?;
    Some((name(&service.partition, &service.namespace, own), entry.node.datacenter.as_str().into()))
}
