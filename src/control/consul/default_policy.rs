//! The default intention policy, learnt by asking the agent about a caller that cannot exist.
//!
//! `POST /v1/agent/connect/authorize` needs only `service:write` on ourselves. The caller is in a random namespace: the
//! Community Edition has no namespaces, so no intention matches it, not even `*`, and what answers is the default. It is
//! asked again every 20 to 30 s, and at once when the agent answers again after a silence: a restarted agent may have
//! another policy.

use std::time::Duration;

use consul_api_types::{Authorization, Authorize, Blocking, Meta, Method, Query};
use serde_json::Value;

use super::{
    Context,
    client::{Answer, At, Client},
    error::Error,
    watch::{Event, watch},
};
use crate::{
    control::reconciler::Change,
    model::{
        identity::{ServiceName, SpiffeId, TrustDomain},
        intention::DefaultPolicy,
    },
};

/// The shortest time between two probes.
const POLL: Duration = Duration::from_secs(20);

/// The question, with another caller each time.
struct Probe<'a> {
    service: &'a str,
    datacenter: &'a str,
    trust_domain: TrustDomain,
}

impl Probe<'_> {
    fn authorize(&self) -> Authorize {
        let random = format!("aralez-probe-{:032x}", fastrand::u128(..));
        let nobody = ServiceName { namespace: random.as_str().into(), ..ServiceName::local(&random) };
        let client_cert_uri = SpiffeId::service(self.trust_domain.clone(), nobody, self.datacenter).to_string();
        Authorize { target: self.service.to_owned(), client_cert_uri, client_cert_serial: String::new() }
    }
}

impl Query for Probe<'_> {
    type Reply = Authorization;

    fn method(&self) -> Method {
        Method::Post
    }

    fn path(&self) -> String {
        self.authorize().path()
    }

    fn body(&self) -> Option<Value> {
        self.authorize().body()
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }
}

/// Asks once. A refusal (a token without the right) leaves it unknown, as for a sidecar.
///
/// # Errors
/// The agent does not answer.
pub(super) async fn once(client: &Client, service: &ServiceName, datacenter: &str) -> Result<DefaultPolicy, Error> {
    let Ok(trust_domain) = TrustDomain::parse("probe.consul") else { return Ok(DefaultPolicy::Unknown) };
    match client.send(&Probe { service: &service.name, datacenter, trust_domain }, &At::Now).await {
        Ok(Answer { value: Some(answer), meta }) => Ok(decode(&answer, &meta)),
        Ok(Answer { value: None, .. }) | Err(Error::Status { status: 400..=499, .. }) => Ok(DefaultPolicy::Unknown),
        Err(error) => Err(error),
    }
}

/// Keeps the default policy fresh. A probe that fails changes nothing; only when the first answer is a refusal (a token
/// without the right), the policy is said to be unknown; what was configured for that case then holds.
pub(super) async fn run(context: &Context, service: &ServiceName, datacenter: &str) {
    let state = context.agent.watches.register("default intention policy");
    // Any trust domain will do: the agent looks at the rest only.
    let Ok(trust_domain) = TrustDomain::parse("probe.consul") else { return };
    let probe = Probe { service: &service.name, datacenter, trust_domain };
    let mut known = false;
    let tell = |policy: DefaultPolicy| {
        let unknown = policy == DefaultPolicy::Unknown;
        let policy = context.fallback.filter(|_| unknown).unwrap_or(policy);
        context.feed.send(Change::DefaultPolicy(policy));
    };
    watch(&context.agent.client, &probe, POLL, &state, |event| {
        match event {
            Event::Value(answer, meta) => {
                known = true;
                tell(decode(&answer, &meta));
            }
            Event::Failed(Error::Status { status: 400..=499, .. }, _) if !known => {
                tell(DefaultPolicy::Unknown);
            }
            Event::Failed(..) | Event::Absent | Event::Doubtful => {}
        }
        Ok(())
    })
    .await;
}

/// What the verdict on a caller that cannot exist says about the default.
fn decode(answer: &Authorization, meta: &Meta) -> DefaultPolicy {
    let allow = |yes| if yes { DefaultPolicy::Allow } else { DefaultPolicy::Deny };
    if answer.reason.starts_with(Authorization::BY_DEFAULT_POLICY) {
        return allow(answer.authorized);
    }
    if answer.reason.starts_with(Authorization::BY_ACL_DEFAULT) {
        return match meta.default_acl_policy.as_deref() {
            Some("allow") => DefaultPolicy::Allow,
            Some("deny") => DefaultPolicy::Deny,
            _ => DefaultPolicy::Unknown,
        };
    }
    // An intention that matches even this caller (Enterprise has them), or a reason that is not known.
    DefaultPolicy::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_where_the_default_stands() {
        let decode = |authorized, reason: &str, header: Option<&str>| {
            let meta = Meta { default_acl_policy: header.map(str::to_owned), ..Meta::default() };
            decode(&Authorization { authorized, reason: reason.to_owned() }, &meta)
        };
        for (authorized, reason, header, policy) in [
            (true, "Default intention policy", Some("deny"), DefaultPolicy::Allow),
            (false, "Default intention policy", Some("allow"), DefaultPolicy::Deny),
            (true, "Default behavior configured by ACLs", Some("deny"), DefaultPolicy::Deny),
            (false, "Default behavior configured by ACLs", Some("allow"), DefaultPolicy::Allow),
            (true, "Default behavior configured by ACLs", None, DefaultPolicy::Unknown),
            (true, "Matched L4 intention: */* => */*", Some("allow"), DefaultPolicy::Unknown),
            (true, "", Some("allow"), DefaultPolicy::Unknown),
        ] {
            assert_eq!(decode(authorized, reason, header), policy, "{reason}, {header:?}");
        }
    }

    #[test]
    fn no_two_probes_name_the_same_caller() {
        let Ok(trust_domain) = TrustDomain::parse("probe.consul") else { panic!("not a trust domain") };
        let probe = Probe { service: "web", datacenter: "dc1", trust_domain };
        let (a, b) = (probe.authorize(), probe.authorize());
        assert!(a.client_cert_uri != b.client_cert_uri && a.target == "web");
        assert!(a.client_cert_uri.starts_with("spiffe://probe.consul/ns/aralez-probe-") && a.client_cert_uri.contains("/dc/dc1/svc/"));
    }
}
