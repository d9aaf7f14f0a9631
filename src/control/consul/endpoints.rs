//! The instances of a service: `GET /v1/health/connect/<service>`, held by index. Targets that ask for the same share a watch.

use std::{collections::BTreeSet, sync::Arc};

use consul_api_types::{HealthConnect, ServiceEntry};
use tokio::sync::watch as slot;

use super::{
    Context,
    decode::endpoints as decode,
    error::Error,
    names::follow,
    watch::{Event, watch},
};
use crate::{
    control::reconciler::Change,
    model::{
        cluster::TargetId,
        registration::{Target, UpstreamKey},
    },
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

/// The question for a target's instances. All instances are asked for, since `passing` would leave out those that only warn;
/// any server may answer, since health of a moment ago is as good.
pub(super) fn query(target: &Target) -> HealthConnect {
    HealthConnect {
        service: target.service.name.to_string(),
        tenancy: super::tenancy(&target.service),
        datacenter: target.datacenter.to_string(),
        filter: target.filter.to_string(),
        stale: true,
        ..HealthConnect::default()
    }
}

/// What is known of the instances.
#[derive(Clone, Debug)]
enum Instances {
    Known(Arc<Vec<ServiceEntry>>),
    Failed(String),
}

/// Keeps instances fresh and hands them to all `views`, which may change at any time. `local` says whether they are in our
/// own datacenter.
pub(super) async fn run(context: &Context, query: &HealthConnect, local: bool, views: slot::Receiver<Arc<[View]>>) {
    let state = context.watches.register(name(query));
    let (latest, values) = slot::channel::<Option<Instances>>(None);
    let asking = watch(&context.client, query, super::POLL, &state, |event| {
        match event {
            Event::Value(entries, _) => {
                latest.send_replace(Some(Instances::Known(Arc::new(entries))));
            }
            Event::Failed(error, failures) if super::is_final(&error, failures) => give_up(&latest, &error),
            Event::Failed(..) | Event::Absent => {}
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
    let telling = follow(&context.names, values, hosts, |instances, names| {
        for View { upstream, target, only_passing } in views.borrow().iter().cloned() {
            context.feed.send(match instances {
                Instances::Known(entries) => {
                    Change::Endpoints { upstream, target, endpoints: decode::endpoints(entries, local, only_passing, names) }
                }
                Instances::Failed(why) => Change::EndpointsFailed { upstream, target, why: why.clone() },
            });
        }
    });
    tokio::join!(asking, again, telling);
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
