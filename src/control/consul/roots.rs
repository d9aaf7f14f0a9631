//! The roots: `GET /v1/agent/connect/ca/roots`, held by index.

use consul_api_types::CaRoots;

use super::{
    Agent,
    watch::{Event, watch},
};
use crate::model::credentials::Roots;

/// Keeps the roots fresh. An empty or unreadable list changes nothing: the last good roots stay in trust.
pub(super) async fn run(agent: &Agent, tell: impl Fn(Roots)) {
    let state = agent.watches.register("roots");
    watch(&agent.client, &consul_api_types::Roots, super::POLL, &state, |event| {
        if let Event::Value(roots, _) = event {
            tell(decode(&roots)?);
        }
        Ok(())
    })
    .await;
}

/// Every listed root is trusted, active or not: during a rotation peers have leaves of either.
pub(super) fn decode(wire: &CaRoots) -> Result<Roots, String> {
    Roots::parse(&wire.trust_domain, wire.roots.iter().map(|root| root.root_cert_pem.as_str())).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;
    use crate::control::testing::{TRUST_DOMAIN, pems};

    fn roots(certificates: &[&str]) -> Result<Roots, String> {
        let list: Vec<_> = certificates.iter().map(|pem| json!({"RootCert": pem, "Active": false})).collect();
        decode(&serde_json::from_value(json!({"TrustDomain": TRUST_DOMAIN, "Roots": list})).unwrap())
    }

    #[test]
    fn all_roots_are_trusted_and_none_or_garbage_is_no_answer() {
        let (old, new) = (pems("web").root, pems("web").root);
        assert_eq!(roots(&[&old, &new]).unwrap().certificates.len(), 2);
        assert!(roots(&[]).is_err());
        assert!(roots(&[&old, "garbage"]).is_err());
    }
}
