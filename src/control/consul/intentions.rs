//! Who may call us: `GET /v1/connect/intentions/match`, held by index.

use consul_api_types::IntentionMatch;

use super::{
    Context, decode,
    watch::{Event, watch},
};
use crate::{control::reconciler::Change, model::identity::ServiceName};

/// Keeps the intentions towards `service` fresh. Until the first list is there, nothing starts; a bad one changes nothing.
pub(super) async fn run(context: &Context, service: &ServiceName) {
    let state = context.watches.register(format!("intentions {service}"));
    let query = IntentionMatch { destination: service.name.to_string(), tenancy: super::tenancy(service) };
    watch(&context.client, &query, super::POLL, &state, |event| {
        if let Event::Value(matches, _) = event {
            context.feed.send(Change::Intentions(decode::intentions::intentions(&matches, &service.name)?));
        }
        Ok(())
    })
    .await;
}
