//! The app's exposed checks: `GET /v1/agent/checks`, polled, since the agent does not hold it.

use std::sync::Arc;

use consul_api_types::AgentChecks;

use super::{
    Context, Found, decode,
    watch::{Event, watch},
};

/// Keeps the paths of the exposed checks of `service` fresh. What a check asks for is seen in its output alone: one that has not run yet is exposed
/// once it has failed for the first time.
pub(super) async fn run(context: &Context, service: &Arc<str>) {
    let state = context.agent.watches.register(format!("checks of {service}"));
    // Service ids may hold quotes, which end a text of Consul's filter language.
    let filter = format!("ServiceID == {:?}", &**service);
    watch(&context.agent.client, &AgentChecks { filter }, super::POLL, &state, |event| {
        if let Event::Value(checks, _) = event {
            context.found(Found::Checks(decode::checks::checks(&checks)));
        }
        Ok(())
    })
    .await;
}
