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
    start_time: Shown<Moment<'static>>,
    route_name: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    protocol: Option<&'a str>,
    /// 0 when no status was sent, and for TCP: as Envoy writes it.
    response_code: u16,
    response_flags: &'static str,
    response_code_details: Option<&'a str>,
    connection_termination_details: Option<&'a str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration: u64,
    upstream_service_time: Option<u64>,
    x_forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    authority: Option<&'a str>,
    upstream_host: Option<Shown<&'a Address>>,
    upstream_cluster: Option<&'a str>,
    upstream_local_address: Option<Shown<SocketAddr>>,
    downstream_local_address: Option<Shown<SocketAddr>>,
    downstream_remote_address: Option<Shown<SocketAddr>>,
    requested_server_name: Option<&'a str>,
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
