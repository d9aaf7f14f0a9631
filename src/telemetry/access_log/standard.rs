//! The line of Consul's default format.

use std::{net::SocketAddr, sync::LazyLock};

use serde::Serialize;

use super::fields::{Shown, milliseconds};
use crate::{
    model::{
        listener::Address,
        moment::{Moment, MomentFormat},
    },
    telemetry::record::{HttpPart, Record},
};

static START_TIME: LazyLock<MomentFormat> = LazyLock::new(MomentFormat::default);

/// The 24 keys in their order. Numbers are numbers; what does not apply is `null`.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    /// When the request or connection began, RFC 3339 in UTC with milliseconds.
    start_time: Shown<Moment<'static>>,
    /// The name of the route that was taken.
    route_name: Option<&'a str>,
    /// The request's method.
    method: Option<&'a str>,
    /// The request's path and query, as they came.
    path: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`, …
    protocol: Option<&'a str>,
    /// 0 when no status was sent, and for TCP: as Envoy writes it.
    response_code: u16,
    /// Why it did not go as planned, in letters; `-` for nothing to say.
    response_flags: &'static str,
    /// Why a request was answered so, in a word: `via_upstream`, or the reason of a refusal.
    response_code_details: Option<&'a str>,
    /// The same of a connection of protocol tcp.
    connection_termination_details: Option<&'a str>,
    /// Bytes from the client: of the body, or of the connection.
    bytes_received: u64,
    /// Bytes to the client.
    bytes_sent: u64,
    /// From its begin to its end, milliseconds.
    duration: u64,
    /// From the forwarding of the request to the first byte of the answer, milliseconds.
    upstream_service_time: Option<u64>,
    /// `x-forwarded-for` of the request.
    x_forwarded_for: Option<&'a str>,
    /// `user-agent` of the request.
    user_agent: Option<&'a str>,
    /// `x-request-id`, as it came or as it was made.
    request_id: Option<&'a str>,
    /// `Host` or `:authority`.
    authority: Option<&'a str>,
    /// The address of the endpoint.
    upstream_host: Option<Shown<&'a Address>>,
    /// The discovery chain's target, the reverse proxy's route, or `local_app`.
    upstream_cluster: Option<&'a str>,
    /// Our end of the connection to the endpoint.
    upstream_local_address: Option<Shown<SocketAddr>>,
    /// Our end of the client's connection.
    downstream_local_address: Option<Shown<SocketAddr>>,
    /// The client's end of it.
    downstream_remote_address: Option<Shown<SocketAddr>>,
    /// The name that the client asked for in the TLS handshake (SNI).
    requested_server_name: Option<&'a str>,
    /// Why there was no connection to the endpoint.
    upstream_transport_failure_reason: Option<&'a str>,
}

impl<'a> Line<'a> {
    pub(super) fn of(record: &Record<'a>) -> Self {
        let http: Option<&HttpPart<'a>> = record.http.as_ref();
        Self {
            start_time: Shown(START_TIME.show(record.start)),
            route_name: record.route,
            method: http.map(|h| h.method),
            path: http.map(|h| h.path),
            protocol: http.map(|h| h.version),
            response_code: http.map_or(0, |h| h.status),
            response_flags: record.flag.as_str(),
            response_code_details: http.is_some().then_some(record.details),
            connection_termination_details: http.is_none().then_some(record.details),
            bytes_received: record.received,
            bytes_sent: record.sent,
            duration: milliseconds(record.duration),
            upstream_service_time: http.and_then(|h| h.upstream_time).map(milliseconds),
            x_forwarded_for: http.and_then(|h| h.forwarded_for),
            user_agent: http.and_then(|h| h.user_agent),
            request_id: http.and_then(|h| h.request_id),
            authority: http.map(|h| h.authority),
            upstream_host: record.endpoint.map(Shown),
            upstream_cluster: record.cluster,
            upstream_local_address: record.upstream_local.map(Shown),
            downstream_local_address: record.downstream_local.map(Shown),
            downstream_remote_address: record.downstream_remote.map(Shown),
            requested_server_name: record.server_name,
            upstream_transport_failure_reason: record.transport_failure,
        }
    }
}
