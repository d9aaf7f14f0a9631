//! What was decided about a caller, by what, and in which words.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use super::{Conditions, DefaultPolicy, Intention, Permission, Rule};
use crate::model::identity::TrustDomain;

/// The name of an intention in logs and metrics: `source -> destination (precedence N)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntentionId {
    /// Its place in the order in which the listener's intentions are considered, from 0.
    rank: usize,
    text: Arc<str>,
}

impl IntentionId {
    pub(super) fn of(rank: usize, intention: &Intention) -> Self {
        let peer = intention.source.peer.as_deref().map(|p| format!("peer:{p}/")).unwrap_or_default();
        let Intention { source, destination, precedence, .. } = intention;
        Self { rank, text: format!("{peer}{} -> {destination} (precedence {precedence})", source.name).into() }
    }
}

impl Serialize for IntentionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl fmt::Display for IntentionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which rule of a listener's intentions decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The intention at this place in the order in which they are considered, from 0.
    Intention(usize),
    /// A permission of that intention, by its place there from 1.
    Permission(usize, usize),
    /// The default policy, whatever left the decision to it.
    Default,
    /// None was looked at: the caller is no service of the trust domain.
    Nobody,
}

/// A permission that decided, shown as `web -> api (precedence 9), permission 2: path prefix "/admin", method GET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionId {
    /// The intention it belongs to.
    pub intention: IntentionId,
    /// Its place in the intention, from 1.
    pub place: usize,
    /// Its tests, all of which held.
    pub tests: Arc<str>,
}

impl PermissionId {
    pub(super) fn of(intention: &IntentionId, place: usize, permission: &Permission) -> Self {
        Self { intention: intention.clone(), place, tests: permission.to_string().into() }
    }
}

impl fmt::Display for PermissionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, permission {}: {}", self.intention, self.place, self.tests)
    }
}

/// Why the default policy decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// No intention names the caller.
    #[error("no intention names the caller")]
    Source,
    /// The caller's intention has permissions, and the request matches none of them.
    #[error("the request matches no permission of intention {0}")]
    Permissions(IntentionId),
    /// The caller's intention requires a token that the request does not carry.
    #[error("the request carries no token that intention {0} requires")]
    Token(IntentionId),
}

impl Unmatched {
    /// What the default policy makes of it.
    pub(super) fn under(self, default: DefaultPolicy) -> Result<Permit, Denied> {
        match default {
            DefaultPolicy::Allow => Ok(Permit { decider: Decider::DefaultPolicy(self) }),
            DefaultPolicy::Deny => Err(Denied::DefaultPolicy(self)),
            DefaultPolicy::Unknown => Err(Denied::DefaultPolicyUnknown(self)),
        }
    }
}

/// What decided in a caller's favour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// An intention as a whole.
    Intention(IntentionId),
    /// A permission of an intention.
    Permission(PermissionId),
    /// The default intention policy.
    DefaultPolicy(Unmatched),
}

impl Decider {
    /// The rule, by its place.
    pub fn rule(&self) -> DecidedBy {
        match self {
            Self::Intention(id) => DecidedBy::Intention(id.rank),
            Self::Permission(id) => DecidedBy::Permission(id.intention.rank, id.place),
            Self::DefaultPolicy(_) => DecidedBy::Default,
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intention(id) => write!(f, "intention {id} allows it"),
            Self::Permission(id) => write!(f, "intention {id} allows it"),
            Self::DefaultPolicy(why) => write!(f, "{why} and the default policy is allow"),
        }
    }
}

/// Proof that the intentions let a caller through. Only [`Intentions`](super::Intentions) and [`Conditions`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub(super) decider: Decider,
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
    /// A permission denies the request.
    #[error("intention {0} denies it")]
    Permission(PermissionId),
    /// An intention matches that cannot be evaluated.
    #[error("intention {id} cannot be evaluated: {why}")]
    Unsupported {
        /// The intention.
        id: IntentionId,
        /// What is not understood.
        why: Arc<str>,
    },
    /// An intention matches that looks at requests, where there is none to look at.
    #[error("intention {0} looks at requests, and there is none")]
    NeedsRequest(IntentionId),
    /// No intention decides and the default policy is deny.
    #[error("{0} and the default policy is deny")]
    DefaultPolicy(Unmatched),
    /// No intention decides and the default policy is not known.
    #[error("{0} and the agent's default policy is not known yet")]
    DefaultPolicyUnknown(Unmatched),
    /// The caller is of another trust domain.
    #[error("its trust domain is not {0}")]
    TrustDomain(TrustDomain),
    /// The caller is not a service.
    #[error("it is not a service")]
    NotAService,
}

impl Denied {
    /// The rule that decided, by its place.
    pub fn rule(&self) -> DecidedBy {
        match self {
            Self::Intention(id) | Self::Unsupported { id, .. } | Self::NeedsRequest(id) => DecidedBy::Intention(id.rank),
            Self::Permission(id) => DecidedBy::Permission(id.intention.rank, id.place),
            Self::DefaultPolicy(_) | Self::DefaultPolicyUnknown(_) => DecidedBy::Default,
            Self::TrustDomain(_) | Self::NotAService => DecidedBy::Nobody,
        }
    }

    /// A short stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Intention(_) => "intention_denied",
            Self::Permission(_) => "permission_denied",
            Self::Unsupported { .. } => "intention_unsupported",
            Self::NeedsRequest(_) => "intention_needs_request",
            Self::DefaultPolicy(_) => "default_policy_denied",
            Self::DefaultPolicyUnknown(_) => "default_policy_unknown",
            Self::TrustDomain(_) => "foreign_trust_domain",
            Self::NotAService => "not_a_service",
        }
    }
}

/// What the intentions say about a peer, before any request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that it sends may pass.
    Permit(Permit),
    /// Nothing that it sends may pass.
    Denied(Denied),
    /// It depends on the request.
    PerRequest(Arc<Conditions>),
}

impl Verdict {
    /// What one intention says about its source.
    pub(super) fn of(id: &IntentionId, intention: &Arc<Intention>, default: DefaultPolicy) -> Self {
        match (&intention.rule, &intention.jwt) {
            (Rule::Unsupported(why), _) => Self::Denied(Denied::Unsupported { id: id.clone(), why: why.as_str().into() }),
            (Rule::Action(action), None) => action.of_intention(id).into(),
            (Rule::Action(_), Some(_)) | (Rule::Permissions(_), _) => Self::PerRequest(Arc::new(Conditions::new(id, intention, default))),
        }
    }
}

impl From<Result<Permit, Denied>> for Verdict {
    fn from(outcome: Result<Permit, Denied>) -> Self {
        outcome.map_or_else(Self::Denied, Self::Permit)
    }
}
