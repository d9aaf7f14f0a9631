//! Tokens that intentions may require, and who may issue them.

use std::sync::Arc;

use serde::Serialize;

/// A token of any one of these providers is required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JwtRequirement {
    /// The providers; never empty.
    pub providers: Vec<RequiredToken>,
}

/// A provider and what its token must claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequiredToken {
    /// The name of a `jwt-provider` config entry.
    pub provider: Arc<str>,
    /// Claims, all of which must hold.
    pub claims: Vec<ClaimTest>,
}

/// One claim: the value at `path` is `value`, or a list that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimTest {
    /// Keys from the outermost on.
    pub path: Vec<Arc<str>>,
    /// The value.
    pub value: Arc<str>,
}

/// The verified tokens of a request.
pub trait Tokens {
    /// The claims of the provider's token, if the request carries one that stands.
    fn claims(&self, provider: &str) -> Option<&serde_json::Value>;
}

/// No tokens at all.
impl Tokens for () {
    fn claims(&self, _provider: &str) -> Option<&serde_json::Value> {
        None
    }
}
