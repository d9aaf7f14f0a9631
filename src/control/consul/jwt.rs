//! Token issuers: `GET /v1/config/jwt-provider`, held by index while an intention asks for tokens.
//!
//! All entries are asked for at once: one connection, however many there are.

use std::sync::Arc;

use consul_api_types::{ConfigEntries, JwtProvider, Tenancy};

use super::{
    Context, Found, decode,
    watch::{Event, watch},
};

/// Keeps the entries fresh and reports them. If they were never read they are given up on after a while: what asks for tokens is then
/// closed, and all else is served.
pub(super) async fn run(context: &Context) {
    let state = context.agent.watches.register("jwt providers");
    // They live in the default namespace of our partition.
    let query = ConfigEntries::<JwtProvider>::new(Tenancy { namespace: String::new(), ..context.agent.client.tenancy().clone() });
    watch(&context.agent.client, &query, super::POLL, &state, |event| {
        match event {
            Event::Value(entries, _) => {
                context.found(Found::Providers(Ok(entries.iter().map(decode::jwt_provider::entry).map(Arc::new).collect())));
            }
            Event::Failed(error, failures) if super::is_final(&error, failures) => {
                context.found(Found::Providers(Err(error.to_string())));
            }
            Event::Failed(..) | Event::Absent | Event::Doubtful => {}
        }
        Ok(())
    })
    .await;
}
