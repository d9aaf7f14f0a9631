//! The spans of a request: one for itself, and one for each of its steps. Attributes have the names of OpenTelemetry's semantic conventions, where there
//! are some.

use std::time::{Instant, SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::trace::{Step, Taken, Trace};
use crate::{
    model::listener::Role,
    telemetry::record::{Flag, HttpPart, Record},
};

/// The spans of a sampled request or connection, which was recorded as `record`; its last step ends now.
pub(super) fn of(trace: &Trace, record: &Record<'_>) -> Vec<SpanData> {
    let now = Instant::now();
    let wall = |at: Instant| match at.checked_duration_since(trace.begun) {
        Some(after) => record.start + after,
        None => record.start - trace.begun.saturating_duration_since(at),
    };
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION")).build();
    let recording = Taken { step: Step::Record, span: trace.underway(), began: trace.since(), ended: now, endpoint: None, failure: None };
    let whole = span(trace, &scope, trace.root, trace.parent(), wall(trace.begun), wall(now));
    let whole = SpanData {
        name: name(record).into(),
        span_kind: SpanKind::Server,
        parent_span_is_remote: trace.parent().is_some(),
        attributes: attributes(record),
        status: status(record),
        ..whole
    };
    let steps = trace.taken.iter().chain([&recording]).map(|taken| {
        let step = span(trace, &scope, taken.span, Some(trace.root), wall(taken.began), wall(taken.ended));
        SpanData {
            name: taken.step.as_str().into(),
            span_kind: if taken.step == Step::Forward { SpanKind::Client } else { SpanKind::Internal },
            attributes: taken.endpoint.iter().map(|endpoint| KeyValue::new("network.peer.address", endpoint.clone())).collect(),
            status: taken.failure.clone().map_or(Status::Unset, Status::error),
            ..step
        }
    });
    std::iter::once(whole).chain(steps).collect()
}

fn span(trace: &Trace, scope: &InstrumentationScope, id: u64, parent: Option<u64>, start: SystemTime, end: SystemTime) -> SpanData {
    SpanData {
        span_context: SpanContext::new(trace.id(), id.into(), TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "".into(),
        start_time: start,
        end_time: end,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    }
}

/// Few different names: the method and the route of the reverse proxy, or the service that is called.
fn name(record: &Record<'_>) -> String {
    let route = record.route.filter(|_| matches!(record.listener.role, Role::Ingress(_)));
    let called = route.or_else(|| record.destination.map(|service| &*service.name));
    let what = record.http.map_or("tcp", |http| http.method);
    called.map_or_else(|| what.to_owned(), |called| format!("{what} {called}"))
}

fn attributes(record: &Record<'_>) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(16);
    let mut add = |key: &'static str, value: Option<Value>| all.extend(value.map(|value| KeyValue::new(key, value)));
    let text = |text: &str| (!text.is_empty()).then(|| Value::from(text.to_owned()));
    if let Some(http) = &record.http {
        add("http.request.method", text(http.method));
        // Queries may hold what is nobody's business.
        add("url.path", text(http.path.split('?').next().unwrap_or_default()));
        add("server.address", text(http.authority));
        add("network.protocol.version", text(http.version.trim_start_matches("HTTP/")));
        add("user_agent.original", http.user_agent.and_then(text));
        add("http.response.status_code", (http.status > 0).then(|| Value::I64(http.status.into())));
        add("rpc.grpc.status_code", http.grpc_status.map(|status| Value::I64(status.into())));
        add("aralez.request_id", http.request_id.and_then(text));
    }
    add("client.address", record.downstream_remote.map(|address| address.ip().to_string().into()));
    add("aralez.listener", Some(record.listener.key.to_string().into()));
    add("aralez.direction", Some(record.listener.role.direction().into()));
    add("aralez.source", record.source.map(|id| id.to_string().into()));
    add("aralez.destination", record.destination.map(|service| service.to_string().into()));
    add("aralez.cluster", record.cluster.and_then(text));
    add("aralez.details", text(record.details));
    add("aralez.attempts", (record.attempts > 0).then(|| Value::I64(record.attempts.into())));
    if record.flag != Flag::None {
        add("aralez.flag", Some(record.flag.as_str().into()));
        add("error.type", text(record.details));
    }
    all
}

/// An error is what was refused, what broke, and what the endpoint failed at; an endpoint's answer of 4xx is not (semantic conventions for HTTP).
fn status(record: &Record<'_>) -> Status {
    let failed =
        |http: HttpPart<'_>| http.status >= 500 || http.grpc_status.is_some_and(|status| matches!(status, 2 | 4 | 12 | 13 | 14 | 15));
    match record.why {
        Some(why) if record.flag != Flag::None => Status::error(why.to_string()),
        _ if record.flag != Flag::None || record.http.is_some_and(failed) => Status::error(record.details.to_owned()),
        _ => Status::Unset,
    }
}
