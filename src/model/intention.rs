//! Intentions: who may call the local service.
//!
//! Semantics are those of Consul's Envoy path: the first intention by precedence whose source matches decides; with none, the
//! default policy; the datacenter of the caller is ignored. While the default policy is unknown, what needs it is denied.
//!
//! What does not depend on the request is decided once for a connection ([`Intentions::judge`]), the rest for each request
//! ([`Conditions::authorize`]).

mod conditions;
mod permission;
mod verdict;

use std::{collections::HashMap, fmt, sync::Arc};

use serde::Serialize;

pub use self::{
    conditions::{Conditions, Step},
    permission::{Field, Permission},
    verdict::{DecidedBy, Decider, Denied, IntentionId, PermissionId, Permit, Unmatched, Verdict},
};
use super::{
    identity::{ServiceName, SpiffeId, TrustDomain},
    jwt::JwtRequirement,
    listener::Protocol,
};

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The call may pass.
    Allow,
    /// The call is refused.
    Deny,
}

impl Action {
    fn of_intention(self, id: &IntentionId) -> Result<Permit, Denied> {
        match self {
            Self::Allow => Ok(Permit { decider: Decider::Intention(id.clone()) }),
            Self::Deny => Err(Denied::Intention(id.clone())),
        }
    }

    fn of_permission(self, id: PermissionId) -> Result<Permit, Denied> {
        match self {
            Self::Allow => Ok(Permit { decider: Decider::Permission(id) }),
            Self::Deny => Err(Denied::Permission(id)),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
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

/// What an intention says about its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The whole connection or request.
    Action(Action),
    /// The first permission that a request matches decides; if there is none, the default policy does.
    Permissions(Vec<Permission>),
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
    /// The token that a request must carry before [`Intention::rule`] is looked at; without it the default policy decides.
    pub jwt: Option<JwtRequirement>,
}

impl Intention {
    /// Its permissions, in the order in which they are considered; none of one that speaks of everything.
    pub fn permissions(&self) -> &[Permission] {
        match &self.rule {
            Rule::Permissions(permissions) => permissions,
            Rule::Action(_) | Rule::Unsupported(_) => &[],
        }
    }
}

/// All intentions towards the local service, ready to decide.
#[derive(Clone, Debug, Serialize)]
pub struct Intentions {
    trust_domain: TrustDomain,
    default: DefaultPolicy,
    entries: Vec<(IntentionId, Arc<Intention>)>,
    /// The verdict on each source, with its rank among them: a caller's is found without looking at the others.
    #[serde(skip)]
    verdicts: HashMap<Source, (usize, Verdict)>,
}

impl PartialEq for Intentions {
    fn eq(&self, other: &Self) -> bool {
        // The verdicts follow from the rest.
        (&self.trust_domain, self.default, &self.entries) == (&other.trust_domain, other.default, &other.entries)
    }
}

impl Eq for Intentions {}

/// An intention that does not do what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt<'a> {
    /// The intention.
    pub id: &'a IntentionId,
    /// What is not understood.
    pub why: String,
    /// What that comes to.
    pub effect: &'static str,
}

impl Intentions {
    /// Orders the intentions by precedence; equals keep the agent's order (it breaks ties by name), and of several with one source the first
    /// counts. On a service whose `protocol` has no requests, intentions that look at them cannot be evaluated.
    pub fn new(trust_domain: TrustDomain, default: DefaultPolicy, protocol: Protocol, mut intentions: Vec<Intention>) -> Self {
        intentions.sort_by_key(|i| std::cmp::Reverse(i.precedence));
        let mut entries = Vec::with_capacity(intentions.len());
        let mut verdicts = HashMap::with_capacity(intentions.len());
        for (rank, mut intention) in intentions.into_iter().enumerate() {
            let looks_at_requests = intention.jwt.is_some() || matches!(intention.rule, Rule::Permissions(_));
            if protocol == Protocol::Tcp && looks_at_requests {
                intention.rule = Rule::Unsupported("it looks at requests, and the service's protocol is tcp".to_owned());
            }
            let (id, intention) = (IntentionId::of(rank, &intention), Arc::new(intention));
            verdicts.entry(intention.source.clone()).or_insert_with(|| (rank, Verdict::of(&id, &intention, default)));
            entries.push((id, intention));
        }
        Self { trust_domain, default, entries, verdicts }
    }

    /// What is said about a peer before any request.
    pub fn judge(&self, peer: &SpiffeId) -> Verdict {
        if peer.trust_domain != self.trust_domain {
            return Verdict::Denied(Denied::TrustDomain(self.trust_domain.clone()));
        }
        let Some(caller) = peer.as_service() else { return Verdict::Denied(Denied::NotAService) };
        self.of_source(caller).cloned().unwrap_or_else(|| Unmatched::Source.under(self.default).into())
    }

    /// The verdict of the first intention whose source matches. Sources of cluster peers match nobody.
    fn of_source(&self, caller: &ServiceName) -> Option<&Verdict> {
        let ServiceName { partition, namespace, name } = caller;
        let exact = |text: &Arc<str>| Pattern::Exact(text.clone());
        let sources =
            [(exact(namespace), exact(name)), (exact(namespace), Pattern::Any), (Pattern::Any, exact(name)), (Pattern::Any, Pattern::Any)];
        let found = sources
            .into_iter()
            .filter_map(|(namespace, name)| self.verdicts.get(&Source { peer: None, partition: partition.clone(), namespace, name }));
        found.min_by_key(|(rank, _)| *rank).map(|(_, verdict)| verdict)
    }

    /// Decides about a peer where no request is known: what depends on one is denied.
    ///
    /// # Errors
    /// [`Denied`], with what decided.
    pub fn authorize(&self, peer: &SpiffeId) -> Result<Permit, Denied> {
        match self.judge(peer) {
            Verdict::Permit(permit) => Ok(permit),
            Verdict::Denied(denied) => Err(denied),
            Verdict::PerRequest(conditions) => Err(Denied::NeedsRequest(conditions.intention().clone())),
        }
    }

    /// The names of all intentions, in the order in which they are considered.
    pub fn ids(&self) -> impl Iterator<Item = &IntentionId> {
        self.entries.iter().map(|(id, _)| id)
    }

    /// All intentions with their names, in the order in which they are considered.
    pub fn iter(&self) -> impl Iterator<Item = (&IntentionId, &Intention)> {
        self.entries.iter().map(|(id, intention)| (id, &**intention))
    }

    /// What happens to a caller that no intention names.
    pub fn default_policy(&self) -> DefaultPolicy {
        self.default
    }

    /// The intentions that do not do what they say.
    pub fn doubts(&self) -> impl Iterator<Item = Doubt<'_>> {
        self.entries.iter().filter_map(|(id, intention)| match (&intention.source.peer, &intention.rule) {
            (Some(peer), _) => Some(Doubt {
                id,
                why: format!("its source is of the cluster peer {peer}, and peering is not supported yet"),
                effect: "it matches nobody",
            }),
            (None, Rule::Unsupported(why)) => Some(Doubt { id, why: why.clone(), effect: "it denies until it can be evaluated" }),
            (None, _) => None,
        })
    }
}

#[cfg(test)]
mod tests;
