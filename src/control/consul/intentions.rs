//! Who may call us: `GET /v1/connect/intentions/match`, held by index.

use consul_api_types::IntentionMatch;

use super::{
    Context, Found, decode,
    watch::{Event, watch},
};
use crate::{control::reconciler::Change, model::identity::ServiceName};

/// Keeps the intentions towards `service` fresh. Until the first list is there, nothing starts; a bad one changes nothing.
pub(super) async fn run(context: &Context, service: &ServiceName) {
    let state = context.agent.watches.register(format!("intentions {service}"));
    let query = IntentionMatch { destination: service.name.to_string(), tenancy: super::tenancy(service) };
    watch(&context.agent.client, &query, super::POLL, &state, |event| {
        if let Event::Value(matches, _) = event {
            let intentions = decode::intentions::intentions(&matches, &service.name)?;
            let required = decode::jwt_provider::required(&matches, &service.name);
            // First: intentions never stand in a snapshot without the issuers that they name.
            context.feed.send(Change::RequiredProviders(required.clone()));
            context.feed.send(Change::Intentions(intentions));
            context.found(Found::Required(required));
        }
        Ok(())
    })
    .await;
}
