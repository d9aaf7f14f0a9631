//! One [`Record`] a request (or a TCP connection): the access log line and the counters are both made from it.

use std::{
    error::Error,
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use opentelemetry::trace::TraceId;
use serde::Serialize;

use super::traces::Trace;
use crate::model::{
    identity::{ServiceName, SpiffeId},
    listener::{Address, Listener},
};

/// Why a request did not go as planned, in Envoy's two letters, so that dashboards and runbooks carry over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Flag {
    /// Nothing to say.
    #[default]
    #[serde(rename = "-")]
    None,
    /// No healthy endpoint.
    #[serde(rename = "UH")]
    NoHealthyUpstream,
    /// Connecting to the endpoint failed.
    #[serde(rename = "UF")]
    UpstreamConnectionFailure,
    /// The endpoint closed the connection before it answered.
    #[serde(rename = "UC")]
    UpstreamConnectionTermination,
    /// The endpoint did not answer in time.
    #[serde(rename = "UT")]
    UpstreamTimeout,
    /// The endpoint reset the stream.
    #[serde(rename = "UR")]
    UpstreamReset,
    /// No route.
    #[serde(rename = "NR")]
    NoRoute,
    /// The client closed the connection.
    #[serde(rename = "DC")]
    DownstreamConnectionTermination,
    /// The request was not valid HTTP.
    #[serde(rename = "DPE")]
    DownstreamProtocolError,
    /// The endpoint's answer was not valid HTTP.
    #[serde(rename = "UPE")]
    UpstreamProtocolError,
    /// Intentions refused it.
    #[serde(rename = "UAEX")]
    Unauthorized,
    /// Too many connections or requests.
    #[serde(rename = "UO")]
    Overflow,
    /// The client asks too often.
    #[serde(rename = "RL")]
    RateLimited,
}

impl Flag {
    /// The letters; `-` for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamTimeout => "UT",
            Self::UpstreamReset => "UR",
            Self::NoRoute => "NR",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
            Self::Unauthorized => "UAEX",
            Self::Overflow => "UO",
            Self::RateLimited => "RL",
        }
    }
}

/// What HTTP adds to a record.
#[derive(Clone, Copy, Debug)]
pub struct HttpPart<'a> {
    /// Request method.
    pub method: &'a str,
    /// Request target: path and query.
    pub path: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// `HTTP/1.1`, `HTTP/2`, …
    pub version: &'a str,
    /// Status sent downstream; 0 when none was.
    pub status: u16,
    /// `grpc-status`, for gRPC.
    pub grpc_status: Option<u16>,
    /// `x-forwarded-for` of the request.
    pub forwarded_for: Option<&'a str>,
    /// `user-agent` of the request.
    pub user_agent: Option<&'a str>,
    /// `x-request-id` of the request.
    pub request_id: Option<&'a str>,
    /// From the request being forwarded to the first byte of the answer.
    pub upstream_time: Option<Duration>,
    /// The request's headers as they came.
    pub request: &'a HeaderMap,
    /// The headers of the answer as it was sent, if one was.
    pub response: Option<&'a HeaderMap>,
    /// The answer's trailers, if there were any and somebody kept them.
    pub trailers: Option<&'a HeaderMap>,
    /// From the start to the last byte of the request.
    pub request_time: Option<Duration>,
    /// From the start to the first byte of the endpoint's answer.
    pub response_time: Option<Duration>,
    /// The trace that the request belongs to.
    pub trace: Option<TraceId>,
}

/// A request of which nothing is known.
impl Default for HttpPart<'_> {
    fn default() -> Self {
        static EMPTY: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        Self {
            method: "-",
            path: "",
            authority: "",
            version: "",
            status: 0,
            grpc_status: None,
            forwarded_for: None,
            user_agent: None,
            request_id: None,
            upstream_time: None,
            request: &EMPTY,
            response: None,
            trailers: None,
            request_time: None,
            response_time: None,
            trace: None,
        }
    }
}

/// One finished request or connection.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The listener it came in on.
    pub listener: &'a Listener,
    /// When it began.
    pub start: SystemTime,
    /// How long it took in all.
    pub duration: Duration,
    /// The mesh peer, on the inbound side.
    pub source: Option<&'a SpiffeId>,
    /// The service called: our own on the inbound side, the chosen target's on the outbound side.
    pub destination: Option<&'a ServiceName>,
    /// The parts of HTTP, for an HTTP listener.
    pub http: Option<HttpPart<'a>>,
    /// What went wrong, if anything.
    pub flag: Flag,
    /// Stable words on how the answer came about, for example `via_upstream` or `intention_denied`.
    pub details: &'a str,
    /// The same in full, if it was refused.
    pub why: Option<&'a (dyn Error + Send + Sync)>,
    /// Body or stream bytes from the client.
    pub received: u64,
    /// Body or stream bytes to the client.
    pub sent: u64,
    /// The endpoint used last.
    pub endpoint: Option<&'a Address>,
    /// The cluster used last: the target id, or `local_app`.
    pub cluster: Option<&'a str>,
    /// Our address on the connection to the endpoint.
    pub upstream_local: Option<SocketAddr>,
    /// Our address on the client's connection; `None` on a Unix socket.
    pub downstream_local: Option<SocketAddr>,
    /// The client's address; `None` on a Unix socket.
    pub downstream_remote: Option<SocketAddr>,
    /// The server name that the client asked for in TLS.
    pub server_name: Option<&'a str>,
    /// The version of TLS spoken with the client, for example `TLSv1.3`.
    pub tls_version: Option<&'a str>,
    /// Why the client's handshake failed.
    pub downstream_failure: Option<&'a str>,
    /// Why connecting to the endpoint failed.
    pub transport_failure: Option<&'a str>,
    /// The route taken, by its name.
    pub route: Option<&'a str>,
    /// How many endpoints it was offered to.
    pub attempts: u32,
    /// Counts the connections of this process: all requests of one connection have one number.
    pub connection: u64,
    /// Its part in a trace, if it takes one.
    pub trace: Option<&'a Trace>,
}
