//! Our leaf: `GET /v1/agent/connect/ca/leaf/<service>`, held by index. The agent makes the key, renews in time, and answers.

use super::{
    Agent,
    watch::{Event, watch},
};
use crate::model::{credentials::Leaf, identity::ServiceName};

/// Keeps the leaf of `service` fresh.
pub(super) async fn run(agent: &Agent, service: &ServiceName, tell: impl Fn(Leaf)) {
    let state = agent.watches.register(format!("leaf {service}"));
    let query = consul_api_types::Leaf { service: service.name.to_string(), tenancy: super::tenancy(service) };
    watch(&agent.client, &query, super::POLL, &state, |event| {
        if let Event::Value(leaf, _) = event {
            tell(Leaf::parse(&leaf.cert_pem, leaf.private_key_pem.expose()).map_err(|e| e.to_string())?);
        }
        Ok(())
    })
    .await;
}
