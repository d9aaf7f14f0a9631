//! A call of a peer: which intention decides, by which permission and test.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::model::{
    identity::{ServiceName, SpiffeId},
    intention::{DefaultPolicy, Intentions, Verdict},
    jwt::Tokens,
    listener::Protocol,
    matching::RequestView,
};

/// What the intentions say about one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inbound {
    /// Who calls.
    pub from: String,
    /// Who is called.
    pub to: String,
    /// What is spoken with it.
    pub protocol: Protocol,
    /// What happens to callers that no intention names.
    pub default_policy: DefaultPolicy,
    /// The request's path in its one form, if that differs from what was sent.
    pub normalised: Option<String>,
    /// All intentions towards the service, in the order in which they are considered.
    pub intentions: Vec<String>,
    /// The intention that looks at the request, if one does.
    pub looks: Option<String>,
    /// What it tested, one after the other; the last one decided if it matched.
    pub steps: Vec<String>,
    /// What became of the token of each issuer that is asked for.
    pub tokens: Vec<Token>,
    /// Whether the call is let through.
    pub allowed: bool,
    /// What decided, in the words of the refusal's log line and metric label.
    pub decider: String,
    /// The refusal's reason as metrics and logs have it.
    pub reason: Option<&'static str>,
    /// Where the default policy would decide and is not known: the verdicts under allow and under deny.
    pub otherwise: Vec<String>,
}

/// What became of the token of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// The issuer's `jwt-provider` entry.
    pub provider: Arc<str>,
    /// `it stands`, or why it does not.
    pub outcome: String,
}

impl Inbound {
    /// Explains a call; an opaque connection has no `request`.
    pub fn new(
        from: &SpiffeId,
        (to, protocol): (&ServiceName, Protocol),
        intentions: &Intentions,
        request: Option<&RequestView<'_>>,
        tokens: &dyn Tokens,
    ) -> Self {
        let mut looks = None;
        let mut steps = Vec::new();
        let outcome = match (intentions.judge(from), request) {
            (Verdict::PerRequest(conditions), Some(request)) => {
                looks = Some(conditions.intention().to_string());
                steps = conditions.explain(request, tokens).iter().map(ToString::to_string).collect();
                conditions.authorize(request, tokens)
            }
            _ => intentions.authorize(from),
        };
        let (allowed, decider, reason) = match &outcome {
            Ok(permit) => (true, permit.decider().to_string(), None),
            Err(denied) => (false, denied.to_string(), Some(denied.reason())),
        };
        Self {
            from: from.as_service().map_or_else(|| from.to_string(), ToString::to_string),
            to: to.to_string(),
            protocol,
            default_policy: intentions.default_policy(),
            normalised: None,
            intentions: intentions.ids().map(ToString::to_string).collect(),
            looks,
            steps,
            tokens: Vec::new(),
            allowed,
            decider,
            reason,
            otherwise: Vec::new(),
        }
    }

    /// The verdict alone: `allowed: …` or `denied: …`.
    pub fn verdict(&self) -> String {
        format!("{}: {}", if self.allowed { "allowed" } else { "denied" }, self.decider)
    }
}

impl fmt::Display for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, protocol, .. } = self;
        write!(f, "{from} calls {to} ({})", protocol.as_str())?;
        self.normalised.iter().try_for_each(|path| write!(f, "\n  path normalised to {path}"))?;
        let default = match self.default_policy {
            DefaultPolicy::Allow => "allow",
            DefaultPolicy::Deny => "deny",
            DefaultPolicy::Unknown => "unknown",
        };
        write!(f, "\n  default policy: {default}")?;
        let intentions = if self.intentions.is_empty() { "none".to_owned() } else { self.intentions.join(", ") };
        write!(f, "\n  intentions: {intentions}")?;
        for Token { provider, outcome } in &self.tokens {
            write!(f, "\n  token of {provider}: {outcome}")?;
        }
        self.looks.iter().try_for_each(|id| write!(f, "\n  intention {id} looks at the request"))?;
        self.steps.iter().try_for_each(|step| write!(f, "\n    {step}"))?;
        write!(f, "\n  {}", self.verdict())?;
        for (policy, verdict) in ["allow", "deny"].iter().zip(&self.otherwise) {
            write!(f, "\n  were the default policy {policy}: {verdict}")?;
        }
        Ok(())
    }
}
