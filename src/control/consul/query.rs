//! Upstreams by prepared query: `GET /v1/query/<name>/execute?connect`, polled, since it cannot be held.

use std::sync::Arc;

use consul_api_types::{PreparedQuery, PreparedQueryResult};
use tokio::sync::watch as slot;

use super::{
    Context, Found,
    decode::{endpoints as decode, query},
    names::follow,
    watch::{Event, watch},
};
use crate::model::registration::{UpstreamConfig, UpstreamKey};

/// The question for an upstream's instances.
pub(super) fn question(upstream: &UpstreamConfig) -> PreparedQuery {
    PreparedQuery {
        name: upstream.destination.name.to_string(),
        datacenter: upstream.datacenter.as_deref().unwrap_or_default().to_owned(),
        ..PreparedQuery::default()
    }
}

/// Keeps what a query finds fresh and reports it as a chain of one target. `own` is our datacenter. One that was never answered is given up on after
/// a while, so that it does not hold back the others; it is asked for all the same.
pub(super) async fn run(context: &Context, key: &UpstreamKey, upstream: &UpstreamConfig, own: &str) {
    let state = context.agent.watches.register(format!("query {}", key.0));
    let (latest, values) = slot::channel::<Option<Arc<PreparedQueryResult>>>(None);
    let question = question(upstream);
    let asking = watch(&context.agent.client, &question, super::POLL, &state, |event| {
        match event {
            Event::Value(result, _) => {
                if !result.peer_name.is_empty() {
                    return Err(format!("it was answered by the cluster peer {}, which is not supported yet", result.peer_name));
                }
                latest.send_replace(Some(Arc::new(result)));
            }
            Event::Failed(error, failures) if latest.borrow().is_none() && super::is_final(&error, failures) => {
                // Callers are told so with 503 rather than refused by the kernel, as by Envoy.
                let nobody = query::chain(upstream, &PreparedQueryResult::default(), own, Some(&error.to_string()));
                context.found(Found::Queried(key.clone(), Arc::new(nobody), Arc::new([])));
            }
            Event::Failed(..) | Event::Absent | Event::Doubtful => {}
        }
        Ok(())
    });
    let is_own = |result: &PreparedQueryResult| result.datacenter.is_empty() || result.datacenter == own;
    let telling = follow(
        &context.agent.names,
        values,
        |result| decode::hosts(&result.nodes, is_own(result)),
        |result, names| {
            let endpoints = decode::endpoints(&result.nodes, is_own(result), false, names);
            context.found(Found::Queried(key.clone(), Arc::new(query::chain(upstream, result, own, None)), endpoints));
        },
    );
    tokio::join!(asking, telling);
}
