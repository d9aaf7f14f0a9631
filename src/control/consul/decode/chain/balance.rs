//! The `LoadBalancer` of a chain's node.

use consul_api_types::LoadBalancer;

use super::set;
use crate::model::{
    balance::{BalancePolicy, CookieLife, HashBy, HashPolicy},
    registration::Unusable,
};

/// Envoy's `choice_count` when unset.
const CHOICES: u32 = 2;
/// Envoy's `minimum_ring_size` when unset.
const MIN_RING: u64 = 1024;
/// Envoy's `maximum_ring_size` when unset, which is also the most it takes.
const MAX_RING: u64 = 8 * 1024 * 1024;

/// How the endpoints of a resolver's targets are chosen among. Zero is unset in all of the numbers.
pub(super) fn policy(wire: &LoadBalancer, node: &str, problems: &mut Vec<Unusable>) -> BalancePolicy {
    match wire.policy.as_str() {
        "" | "round_robin" => BalancePolicy::RoundRobin,
        "random" => BalancePolicy::Random,
        "least_request" => {
            let choices = wire.least_request_config.as_ref().map_or(0, |config| config.choice_count);
            BalancePolicy::LeastRequest { choices: if choices == 0 { CHOICES } else { choices } }
        }
        "ring_hash" => {
            let (min, max) = wire.ring_hash_config.as_ref().map_or((0, 0), |config| (config.minimum_ring_size, config.maximum_ring_size));
            let max = if max == 0 { MAX_RING } else { max.min(MAX_RING) };
            BalancePolicy::RingHash { min: if min == 0 { MIN_RING } else { min }.min(max), max }
        }
        "maglev" => BalancePolicy::Maglev,
        other => {
            problems.push(Unusable {
                path: format!("{node}: LoadBalancer.Policy"),
                why: format!("{other:?} is not known"),
                advice: "its targets are balanced by round_robin".to_owned(),
            });
            BalancePolicy::default()
        }
    }
}

/// What the requests that a node takes are hashed by. Only the hashing policies hash, as in Consul's Envoy path.
pub(super) fn hash(wire: &LoadBalancer, node: &str, problems: &mut Vec<Unusable>) -> Vec<HashPolicy> {
    if !matches!(wire.policy.as_str(), "ring_hash" | "maglev") {
        return Vec::new();
    }
    let mut policies = Vec::with_capacity(wire.hash_policies.len());
    for (at, policy) in wire.hash_policies.iter().enumerate() {
        let by = match policy.field.as_str() {
            _ if policy.source_ip => HashBy::SourceIp,
            "header" => HashBy::Header(policy.field_value.to_ascii_lowercase().into()),
            "query_parameter" => HashBy::Query(policy.field_value.as_str().into()),
            "cookie" => {
                let config = policy.cookie_config.as_ref();
                let generate = config
                    .filter(|config| config.session || set(config.ttl).is_some())
                    .map(|config| CookieLife { ttl: set(config.ttl).filter(|_| !config.session), path: config.path.as_str().into() });
                HashBy::Cookie { name: policy.field_value.as_str().into(), generate }
            }
            other => {
                problems.push(Unusable {
                    path: format!("{node}: LoadBalancer.HashPolicies[{at}].Field"),
                    why: format!("{other:?} is not known"),
                    advice: "requests are hashed by the other policies, or not at all".to_owned(),
                });
                continue;
            }
        };
        policies.push(HashPolicy { by, terminal: policy.terminal });
    }
    policies
}
