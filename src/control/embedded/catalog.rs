//! What the embedded catalog knows, in the words of the model: registrations, chains, endpoints, intentions.

use std::{sync::Arc, time::Duration};

use super::plan::{Plan, PlannedService, PlannedUpstream};
use crate::{
    config::mesh_file::MeshIntention,
    control::reconciler::{Change, SidecarFeed},
    model::{
        access_log::AccessLog,
        balance::BalancePolicy,
        cluster::{Endpoint, Health, TargetId},
        identity::{DEFAULT, ServiceName},
        intention::{Intention, Pattern, Rule, Source},
        listener::{Address, Bind},
        metrics::MetricsConfig,
        registration::{Chain, Naming, Registration, Target, UpstreamConfig, UpstreamKey},
        route::{self, RouteTable},
        tracing::TracingSettings,
    },
};

/// The trust domain of every embedded mesh. Two of them still refuse each other: their roots differ.
pub(super) const TRUST_DOMAIN: &str = "dev.aralez";

/// The one datacenter.
pub(super) const DATACENTER: &str = "dc1";

// Consul's defaults, which the agent sends or Envoy holds where nothing is configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

impl PlannedService {
    /// The id that Consul would give the proxy.
    pub(super) fn proxy_id(&self) -> String {
        format!("{}-sidecar-proxy", self.name)
    }

    /// The registration of the service's proxy.
    pub(super) fn registration(&self) -> Registration {
        let bind = |address| Bind { address: Address::Tcp(address), mode: None };
        let upstream = |upstream: &PlannedUpstream| {
            UpstreamConfig::new(key(upstream), ServiceName::local(&upstream.destination), bind(upstream.address))
        };
        Registration {
            proxy_id: self.proxy_id().into(),
            service: ServiceName::local(&self.name),
            datacenter: DATACENTER.into(),
            bind: bind(self.sidecar),
            protocol: self.protocol,
            app: Address::Tcp(self.app),
            local_connect_timeout: CONNECT_TIMEOUT,
            local_request_timeout: Some(REQUEST_TIMEOUT),
            local_idle_timeout: Some(IDLE_TIMEOUT),
            max_inbound_connections: None,
            exposed: Vec::new(),
            exposes_checks: None,
            access_log: AccessLog::default(),
            metrics: MetricsConfig::nowhere(ServiceName::local(&self.name), DATACENTER),
            tracing: TracingSettings::default(),
            upstreams: self.upstreams.iter().map(upstream).collect(),
            problems: Vec::new(),
            ignored: Vec::new(),
        }
    }
}

impl Plan {
    /// Tells a sidecar the chain of each of its upstreams, and the one instance behind it.
    pub(super) fn tell_upstreams(&self, service: &PlannedService, sidecar: &SidecarFeed) {
        for upstream in &service.upstreams {
            let Some(destination) = self.services.iter().find(|service| service.name == upstream.destination) else { continue };
            let target = TargetId(format!("{}.{DEFAULT}.{DEFAULT}.{DATACENTER}", destination.name).into());
            let chain = Chain {
                protocol: destination.protocol,
                targets: vec![Target {
                    id: target.clone(),
                    service: ServiceName::local(&destination.name),
                    datacenter: DATACENTER.into(),
                    naming: Naming::Chain(format!("{}.{DEFAULT}.{DATACENTER}.internal.{TRUST_DOMAIN}", destination.name).into()),
                    connect_timeout: CONNECT_TIMEOUT,
                    balance: BalancePolicy::default(),
                    filter: "".into(),
                    only_passing: false,
                }],
                routes: Arc::new(RouteTable::direct(1, Some(route::TIMEOUT))),
                problems: Vec::new(),
            };
            let endpoint = Endpoint {
                id: format!("dev/{}", destination.proxy_id()).into(),
                address: Address::Tcp(destination.sidecar),
                weight: 1,
                health: Health::Passing,
                dial: None,
            };
            sidecar.send(Change::Chain { upstream: key(upstream), chain: Ok(Arc::new(chain)) });
            sidecar.send(Change::Endpoints { upstream: key(upstream), target, listed: Ok(Arc::new([Arc::new(endpoint)])) });
        }
    }

    /// The intentions that speak of a service as the destination.
    pub(super) fn intentions_towards(&self, service: &str) -> Vec<Intention> {
        let ours = Pattern::parse(service);
        self.intentions.iter().filter(|i| i.destination == Pattern::Any || i.destination == ours).map(intention).collect()
    }
}

fn key(upstream: &PlannedUpstream) -> UpstreamKey {
    UpstreamKey(upstream.destination.as_str().into())
}

fn intention(written: &MeshIntention) -> Intention {
    // Consul's precedences of names in one namespace: the exactness of the destination counts first.
    let precedence = match (&written.destination, &written.source) {
        (Pattern::Exact(_), Pattern::Exact(_)) => 9,
        (Pattern::Exact(_), Pattern::Any) => 8,
        (Pattern::Any, Pattern::Exact(_)) => 6,
        (Pattern::Any, Pattern::Any) => 5,
    };
    let namespace = Pattern::parse(DEFAULT);
    let source = Source { peer: None, partition: DEFAULT.into(), namespace, name: written.source.clone() };
    Intention { source, destination: written.destination.to_string(), precedence, rule: Rule::Action(written.action), jwt: None }
}
