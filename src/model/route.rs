//! Routes: which call goes where, how long it may take, how often it is tried.

mod test;

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

pub use self::test::Test;
use super::{
    balance::HashPolicy,
    format::{Command, Format},
    matching::{HeaderMatch, PathMatch, QueryMatch, RequestView, TextMatch},
};

/// How long a request may take in all when nothing else is said: Envoy's default, which Consul leaves in force.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a request may stand still when nothing else is said: Envoy's default.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The routes of an upstream; the first that matches decides. A discovery chain without a router is one route that takes every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteTable {
    /// The routes in order. For protocol `tcp` there is exactly one.
    pub routes: Vec<Route>,
}

impl RouteTable {
    /// One route that takes every request and has one leg: the first `clusters` of the upstream's list, in failover order.
    pub fn direct(clusters: usize, timeout: Option<Duration>) -> Self {
        let leg = Leg { name: "default".into(), weight: 10_000, headers: HeaderEdits::default(), clusters: (0..clusters).collect() };
        Self { routes: vec![Route { timeout, ..Route::to(vec![leg]) }] }
    }

    /// The first route that takes a request, with its place; none when no route does.
    pub fn route(&self, request: &RequestView<'_>) -> Option<(usize, &Route)> {
        self.routes.iter().enumerate().find(|(_, route)| route.matches.is_match(request))
    }
}

impl Route {
    /// A route that takes every request, with the defaults of Envoy.
    pub fn to(legs: Vec<Leg>) -> Self {
        Self {
            name: "default".into(),
            matches: RouteMatch::default(),
            rewrite: None,
            timeout: Some(TIMEOUT),
            idle_timeout: Some(IDLE_TIMEOUT),
            retry: None,
            headers: HeaderEdits::default(),
            hash: Vec::new(),
            legs,
        }
    }

    /// The place of a request's leg. `draw` is a number drawn evenly from all of `u32` (or from 0 to the sum of the weights): each leg
    /// gets its share, and one of weight 0 nothing.
    pub fn leg(&self, draw: u32) -> usize {
        let whole: u32 = self.legs.iter().map(|leg| leg.weight).sum();
        let mut left = draw % whole.max(1);
        let found = self.legs.iter().position(|leg| {
            let here = left < leg.weight;
            left = left.saturating_sub(leg.weight);
            here
        });
        found.unwrap_or_default()
    }

    /// The new path (without query) of a request that this route took, if it rewrites: the matched prefix is replaced, or all that an
    /// exact path or an expression matched. As in Envoy no slash is added or merged: prefix `/a` rewritten to `/` makes `//b` of `/a/b`. Only where
    /// nothing would be left, as of `/a` itself with its prefix stripped, the path is `/` (RFC 9112, section 3.2.1).
    pub fn rewritten(&self, path: &str) -> Option<String> {
        let rewrite = self.rewrite.as_ref()?;
        let rest = match self.matches.path.as_ref().map(|path| &path.text) {
            // Every path: what would be the prefix `/`, which the asterisk of OPTIONS does not have.
            None => path.strip_prefix('/')?,
            Some(TextMatch::Prefix(prefix)) => path.get(prefix.len()..)?,
            Some(_) => "",
        };
        Some(if rewrite.is_empty() && rest.is_empty() { "/".to_owned() } else { format!("{rewrite}{rest}") })
    }
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Its name in logs, metrics and explanations: `route 3`, or `default` for the one that takes the rest.
    pub name: Arc<str>,
    /// What it takes.
    pub matches: RouteMatch,
    /// Replaces the matched prefix, or the whole path of an exact match.
    pub rewrite: Option<Arc<str>>,
    /// How long a request may take in all; `None` is without limit. Unset is Envoy's 15 s.
    pub timeout: Option<Duration>,
    /// How long a request may stand still; `None` is without limit. Unset is Envoy's 300 s.
    pub idle_timeout: Option<Duration>,
    /// When a failed try is repeated; `None` leaves only what is always safe.
    pub retry: Option<RetryPolicy>,
    /// What it does to headers.
    pub headers: HeaderEdits,
    /// What a request is hashed by, in order.
    pub hash: Vec<HashPolicy>,
    /// Where its requests go, by weight. Never empty.
    pub legs: Vec<Leg>,
}

/// What a route takes: all tests must pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// The path; `None` is every path.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
    /// The methods, upper case; empty is every method.
    pub methods: Vec<Arc<str>>,
}

impl RouteMatch {
    /// Whether a request passes all tests. The cheapest come first.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.is_match(request.path))
            && (self.methods.is_empty() || self.methods.iter().any(|method| **method == *request.method))
            && self.headers.iter().all(|header| header.is_match(request))
            && self.query.iter().all(|parameter| parameter.is_match(request.query))
    }

    /// The first test that a request fails; `None` exactly when [`RouteMatch::is_match`] holds.
    pub fn mismatch(&self, request: &RequestView<'_>) -> Option<Test<'_>> {
        self.tests().find(|test| !test.holds(request))
    }

    /// The tests, in the order in which they are made.
    fn tests(&self) -> impl Iterator<Item = Test<'_>> {
        let methods = Some(Test::Method(&self.methods)).filter(|_| !self.methods.is_empty());
        let path = self.path.iter().map(Test::Path);
        path.chain(methods).chain(self.headers.iter().map(Test::Header)).chain(self.query.iter().map(Test::Query))
    }
}

/// Its tests, for example `path prefix "/v2", method GET`, or `any request`.
impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tests: Vec<String> = self.tests().map(|test| test.to_string()).collect();
        f.write_str(if tests.is_empty() { "any request" } else { "" })?;
        f.write_str(&tests.join(", "))
    }
}

/// One leg of a split (or the only one).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// Its name in logs and explanations: the chain's node it leads to.
    pub name: Arc<str>,
    /// Its share in units of 0.01 %; the legs of a route need not sum up to 10,000.
    pub weight: u32,
    /// What it does to headers, before the route's own edits (Envoy's order: what the route sets has the last word).
    pub headers: HeaderEdits,
    /// The clusters in failover order, as places in the upstream's list of clusters. Empty when none of its targets can be served.
    pub clusters: Vec<usize>,
}

/// Edits of the headers of a request and of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    /// Of the request.
    pub request: Edits,
    /// Of the answer.
    pub response: Edits,
}

/// Edits of headers, in Envoy's order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Edits {
    /// Fields that are added beside what is there; names in lower case.
    pub add: Vec<(Arc<str>, Format)>,
    /// Fields that replace what is there.
    pub set: Vec<(Arc<str>, Format)>,
    /// Fields that are taken away.
    pub remove: Vec<Arc<str>>,
}

impl Edits {
    /// The commands that a header's value may hold. Which of them take an argument: see [`Edits::knows`].
    pub const COMMANDS: [&str; 20] = [
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_PEER_URI_SAN",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT",
        "HOSTNAME",
        "PROTOCOL",
        "REQ",
        "REQUESTED_SERVER_NAME",
        "RESPONSE_CODE",
        "ROUTE_NAME",
        "START_TIME",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_REMOTE_PORT",
    ];

    /// Whether a header's value may hold a command: it is one of [`Edits::COMMANDS`], `REQ` with a header's name, the others without
    /// an argument.
    pub fn knows(command: &Command) -> bool {
        Self::COMMANDS.contains(&&*command.name) && (&*command.name == "REQ") == command.argument.is_some()
    }
}

/// When a failed try is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Most repetitions.
    pub retries: u32,
    /// On which conditions.
    pub on: Vec<RetryOn>,
    /// On which statuses of the answer.
    pub statuses: Vec<u16>,
}

/// A condition for a retry, as Consul's `RetryOn` and Envoy name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// Status 500 to 599, or no answer at all (reset, connect failure, refused stream).
    #[serde(rename = "5xx")]
    ServerError,
    /// Status 502, 503 or 504.
    GatewayError,
    /// No answer at all: disconnect, reset, read timeout.
    Reset,
    /// No connection.
    ConnectFailure,
    /// The answer has `x-envoy-ratelimited`.
    EnvoyRatelimited,
    /// Status 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// The stream was refused.
    RefusedStream,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 13.
    Internal,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 14.
    Unavailable,
}

impl RetryOn {
    /// The condition of a name in `RetryOn`; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "5xx" => Self::ServerError,
            "gateway-error" => Self::GatewayError,
            "reset" => Self::Reset,
            "connect-failure" => Self::ConnectFailure,
            "envoy-ratelimited" => Self::EnvoyRatelimited,
            "retriable-4xx" => Self::Retriable4xx,
            "refused-stream" => Self::RefusedStream,
            "cancelled" => Self::Cancelled,
            "deadline-exceeded" => Self::DeadlineExceeded,
            "internal" => Self::Internal,
            "resource-exhausted" => Self::ResourceExhausted,
            "unavailable" => Self::Unavailable,
            _ => return None,
        })
    }
}

/// The name in `RetryOn`.
impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests;
