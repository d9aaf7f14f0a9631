//! The roots: `GET /v1/agent/connect/ca/roots`, held by index.

use consul_api_types::CaRoots;

use super::{
    Context,
    watch::{Event, watch},
};
use crate::{control::reconciler::Change, model::credentials::Roots};

/// Keeps the roots fresh. An empty or unreadable list changes nothing: the last good roots stay in trust.
pub(super) async fn run(context: &Context) {
    let state = context.watches.register("roots");
    watch(&context.client, &consul_api_types::Roots, super::POLL, &state, |event| {
        if let Event::Value(roots, _) = event {
            context.feed.send(Change::Roots(decode(&roots)?));
        }
        Ok(())
    })
    .await;
}

/// Every listed root is trusted, active or not: during a rotation peers have leaves of either.
fn decode(wire: &CaRoots) -> Result<Roots, String> {
    Roots::parse(&wire.trust_domain, wire.roots.iter().map(|root| root.root_cert_pem.as_str())).map_err(|e| e.to_string())
}
