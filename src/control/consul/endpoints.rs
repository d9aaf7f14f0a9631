//! The instances of a service: `GET /v1/health/connect/<service>`, held by index. Targets that ask for the same share a watch.

use std::{collections::BTreeSet, sync::Arc};

use consul_api_types::{HealthConnect, ServiceEntry};
use tokio::sync::watch as slot;

use super::{
    Agent,
    decode::endpoints as decode,
    error::Error,
    names::follow,
    watch::{Event, watch},
};
use crate::model::{
    cluster::{Endpoint, TargetId},
    registration::{Target, UpstreamKey},
};

/// A target that wants the instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The upstream.
    pub upstream: UpstreamKey,
    /// The target in its chain.
    pub target: TargetId,
    /// Whether a warning makes an instance unhealthy.
    pub only_passing: bool,
}

/// The question for a target's instances. All instances are asked for, since `passing` would leave out those that only warn. It is
/// not asked with `stale`: a restarted server that still replays its log would answer that nobody is there.
pub(super) fn query(target: &Target) -> HealthConnect {
    HealthConnect {
        service: target.service.name.to_string(),
        tenancy: super::tenancy(&target.service),
        datacenter: target.datacenter.to_string(),
        filter: target.filter.to_string(),
        ..HealthConnect::default()
    }
}

/// What is known of the instances.
#[derive(Clone, Debug)]
enum Instances {
    Known(Arc<Vec<ServiceEntry>>),
    Failed(String),
}

/// Instances, or why they could never be read.
pub(super) type Listed = Result<Arc<[Arc<Endpoint>]>, String>;

/// Keeps instances fresh and tells them to each of `views`, which may change at any time. `local` says whether they are in our
/// own datacenter.
pub(super) async fn run(
    agent: &Agent,
    query: &HealthConnect,
    local: bool,
    views: slot::Receiver<Arc<[View]>>,
    tell: impl Fn(View, Listed),
) {
    let state = agent.watches.register(name(query));
    let (latest, values) = slot::channel::<Option<Instances>>(None);
    let asking = watch(&agent.client, query, super::POLL, &state, |event| {
        match event {
            Event::Value(mut entries, _) => {
                if let Some(Instances::Known(known)) = &*latest.borrow() {
                    keep_untested(&mut entries, known);
                }
                latest.send_replace(Some(Instances::Known(Arc::new(entries))));
            }
            Event::Failed(error, failures) if super::is_final(&error, failures) => give_up(&latest, &error),
            Event::Failed(..) | Event::Absent | Event::Doubtful => {}
        }
        Ok(())
    });
    let mut renewed = views.clone();
    let again = async {
        while renewed.changed().await.is_ok() {
            latest.send_modify(|_| ());
        }
    };
    let hosts = |instances: &Instances| match instances {
        Instances::Known(entries) => decode::hosts(entries, local),
        Instances::Failed(_) => BTreeSet::new(),
    };
    let telling = follow(&agent.names, values, hosts, |instances, names| {
        for view in views.borrow().iter().cloned() {
            let listed = match instances {
                Instances::Known(entries) => Ok(decode::endpoints(entries, local, view.only_passing, names)),
                Instances::Failed(why) => Err(why.clone()),
            };
            tell(view, listed);
        }
    });
    tokio::join!(asking, again, telling);
}

/// Keeps the state of checks that have not run yet. A restarted agent lists each of its probes as critical, without an output, until it
/// has run (up to its interval later): that says nothing of the instance, so what was known of the check holds. A new instance has nothing
/// to keep and waits for its first probe. Only probes have this state: a TTL or maintenance check without output was set by somebody.
pub(super) fn keep_untested(entries: &mut [ServiceEntry], known: &[ServiceEntry]) {
    const PROBES: [&str; 5] = ["tcp", "udp", "http", "grpc", "h2ping"];
    for entry in entries {
        let same = |k: &&ServiceEntry| k.node.node == entry.node.node && k.service.id == entry.service.id;
        let Some(before) = known.iter().find(same) else { continue };
        for check in &mut entry.checks {
            if check.status == "critical"
                && check.output.is_empty()
                && PROBES.contains(&check.kind.as_str())
                && let Some(last) = before.checks.iter().find(|last| last.check_id == check.check_id)
            {
                check.status.clone_from(&last.status);
            }
        }
    }
}

/// Notes a failure where nothing better is known.
fn give_up(latest: &slot::Sender<Option<Instances>>, error: &Error) {
    latest.send_if_modified(|known| {
        let first = !matches!(known, Some(Instances::Known(_)));
        if first {
            *known = Some(Instances::Failed(format!("its instances cannot be read: {error}")));
        }
        first
    });
}

fn name(query: &HealthConnect) -> String {
    let filter = if query.filter.is_empty() { String::new() } else { format!(" where {}", query.filter) };
    format!("endpoints {} {}{filter}", query.service, query.datacenter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(kind: &str, status: &str, output: &str) -> ServiceEntry {
        let check = json!({"CheckID": "c", "Type": kind, "Status": status, "Output": output});
        serde_json::from_value(json!({"Node": {"Node": "n"}, "Service": {"ID": "db-sidecar-proxy"}, "Checks": [check]})).unwrap()
    }

    #[test]
    fn a_probe_that_has_not_run_keeps_its_state_and_nothing_else_does() {
        for (kind, output, before, after) in [
            ("tcp", "", "passing", "passing"),
            ("http", "", "warning", "warning"),
            ("tcp", "", "critical", "critical"),
            ("tcp", "connection refused", "passing", "critical"),
            ("ttl", "", "passing", "critical"),
            ("maintenance", "", "passing", "critical"),
        ] {
            let mut entries = [entry(kind, "critical", output)];
            keep_untested(&mut entries, &[entry(kind, before, "")]);
            assert_eq!(entries[0].checks[0].status, after, "{kind} {output:?} after {before}");
        }
        let mut entries = [entry("tcp", "critical", "")];
        keep_untested(&mut entries, &[]);
        assert_eq!(entries[0].checks[0].status, "critical", "a new instance waits for its first probe");
    }
}
