//! Who is asking.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::model::secret::Secret;

/// Authentication of a route; the path's replaces the global one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Auth {
    /// Names its failure counter across snapshots: the place that set it.
    pub scope: Arc<str>,
    /// What is asked for.
    pub kind: AuthKind,
    /// The credentials do not reach the server.
    pub strip: bool,
    /// Failures a minute and client before everything from there is answered 429 for the rest of the minute, except who was right there lately; `None` is
    /// without limit.
    pub failures: Option<u32>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthKind {
    /// `Authorization: Basic` (RFC 7617).
    Basic(Basic),
    /// `x-api-key`.
    ApiKey(Vec<Secret>),
    /// A token.
    Jwt(JwtAuth),
    /// Another server decides.
    Forward(ForwardAuth),
}

/// Users with passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Basic {
    /// The realm that browsers show.
    pub realm: Arc<str>,
    /// By name; never empty.
    pub users: Vec<(Arc<str>, Password)>,
}

/// What a password is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Password {
    /// The password itself.
    Clear(Secret),
    /// Its bcrypt hash (`$2a$`, `$2b$`, `$2y$`).
    Bcrypt(Secret),
}

/// Tokens of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JwtAuth {
    /// The key of the issuer's entry in [`super::Ingress::providers`]: the place that set it.
    pub provider: Arc<str>,
    /// The issuer's entry; its keys may come later.
    pub entry: Arc<crate::model::jwt::ProviderEntry>,
}

/// A server that decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForwardAuth {
    /// Its URL, `http` or `https`.
    pub url: Arc<str>,
    /// How long its answer may take.
    pub timeout: Duration,
    /// Headers of the client's request that it is shown, lower case, beside the usual ones; empty is all.
    pub request_headers: Vec<Arc<str>>,
    /// Headers of its answer that the server gets, lower case; one that ends in `*` is a prefix. Nobody else may send them.
    pub response_headers: Vec<Arc<str>>,
}
