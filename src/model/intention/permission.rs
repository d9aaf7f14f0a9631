//! What a permission tests in a request.

use std::{fmt, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::Action;
use crate::model::{
    jwt::{ClaimTest, JwtRequirement, RequiredToken, Tokens},
    matching::{HeaderMatch, PathMatch, RequestView},
};

/// One L7 rule: a request matches it when every test holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// What happens to a request that matches.
    pub action: Action,
    /// The path.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// The methods, upper case; empty is every method.
    pub methods: Vec<Arc<str>>,
    /// The token it must carry, on top of the intention's own requirement.
    pub jwt: Option<JwtRequirement>,
}

/// One test of a permission. Shown as words, for example `path prefix "/admin"` or `method GET or HEAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Of the path.
    Path(&'a PathMatch),
    /// Of the method, which must be one of these.
    Method(&'a [Arc<str>]),
    /// Of a header.
    Header(&'a HeaderMatch),
    /// Of the token.
    Token(&'a JwtRequirement),
}

impl Permission {
    fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let path = self.path.iter().map(Field::Path);
        let methods = Some(Field::Method(&self.methods)).filter(|_| !self.methods.is_empty());
        path.chain(methods).chain(self.headers.iter().map(Field::Header)).chain(self.jwt.iter().map(Field::Token))
    }

    /// The first test that the request fails; `None` when it matches.
    pub fn mismatch(&self, request: &RequestView<'_>, tokens: &dyn Tokens) -> Option<Field<'_>> {
        self.fields().find(|field| !field.holds(request, tokens))
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fields().next().is_none() {
            return f.write_str("any request");
        }
        separated(f, self.fields(), ", ")
    }
}

impl Field<'_> {
    fn holds(&self, request: &RequestView<'_>, tokens: &dyn Tokens) -> bool {
        match self {
            Self::Path(path) => path.is_match(request.path),
            Self::Method(methods) => methods.iter().any(|method| **method == *request.method),
            Self::Header(header) => header.is_match(request),
            Self::Token(required) => is_met(required, tokens),
        }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Method(methods) => {
                f.write_str("method ")?;
                separated(f, methods.iter(), " or ")
            }
            Self::Header(header) => header.fmt(f),
            Self::Token(required) => {
                f.write_str("token of ")?;
                separated(f, required.providers.iter().map(ShownToken), " or ")
            }
        }
    }
}

/// `okta with perms.role "admin"`.
struct ShownToken<'a>(&'a RequiredToken);

impl fmt::Display for ShownToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.provider)?;
        for (at, claim) in self.0.claims.iter().enumerate() {
            write!(f, "{}{} {:?}", if at == 0 { " with " } else { " and " }, claim.path.join("."), claim.value)?;
        }
        Ok(())
    }
}

fn separated<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = T>, by: &str) -> fmt::Result {
    for (at, item) in items.enumerate() {
        write!(f, "{}{item}", if at == 0 { "" } else { by })?;
    }
    Ok(())
}

/// Whether one of the providers' tokens is there with all that it must claim.
pub(super) fn is_met(required: &JwtRequirement, tokens: &dyn Tokens) -> bool {
    let stands = |token: &RequiredToken| {
        tokens.claims(&token.provider).is_some_and(|claims| token.claims.iter().all(|test| is_claimed(test, claims)))
    };
    required.providers.iter().any(stands)
}

/// Whether the value at the path is the wanted one, or a list that holds it (Consul's documented meaning, which Envoy does not reach).
fn is_claimed(test: &ClaimTest, claims: &Value) -> bool {
    match test.path.iter().try_fold(claims, |value, key| value.as_object()?.get(&**key)) {
        Some(Value::Array(items)) => items.iter().any(|item| is_text(item, &test.value)),
        Some(value) => is_text(value, &test.value),
        None => false,
    }
}

/// Numbers and booleans are compared by their JSON text.
fn is_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string == text,
        Value::Number(number) => number.to_string() == text,
        Value::Bool(truth) => truth.to_string() == text,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
