//! Intentions: who may call the local service.
//!
//! Semantics are those of Consul's Envoy path: the first intention by precedence whose source matches decides; with none, the
//! default policy; the datacenter of the caller is ignored. While the default policy is unknown, what needs it is denied.

use std::{fmt, sync::Arc};

use serde::Serialize;

use super::identity::{ServiceName, SpiffeId, TrustDomain};

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The call may pass.
    Allow,
    /// The call is refused.
    Deny,
}

/// What happens to a caller that no intention names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultPolicy {
    /// It may pass.
    Allow,
    /// It is refused.
    Deny,
    /// The agent has not told yet (or cannot): refused.
    Unknown,
}

/// A name or every name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// `*`.
    Any,
    /// Exactly this name.
    Exact(Arc<str>),
}

impl Pattern {
    /// `*` is [`Pattern::Any`], everything else is exact.
    pub fn parse(text: &str) -> Self {
        if text == "*" { Self::Any } else { Self::Exact(text.into()) }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *name,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::Exact(name) => name,
        })
    }
}

/// The source of an intention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The cluster peer the source lives in, by its local name. Such a source matches nobody until peering is understood:
    /// `*` without a peer does not cover peers either, so nothing opens by it.
    pub peer: Option<Arc<str>>,
    /// Admin partition; never a wildcard.
    pub partition: Arc<str>,
    /// Namespace.
    pub namespace: Pattern,
    /// Service name.
    pub name: Pattern,
}

impl Source {
    fn matches(&self, caller: &ServiceName) -> bool {
        self.peer.is_none()
            && self.partition == caller.partition
            && self.namespace.matches(&caller.namespace)
            && self.name.matches(&caller.name)
    }
}

/// What an intention says about its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The whole connection or request.
    Action(Action),
    /// Something that this version cannot evaluate; it denies, and says why.
    Unsupported(String),
}

/// One intention towards the local service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Intention {
    /// Whom it speaks of.
    pub source: Source,
    /// The destination as written (`*` for a wildcard), for messages only: the agent lists those that match us.
    pub destination: String,
    /// Consul's precedence, 9 (exact on both sides) to 1.
    pub precedence: u32,
    /// What it says.
    pub rule: Rule,
}

/// The name of an intention in logs and metrics: `source -> destination (precedence N)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IntentionId(Arc<str>);

impl IntentionId {
    fn of(intention: &Intention) -> Self {
        let peer = intention.source.peer.as_deref().map(|p| format!("peer:{p}/")).unwrap_or_default();
        let Intention { source, destination, precedence, .. } = intention;
        Self(format!("{peer}{} -> {destination} (precedence {precedence})", source.name).into())
    }
}

impl fmt::Display for IntentionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What decided in a caller's favour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// An intention.
    Intention(IntentionId),
    /// The default intention policy.
    DefaultPolicy,
}

/// Proof that the intentions let a peer through. Only [`Intentions::authorize`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    decider: Decider,
}

impl Permit {
    /// Who let it through.
    pub fn decider(&self) -> &Decider {
        &self.decider
    }
}

/// Why a caller was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// An intention denies its source.
    #[error("intention {0} denies it")]
    Intention(IntentionId),
    /// An intention matches that cannot be evaluated.
    #[error("intention {id} cannot be evaluated: {why}")]
    Unsupported {
        /// The intention.
        id: IntentionId,
        /// What is not understood.
        why: String,
    },
    /// No intention names the caller and the default policy is deny.
    #[error("no intention allows it and the default policy is deny")]
    DefaultPolicy,
    /// No intention names the caller and the default policy is not known.
    #[error("no intention names it and the agent's default policy is not known yet")]
    DefaultPolicyUnknown,
    /// The caller is of another trust domain.
    #[error("its trust domain is not {0}")]
    TrustDomain(TrustDomain),
    /// The caller is not a service.
    #[error("it is not a service")]
    NotAService,
}

impl Denied {
    /// A short stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Intention(_) => "intention_denied",
            Self::Unsupported { .. } => "intention_unsupported",
            Self::DefaultPolicy => "default_policy_denied",
            Self::DefaultPolicyUnknown => "default_policy_unknown",
            Self::TrustDomain(_) => "foreign_trust_domain",
            Self::NotAService => "not_a_service",
        }
    }
}

/// All intentions towards the local service, ready to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Intentions {
    trust_domain: TrustDomain,
    default: DefaultPolicy,
    entries: Vec<(IntentionId, Intention)>,
}

impl Intentions {
    /// Orders the intentions by precedence; equals keep the agent's order (it breaks ties by name).
    pub fn new(trust_domain: TrustDomain, default: DefaultPolicy, mut intentions: Vec<Intention>) -> Self {
        intentions.sort_by_key(|i| std::cmp::Reverse(i.precedence));
        let entries = intentions.into_iter().map(|i| (IntentionId::of(&i), i)).collect();
        Self { trust_domain, default, entries }
    }

    /// Decides whether a peer may call the local service.
    ///
    /// # Errors
    /// [`Denied`], with what decided.
    pub fn authorize(&self, peer: &SpiffeId) -> Result<Permit, Denied> {
        if peer.trust_domain != self.trust_domain {
            return Err(Denied::TrustDomain(self.trust_domain.clone()));
        }
        let caller = peer.as_service().ok_or(Denied::NotAService)?;
        let Some((id, intention)) = self.entries.iter().find(|(_, i)| i.source.matches(caller)) else {
            return match self.default {
                DefaultPolicy::Allow => Ok(Permit { decider: Decider::DefaultPolicy }),
                DefaultPolicy::Deny => Err(Denied::DefaultPolicy),
                DefaultPolicy::Unknown => Err(Denied::DefaultPolicyUnknown),
            };
        };
        match &intention.rule {
            Rule::Action(Action::Allow) => Ok(Permit { decider: Decider::Intention(id.clone()) }),
            Rule::Action(Action::Deny) => Err(Denied::Intention(id.clone())),
            Rule::Unsupported(why) => Err(Denied::Unsupported { id: id.clone(), why: why.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn td() -> TrustDomain {
        TrustDomain::parse("td.consul").unwrap()
    }

    fn peer(name: &str) -> SpiffeId {
        SpiffeId::service(td(), ServiceName::local(name), "dc9")
    }

    fn intention(source: &str, precedence: u32, rule: Rule) -> Intention {
        let source = Source { peer: None, partition: "default".into(), namespace: Pattern::parse("default"), name: Pattern::parse(source) };
        Intention { source, destination: "db".into(), precedence, rule }
    }

    const ALLOW: Rule = Rule::Action(Action::Allow);
    const DENY: Rule = Rule::Action(Action::Deny);

    #[test]
    fn the_highest_precedence_that_matches_the_source_decides() {
        let list = vec![intention("*", 8, DENY), intention("web", 9, ALLOW)];
        let intentions = Intentions::new(td(), DefaultPolicy::Deny, list);
        assert!(intentions.authorize(&peer("web")).is_ok());
        assert_eq!(intentions.authorize(&peer("other")).unwrap_err().reason(), "intention_denied");
    }

    #[test]
    fn without_a_match_the_default_policy_decides_and_unknown_denies() {
        let verdict = |default| Intentions::new(td(), default, vec![intention("api", 9, DENY)]).authorize(&peer("web"));
        assert_eq!(*verdict(DefaultPolicy::Allow).unwrap().decider(), Decider::DefaultPolicy);
        assert_eq!(verdict(DefaultPolicy::Deny), Err(Denied::DefaultPolicy));
        assert_eq!(verdict(DefaultPolicy::Unknown), Err(Denied::DefaultPolicyUnknown));
    }

    #[test]
    fn what_cannot_be_evaluated_denies_even_under_default_allow() {
        let rule = Rule::Unsupported("L7 permissions".into());
        let intentions = Intentions::new(td(), DefaultPolicy::Allow, vec![intention("web", 9, rule)]);
        assert_eq!(intentions.authorize(&peer("web")).unwrap_err().reason(), "intention_unsupported");
    }

    #[test]
    fn a_peered_source_matches_nobody_here() {
        let mut allow = intention("web", 9, ALLOW);
        allow.source.peer = Some("cluster2".into());
        let intentions = Intentions::new(td(), DefaultPolicy::Deny, vec![allow]);
        assert_eq!(intentions.authorize(&peer("web")), Err(Denied::DefaultPolicy));
    }

    #[test]
    fn a_foreign_trust_domain_or_a_gateway_is_never_let_through() {
        let intentions = Intentions::new(td(), DefaultPolicy::Allow, vec![intention("*", 8, ALLOW)]);
        let foreign: SpiffeId = "spiffe://td.consul.evil/ns/default/dc/dc1/svc/web".parse().unwrap();
        assert_eq!(intentions.authorize(&foreign).unwrap_err().reason(), "foreign_trust_domain");
        let gateway: SpiffeId = "spiffe://td.consul/gateway/mesh/dc/dc1".parse().unwrap();
        assert_eq!(intentions.authorize(&gateway), Err(Denied::NotAService));
    }

    #[test]
    fn names_are_compared_exactly_never_as_patterns() {
        let intentions = Intentions::new(td(), DefaultPolicy::Deny, vec![intention("web.v1", 9, ALLOW)]);
        assert!(intentions.authorize(&peer("web.v1")).is_ok());
        assert!(intentions.authorize(&peer("webXv1")).is_err());
    }

    proptest! {
        #[test]
        fn order_of_arrival_does_not_matter(mut list in proptest::collection::vec((0u32..3, any::<bool>()), 0..6), seed in any::<u64>()) {
            // One intention a precedence and source, as Consul keeps them.
            list.sort_unstable_by_key(|(p, _)| *p);
            list.dedup_by_key(|(p, _)| *p);
            let make = |(p, allow): &(u32, bool)| {
                let source = ["*", "web", "api"][*p as usize];
                intention(source, if *p == 0 { 8 } else { 9 }, if *allow { ALLOW } else { DENY })
            };
            let straight: Vec<_> = list.iter().map(make).collect();
            let mut shuffled = straight.clone();
            if !shuffled.is_empty() {
                let by = (seed as usize) % shuffled.len();
                shuffled.rotate_left(by);
            }
            for caller in ["web", "api", "other"] {
                let a = Intentions::new(td(), DefaultPolicy::Deny, straight.clone()).authorize(&peer(caller)).is_ok();
                let b = Intentions::new(td(), DefaultPolicy::Deny, shuffled.clone()).authorize(&peer(caller)).is_ok();
                prop_assert_eq!(a, b);
            }
        }
    }
}
