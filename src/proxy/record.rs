//! record: what the request or connection leaves behind in log and metrics.

use std::time::Duration;

use http::{Version, header::HeaderMap};
use pingora_core::{Error, ErrorSource};
use pingora_proxy::Session;

use super::{exchange::Exchange, live::Live, refusal::Refusal};
use crate::{
    model::listener::Role,
    telemetry::{
        metrics::RequestInFlight,
        record::{Flag, HttpPart, Record},
        traces::{Trace, trace_id},
    },
};

/// What only the record asks for.
#[derive(Debug, Default)]
pub struct Notes {
    /// Counts the request as active until it is dropped.
    pub in_flight: Option<RequestInFlight>,
    /// From the beginning to the end of the request.
    pub request_time: Option<Duration>,
    /// From the beginning to the head of the answer.
    pub response_time: Option<Duration>,
    /// The answer's trailers, if the access log wants them.
    pub trailers: Option<HeaderMap>,
    /// The target as it is logged, if a token stands in the true one.
    pub target: Option<String>,
}

/// The record of a request.
pub fn http_record<'a>(session: &'a Session, error: Option<&Error>, exchange: &'a Exchange, live: &'a Live) -> Record<'a> {
    let head = session.req_header();
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    let authority = head.uri.authority().map(|a| a.as_str()).or_else(|| text("host")).unwrap_or_default();
    let path = exchange.notes.target.as_deref().or_else(|| head.uri.path_and_query().map(|p| p.as_str())).unwrap_or_default();
    // A request that went through after a retry still carries the first try's failure: it is no refusal of the request.
    let refusal = exchange.refusal.as_ref().filter(|_| error.is_some() || exchange.handed.is_none());
    let gone = error.is_some_and(|e| *e.esource() == ErrorSource::Downstream);
    let flag = match refusal {
        Some(refusal) => refusal.flag(),
        None if gone => Flag::DownstreamConnectionTermination,
        None => Flag::None,
    };
    Record {
        http: Some(HttpPart {
            method: head.method.as_str(),
            path,
            authority,
            version: version(head.version),
            status: session.response_written().map_or(0, |r| r.status.as_u16()),
            grpc_status: exchange.grpc_status,
            forwarded_for: text("x-forwarded-for"),
            user_agent: text("user-agent"),
            request_id: text("x-request-id"),
            upstream_time: exchange.upstream_time,
            request: &head.headers,
            response: session.response_written().map(|r| &r.headers),
            trailers: exchange.notes.trailers.as_ref(),
            request_time: exchange.notes.request_time,
            response_time: exchange.notes.response_time,
            trace: exchange.trace.as_ref().map(Trace::id).or_else(|| trace_id(&head.headers)),
        }),
        flag,
        details: refusal.map_or(if gone { "downstream_remote_disconnect" } else { "via_upstream" }, Refusal::details),
        why: refusal.map(Refusal::why),
        received: session.body_bytes_read() as u64,
        sent: session.body_bytes_sent() as u64,
        transport_failure: refusal.and_then(Refusal::transport_failure),
        ..record(exchange, live)
    }
}

/// What HTTP and opaque connections have in common in their record.
pub fn record<'a>(exchange: &'a Exchange, live: &'a Live) -> Record<'a> {
    let context = exchange.context.as_deref();
    let chosen = exchange.chosen.as_ref();
    let cluster = chosen.and_then(|c| c.cluster.as_ref());
    Record {
        listener: &live.listener,
        start: exchange.wall,
        duration: exchange.begun.elapsed(),
        source: context.and_then(|c| c.peer.as_ref()).map(|p| &p.id),
        destination: match &live.listener.role {
            Role::Inbound(_) | Role::Exposed(_) | Role::Ingress(_) => Some(&live.listener.service),
            Role::Upstream(upstream) => Some(cluster.map_or(&upstream.destination, |c| &c.cluster.service)),
        },
        http: None,
        flag: Flag::None,
        details: "",
        why: None,
        received: 0,
        sent: 0,
        endpoint: chosen.map(|c| &c.endpoint.address),
        cluster: chosen.map(|_| cluster.map_or("local_app", |c| &*c.cluster.target.0)),
        upstream_local: None,
        downstream_local: context.and_then(|c| c.local),
        downstream_remote: context.and_then(|c| c.remote),
        server_name: context.and_then(|c| c.server_name.as_deref()),
        tls_version: context.and_then(|c| c.tls_version),
        downstream_failure: None,
        transport_failure: None,
        route: chosen.and_then(|_| exchange.taken(live)).map(|(route, _)| &*route.name),
        attempts: exchange.attempts(),
        connection: context.map_or(0, |c| c.id),
        trace: exchange.trace.as_ref(),
    }
}

/// The `grpc-status` among headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
