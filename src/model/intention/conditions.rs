//! What the caller's intention makes of a single request.

use std::{fmt, sync::Arc};

use super::{Action, DefaultPolicy, Denied, Field, Intention, IntentionId, PermissionId, Permit, Rule, Unmatched, permission::is_met};
use crate::model::{
    jwt::{JwtRequirement, Tokens},
    matching::RequestView,
};

/// An intention that decides by the request. Every possible outcome is made beforehand: authorizing allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    id: IntentionId,
    intention: Arc<Intention>,
    /// The outcome of each permission.
    outcomes: Vec<Result<Permit, Denied>>,
    /// The outcome when no permission matches, or there are none.
    otherwise: Result<Permit, Denied>,
    /// The outcome when the intention's own token requirement is not met.
    without_token: Result<Permit, Denied>,
    providers: Vec<Arc<str>>,
}

/// One step of a decision: a test of a permission, or of the token that the whole intention requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// What was tested, for example `permission 2: path prefix "/admin", method GET`.
    pub tested: String,
    /// What it does to a request that matches; `None` for the intention's token, which only lets the permissions have a look.
    pub action: Option<Action>,
    /// The first test that the request failed; `None` when it matched.
    pub failed: Option<Field<'a>>,
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.failed, self.action) {
            (Some(failed), _) => write!(f, "{}: no match ({failed})", self.tested),
            (None, Some(action)) => write!(f, "{}: match, {action}", self.tested),
            (None, None) => write!(f, "{}: match", self.tested),
        }
    }
}

impl Conditions {
    pub(super) fn new(id: &IntentionId, intention: &Arc<Intention>, default: DefaultPolicy) -> Self {
        let outcomes = intention.permissions().iter().enumerate().map(|(at, permission)| {
            let decides = PermissionId::of(id, at + 1, permission);
            permission.action.of_permission(decides)
        });
        let otherwise = match &intention.rule {
            Rule::Action(action) => action.of_intention(id),
            _ => Unmatched::Permissions(id.clone()).under(default),
        };
        let required = intention.jwt.iter().chain(intention.permissions().iter().filter_map(|permission| permission.jwt.as_ref()));
        let mut providers: Vec<_> = required.flat_map(|jwt| &jwt.providers).map(|token| token.provider.clone()).collect();
        providers.sort_unstable();
        providers.dedup();
        Self {
            id: id.clone(),
            intention: intention.clone(),
            outcomes: outcomes.collect(),
            otherwise,
            without_token: Unmatched::Token(id.clone()).under(default),
            providers,
        }
    }

    /// The intention that looks at requests.
    pub fn intention(&self) -> &IntentionId {
        &self.id
    }

    /// The token issuers that its tests may ask for, each once.
    pub fn providers(&self) -> &[Arc<str>] {
        &self.providers
    }

    /// Decides about a request. A request that lacks the token which the intention requires, or matches none of its permissions, is left to
    /// the default policy, not to the next intention.
    ///
    /// # Errors
    /// [`Denied`], with what decided.
    pub fn authorize(&self, request: &RequestView<'_>, tokens: &dyn Tokens) -> Result<Permit, Denied> {
        if self.lacks_token(tokens).is_some() {
            return self.without_token.clone();
        }
        let matched = self.intention.permissions().iter().zip(&self.outcomes).find(|(p, _)| p.mismatch(request, tokens).is_none());
        matched.map_or(&self.otherwise, |(_, outcome)| outcome).clone()
    }

    /// The steps to the decision about a request, the last of them the one that decided if it matched.
    pub fn explain(&self, request: &RequestView<'_>, tokens: &dyn Tokens) -> Vec<Step<'_>> {
        let mut steps = Vec::new();
        if let Some(required) = &self.intention.jwt {
            let failed = self.lacks_token(tokens).map(Field::Token);
            steps.push(Step { tested: Field::Token(required).to_string(), action: None, failed });
            if failed.is_some() {
                return steps;
            }
        }
        for (at, permission) in self.intention.permissions().iter().enumerate() {
            let failed = permission.mismatch(request, tokens);
            steps.push(Step { tested: format!("permission {}: {permission}", at + 1), action: Some(permission.action), failed });
            if failed.is_none() {
                break;
            }
        }
        steps
    }

    fn lacks_token(&self, tokens: &dyn Tokens) -> Option<&JwtRequirement> {
        self.intention.jwt.as_ref().filter(|required| !is_met(required, tokens))
    }
}
