//! How a cluster's endpoints are chosen among, and what protects them.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

/// How the next endpoint is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BalancePolicy {
    /// Weighted turns. What an unset policy means, as in Consul's Envoy path.
    #[default]
    RoundRobin,
    /// The least busy of some drawn at random.
    LeastRequest {
        /// How many are drawn; Envoy's default is 2.
        choices: u32,
    },
    /// At random, by weight.
    Random,
    /// Consistent hashing on a ring (Ketama).
    RingHash {
        /// Fewest points of the ring; Envoy's default is 1024.
        min: u64,
        /// Most points of the ring; Envoy's default is 8 Mi.
        max: u64,
    },
    /// Consistent hashing by Maglev's table of 65537 places.
    Maglev,
}

/// One ingredient of a request's hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HashPolicy {
    /// What is hashed.
    pub by: HashBy,
    /// Stop here once there is a hash.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// A header's value; its name in lower case.
    Header(Arc<str>),
    /// A cookie's value. With `generate`, a request without it gets one.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// How it is made when absent.
        generate: Option<CookieLife>,
    },
    /// A query parameter's value.
    Query(Arc<str>),
    /// The caller's address.
    SourceIp,
}

/// A cookie that is made for a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CookieLife {
    /// How long it lives; `None` is for the browser's session.
    pub ttl: Option<Duration>,
    /// Its path; empty is none.
    pub path: Arc<str>,
}

/// A sticky session: a cookie that names the endpoint that served first, sealed so that it tells nothing and cannot be made up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: Arc<str>,
    /// Its life.
    pub life: CookieLife,
}

/// How a cluster balances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Balance {
    /// The policy.
    pub policy: BalancePolicy,
    /// Sticky sessions, if wanted.
    pub sticky: Option<Sticky>,
    /// How long a new endpoint's share grows to its full weight; `None` is at once.
    pub slow_start: Option<Duration>,
}

/// Bounds on what a cluster is given at once. Unset is Envoy's 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Limits {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries in flight, in percent of the requests in flight (never fewer than 3 are allowed, as in Envoy).
    pub retry_budget: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retry_budget: 20 }
    }
}

/// When an endpoint that fails is left out for a while. The defaults are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PassiveHealth {
    /// How often ejected endpoints are looked at.
    pub interval: Duration,
    /// Failures in a row that eject: an answer of 5xx, or none.
    pub max_failures: u32,
    /// How many of such ejections really happen, percent.
    pub enforcing: u32,
    /// Most endpoints of a cluster that may be ejected at once, percent.
    pub max_ejection_percent: u32,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub base_ejection: Duration,
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            max_failures: 5,
            enforcing: 100,
            max_ejection_percent: 10,
            base_ejection: Duration::from_secs(30),
        }
    }
}
