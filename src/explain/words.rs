//! Settings as words.

use std::time::Duration;

use crate::model::{
    balance::{BalancePolicy, HashBy, HashPolicy},
    cluster::Health,
    route::{Edits, HeaderEdits, RetryPolicy},
};

pub(super) fn limit(time: Option<Duration>) -> String {
    time.map_or_else(|| "none".to_owned(), |time| format!("{time:?}"))
}

pub(super) fn retry(policy: &RetryPolicy) -> String {
    let conditions = policy.on.iter().map(ToString::to_string).chain(policy.statuses.iter().map(|status| format!("status {status}")));
    format!("at most {} on {}", policy.retries, conditions.collect::<Vec<_>>().join(", "))
}

/// The edits in the order in which they are made.
pub(super) fn edits(edits: &HeaderEdits) -> Vec<String> {
    let of = |side: &str, edits: &Edits| {
        let removed = edits.remove.iter().map(|name| format!("{side} header {name} removed"));
        let set = edits.set.iter().map(|(name, value)| format!("{side} header {name} set to {value}"));
        let added = edits.add.iter().map(|(name, value)| format!("{side} header {name} added: {value}"));
        removed.chain(set).chain(added).collect::<Vec<_>>()
    };
    [of("request", &edits.request), of("response", &edits.response)].concat()
}

pub(super) fn policy(policy: &BalancePolicy) -> String {
    match policy {
        BalancePolicy::RoundRobin => "round robin".to_owned(),
        BalancePolicy::LeastRequest { choices } => format!("least request of {choices}"),
        BalancePolicy::Random => "random".to_owned(),
        BalancePolicy::RingHash { .. } => "ring hash".to_owned(),
        BalancePolicy::Maglev => "maglev".to_owned(),
    }
}

pub(super) fn hash(policy: &HashPolicy) -> String {
    let by = match &policy.by {
        HashBy::Header(name) => format!("header {name}"),
        HashBy::Cookie { name, generate } => format!("cookie {name}{}", if generate.is_some() { " (made if absent)" } else { "" }),
        HashBy::Query(name) => format!("query parameter {name}"),
        HashBy::SourceIp => "the caller's address".to_owned(),
    };
    by + if policy.terminal { " (if there, alone)" } else { "" }
}

pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Critical => "critical",
    }
}
