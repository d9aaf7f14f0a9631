//! An upstream: its chain, its protocol, its instances, and whether we may call it.

use std::collections::BTreeSet;

use consul_api_types::HealthService;

use super::{DefaultPolicy, Protocol, Registration, ServiceName, SpiffeId, Survey, service_right};
use crate::{
    control::consul::{chain, decode, endpoints, query, tenancy},
    model::{
        registration::{Chain, Target, Unusable, UpstreamConfig},
        route::Leg,
    },
};

/// What the token needs to see instances: those of the service and, since they are listed by their proxies, these.
fn right(service: &str) -> String {
    let proxy = format!("{service}-sidecar-proxy");
    format!("{}, {} and node_prefix \"\" {{ policy = \"read\" }}", service_right(service, "read"), service_right(&proxy, "read"))
}

/// What became of the question for a target's instances.
enum Outcome {
    Serves,
    /// Nothing of it can be called now.
    Unusable(Unusable),
    /// It was not answered, which was told.
    Unknown,
}

/// The legs that lead to a target, as its first one or by failover. Nothing goes to one without weight.
fn legs(chain: &Chain, target: usize) -> impl Iterator<Item = &Leg> {
    chain.routes.routes.iter().flat_map(|route| &route.legs).filter(move |leg| leg.weight > 0 && leg.clusters.contains(&target))
}

impl Survey<'_> {
    /// Everything about one upstream.
    pub(super) async fn upstream(
        &mut self,
        config: &UpstreamConfig,
        registration: &Registration,
        caller: Option<&SpiffeId>,
        default: DefaultPolicy,
    ) {
        let path = format!("upstream {}", config.key.0);
        if config.is_query {
            return self.query(config, caller, default, &path).await;
        }
        let name = &config.destination.name;
        let Some(reply) = self.ask(&chain::query(config), &path, &service_right(name, "read")).await else { return };
        let decoded = decode::chain::chain(&reply.chain);
        let Some(chain) = self.read(&path, decoded, "correct the config entry that the chain was made of") else { return };
        for problem in &chain.problems {
            self.report.error(format!("{path}, {}", problem.path), &problem.why, &problem.advice);
        }
        let protocol = self.spoken(config, chain.protocol, &path).await;
        self.targets(&chain, registration, &path).await;
        let Some(caller) = caller else { return };
        let called = chain.targets.iter().enumerate().filter(|(at, _)| legs(&chain, *at).next().is_some());
        let services: BTreeSet<_> = called.map(|(_, target)| &target.service).collect();
        for service in services {
            self.may_call(service, protocol, caller, default, &path).await;
        }
    }

    /// The protocol that the called service's own config entries say; another one at the upstream is a finding.
    async fn spoken(&mut self, config: &UpstreamConfig, upstream: Protocol, path: &str) -> Protocol {
        let Some(ours) = config.protocol else { return upstream };
        let name = &config.destination.name;
        let Some(theirs) = self.chain_protocol(&config.destination, config.datacenter.as_deref(), path).await else { return upstream };
        if ours != theirs {
            let why = format!("the upstream has protocol {}, the config entries of {name} say {}", ours.as_str(), theirs.as_str());
            let advice = format!("let Protocol of service-defaults {name} say it, and take protocol out of the upstream's config");
            self.report.warning(path, why, advice);
        }
        theirs
    }

    /// The instances of each target. A target without a healthy one is an error where no failover target has any.
    async fn targets(&mut self, chain: &Chain, registration: &Registration, path: &str) {
        let mut outcomes = Vec::new();
        for target in &chain.targets {
            outcomes.push(self.target(target, registration, path).await);
        }
        let serves = |at: &usize| outcomes.get(*at).is_some_and(|outcome| matches!(outcome, Outcome::Serves));
        let lost = |at: usize| legs(chain, at).any(|leg| !leg.clusters.iter().any(serves));
        let fates: Vec<_> = (0..outcomes.len()).map(|at| (legs(chain, at).next().is_none(), lost(at))).collect();
        for (outcome, (idle, lost)) in outcomes.into_iter().zip(fates) {
            let Outcome::Unusable(Unusable { path, why, advice }) = outcome else { continue };
            if lost {
                self.report.error(path, why, advice);
            } else {
                let instead = if idle { "nothing is sent there now" } else { "another target of its route serves" };
                self.report.warning(path, format!("{why}; {instead}"), advice);
            }
        }
    }

    /// Whether anything of a target can be called now.
    async fn target(&mut self, target: &Target, registration: &Registration, path: &str) -> Outcome {
        let name = &target.service.name;
        let path = format!("{path}, target {}", target.id.0);
        let unusable = |why: String, advice: String| Outcome::Unusable(Unusable { path: path.clone(), why, advice });
        let Some((entries, meta)) = self.send(&endpoints::query(target), &path, &right(name)).await else { return Outcome::Unknown };
        let entries = entries.unwrap_or_default();
        let is_local = target.datacenter == registration.datacenter;
        let names = self.names.resolve(decode::endpoints::hosts(&entries, is_local)).await;
        let found = decode::endpoints::endpoints(&entries, is_local, target.only_passing, &names);
        let healthy = found.iter().filter(|endpoint| endpoint.is_healthy()).count();
        match (entries.len(), healthy) {
            (0, _) if meta.filtered_by_acls => {
                unusable("the token does not see its instances".to_owned(), format!("give it the right {}", right(name)))
            }
            (0, _) if !target.filter.is_empty() => unusable(
                format!("no instance matches the subset's filter {:?}", target.filter),
                "correct the Filter of the service-resolver, or register an instance that it matches".to_owned(),
            ),
            (0, _) => {
                let bare = self.without_sidecar(target).await;
                let why = match bare {
                    0 => format!("no instance of {name} is registered"),
                    1 => format!("the one instance of {name} has no sidecar"),
                    _ => format!("none of the {bare} instances of {name} has a sidecar"),
                };
                let advice = if bare == 0 { "register one" } else { "add connect { sidecar_service {} } to its registration and run one" };
                unusable(why, format!("{advice}; to see it the token needs {}", right(name)))
            }
            (all, 0) => unusable(
                format!("none of its {all} instances is healthy"),
                format!("see what fails: consul catalog nodes -service {name}, or /v1/health/checks/{name}"),
            ),
            (all, _) => {
                self.report.facts.push(format!("{path}: {healthy} of {all} instances healthy"));
                Outcome::Serves
            }
        }
    }

    /// How many instances of the service itself there are.
    async fn without_sidecar(&mut self, target: &Target) -> usize {
        let query = HealthService {
            service: target.service.name.to_string(),
            tenancy: tenancy(&target.service),
            datacenter: target.datacenter.to_string(),
            tags: Vec::new(),
        };
        // That they cannot be seen was told already.
        let known = self.client.send(&query, &super::At::Now).await.ok().and_then(|answer| answer.value);
        known.map_or(0, |entries| entries.len())
    }

    /// An upstream by prepared query.
    async fn query(&mut self, config: &UpstreamConfig, caller: Option<&SpiffeId>, default: DefaultPolicy, path: &str) {
        let name = &config.destination.name;
        let right = format!("query {name:?} {{ policy = \"read\" }} and {}", right("THE SERVICE"));
        let Some(result) = self.ask(&query::question(config), path, &right).await else { return };
        if result.nodes.is_empty() {
            let advice = format!("see that {name} has a healthy instance with a sidecar; to see it the token needs {right}");
            self.report.error(path, "the prepared query finds no instance", advice);
        } else {
            self.report.facts.push(format!("{path}: the prepared query finds {} instances of {}", result.nodes.len(), result.service));
        }
        let Some(caller) = caller else { return };
        let services: BTreeSet<ServiceName> = result.nodes.iter().filter_map(decode::query::identity).map(|(service, _)| service).collect();
        for service in services {
            let Some(protocol) = self.chain_protocol(&service, None, path).await else { continue };
            self.may_call(&service, protocol, caller, default, path).await;
        }
    }
}
