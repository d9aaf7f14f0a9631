//! Routes as a `service-router` entry has them; a compiled chain repeats them.

use std::collections::BTreeMap;

use crate::duration::GoDuration;
use crate::wire::wire;

wire! {
    /// One route.
    pub struct Route {
        /// What requests it takes; absent means every one.
        #[serde(rename = "Match")]
        pub matches: Option<RouteMatch>,
        /// Where and how they go; absent means the router's own service.
        pub destination: Option<RouteDestination>,
    }

    /// What requests a route takes.
    pub struct RouteMatch {
        /// The HTTP conditions.
        #[serde(rename = "HTTP")]
        pub http: Option<HttpMatch>,
    }

    /// HTTP conditions: every part given must match. At most one of the paths is given.
    pub struct HttpMatch {
        /// The whole path.
        pub path_exact: String,
        /// How the path begins.
        pub path_prefix: String,
        /// RE2 expression that matches the whole path.
        pub path_regex: String,
        /// Compare exact and prefix paths without regard to case.
        pub case_insensitive: bool,
        /// Header tests, all of which must hold.
        pub header: Vec<HeaderMatch>,
        /// Query parameter tests, all of which must hold.
        pub query_param: Vec<QueryParamMatch>,
        /// Methods, one of which must be the request's; empty means any.
        pub methods: Vec<String>,
    }

    /// One header test: exactly one of `present`, `exact`, `prefix`, `suffix` and `regex`.
    pub struct HeaderMatch {
        /// Header name.
        pub name: String,
        /// It is there.
        pub present: bool,
        /// The whole value.
        pub exact: String,
        /// How the value begins.
        pub prefix: String,
        /// How the value ends.
        pub suffix: String,
        /// RE2 expression that matches the whole value.
        pub regex: String,
        /// The test must fail instead.
        pub invert: bool,
    }

    /// One query parameter test: exactly one of `present`, `exact` and `regex`.
    pub struct QueryParamMatch {
        /// Parameter name.
        pub name: String,
        /// It is there.
        pub present: bool,
        /// The whole value.
        pub exact: String,
        /// RE2 expression that matches the whole value.
        pub regex: String,
    }

    /// Where and how a route's requests go.
    pub struct RouteDestination {
        /// Service; empty means the router's own.
        pub service: String,
        /// Subset; empty means the default one.
        pub service_subset: String,
        /// Namespace (Enterprise).
        pub namespace: String,
        /// Admin partition (Enterprise).
        pub partition: String,
        /// Replaces the matched prefix, or the whole path of an exact match.
        pub prefix_rewrite: String,
        /// Time for the whole request; zero means not set, negative none. Text on the wire.
        pub request_timeout: GoDuration,
        /// Time without activity; zero means not set, negative none. Text on the wire.
        pub idle_timeout: GoDuration,
        /// Retries; 0 means 1 if there is a retry condition.
        pub num_retries: u32,
        /// Retry when no connection could be made.
        pub retry_on_connect_failure: bool,
        /// Retry on these statuses.
        pub retry_on_status_codes: Vec<u32>,
        /// Retry on these conditions: `5xx`, `gateway-error`, `reset`, `connect-failure`, ….
        pub retry_on: Vec<String>,
        /// Changes to request headers.
        pub request_headers: Option<HeaderModifiers>,
        /// Changes to response headers.
        pub response_headers: Option<HeaderModifiers>,
    }

    /// Changes to headers.
    pub struct HeaderModifiers {
        /// Added beside what is there.
        pub add: BTreeMap<String, String>,
        /// Put in place of what is there.
        pub set: BTreeMap<String, String>,
        /// Taken away.
        pub remove: Vec<String>,
    }
}
