//! What a query is: everything an HTTP client needs to ask and to read the answer, without a client.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The HTTP method of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
}

impl Method {
    /// The method as it stands in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

/// How a query can be held by the agent until the answer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blocking {
    /// By `index=<X-Consul-Index>&wait=`.
    Index,
    /// By `hash=<X-Consul-ContentHash>&wait=`.
    Hash,
    /// Not at all: ask again.
    None,
}

/// One question to the agent's HTTP API.
pub trait Query {
    /// What a 200 answer holds.
    type Reply: DeserializeOwned;

    /// The HTTP method.
    fn method(&self) -> Method {
        Method::Get
    }

    /// The path below the agent's address, from `/v1/` on, each segment percent-escaped.
    fn path(&self) -> String;

    /// The query parameters, not escaped; those of blocking (`index`, `hash`, `wait`) are the asker's.
    fn params(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The JSON body, if the query has one.
    fn body(&self) -> Option<Value> {
        None
    }

    /// How the query can be held.
    fn blocking(&self) -> Blocking;

    /// Whether a 404 is an answer ("there is none"): it then carries `X-Consul-Index` and can be waited on.
    fn absent_is_value(&self) -> bool {
        false
    }

    /// Reads the body of a 200 answer.
    ///
    /// # Errors
    /// The body is not the JSON of [`Query::Reply`].
    fn decode(&self, body: &[u8]) -> Result<Self::Reply, serde_json::Error> {
        serde_json::from_slice(body)
    }
}

/// Namespace and partition of a query: Enterprise features.
///
/// They are sent only when neither empty nor `default`: Community Edition answers 400 to either parameter, whatever its
/// value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tenancy {
    /// The namespace; empty means the token's own.
    pub namespace: String,
    /// The admin partition; empty means the agent's own.
    pub partition: String,
}

impl Tenancy {
    /// Appends `ns` and `partition` where they must be sent.
    pub(crate) fn append(&self, params: &mut Vec<(&'static str, String)>) {
        for (key, value) in [("ns", &self.namespace), ("partition", &self.partition)] {
            if value != "default" {
                append_text(params, key, value);
            }
        }
    }

    /// The parameters of a query that has no others.
    pub(crate) fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = Vec::new();
        self.append(&mut params);
        params
    }
}

/// Appends a parameter unless it is empty.
pub(crate) fn append_text(params: &mut Vec<(&'static str, String)>, key: &'static str, value: &str) {
    if !value.is_empty() {
        params.push((key, value.to_owned()));
    }
}

/// Appends a switch if it is on.
pub(crate) fn append_flag(params: &mut Vec<(&'static str, String)>, key: &'static str, on: bool) {
    if on {
        params.push((key, "true".to_owned()));
    }
}

/// The characters RFC 3986 §2.3 lets stand in a segment everywhere; all others are escaped.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `prefix` and one more path segment, escaped.
pub(crate) fn path(prefix: &str, segment: &str) -> String {
    format!("{prefix}/{}", utf8_percent_encode(segment, SEGMENT))
}
