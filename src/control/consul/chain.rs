//! The compiled discovery chain of an upstream: `POST /v1/discovery-chain/<name>`, held by index.

use std::sync::Arc;

use consul_api_types::DiscoveryChain;

use super::{
    Agent, decode,
    watch::{Event, watch},
};
use crate::model::registration::{Chain, UpstreamConfig, UpstreamKey};

/// The question for an upstream's chain, with what the registration overrides in it.
pub(super) fn query(upstream: &UpstreamConfig) -> DiscoveryChain {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    DiscoveryChain {
        name: upstream.destination.name.to_string(),
        tenancy: super::tenancy(&upstream.destination),
        compile_dc: text(&upstream.datacenter),
        override_protocol: upstream.protocol.map(|protocol| protocol.as_str().to_owned()).unwrap_or_default(),
        override_connect_timeout: upstream.connect_timeout,
        override_mesh_gateway_mode: text(&upstream.mesh_gateway),
    }
}

/// Keeps the chain of an upstream fresh and tells it, with the datacenter that it was compiled for. One that was never read is given up on
/// after a while, so that it does not hold back the others; it is asked for all the same.
pub(super) async fn run(
    agent: &Agent,
    upstream: &UpstreamKey,
    query: &DiscoveryChain,
    mut tell: impl FnMut(Result<Arc<Chain>, String>, &str),
) {
    let state = agent.watches.register(format!("chain {}", upstream.0));
    let mut read = false;
    watch(&agent.client, query, super::POLL, &state, |event| {
        match event {
            Event::Value(reply, _) => {
                read = true;
                tell(decode::chain::chain(&reply.chain).map(Arc::new), &reply.chain.datacenter);
            }
            Event::Failed(error, failures) if !read && super::is_final(&error, failures) => {
                tell(Err(format!("its discovery chain cannot be read: {error}")), "");
            }
            Event::Failed(..) | Event::Absent | Event::Doubtful => {}
        }
        Ok(())
    })
    .await;
}
