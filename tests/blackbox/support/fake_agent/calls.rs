//! The record of what was asked.

use std::collections::HashMap;
use std::time::Instant;

use http::HeaderMap;

use super::topic::{Endpoint, Topic};

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// When its head was read.
    pub at: Instant,
    /// What it asks for; `None` for a path outside of the contract.
    pub topic: Option<Topic>,
    /// `GET`, `POST`.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Decoded query parameters.
    pub query: HashMap<String, String>,
    /// All header fields.
    pub headers: HeaderMap,
}

impl Call {
    /// Whether it is one of `endpoint`.
    pub fn is(&self, endpoint: Endpoint) -> bool {
        self.topic.as_ref().is_some_and(|topic| topic.endpoint == endpoint)
    }

    /// `X-Consul-Token`, or the bearer token.
    pub fn token(&self) -> Option<&str> {
        let header = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        header("x-consul-token").or_else(|| header("authorization").and_then(|value| value.strip_prefix("Bearer ")))
    }

    /// `index=` of the query.
    pub fn index(&self) -> Option<u64> {
        self.query.get("index").and_then(|index| index.parse().ok())
    }
}
