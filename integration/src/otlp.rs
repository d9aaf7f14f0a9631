//! A collector of OpenTelemetry: it takes spans by OTLP over HTTP, in protobuf, and keeps them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span as Wire, span::SpanKind, status::StatusCode as SpanStatus};
use prost::Message as _;
use tokio::task::{JoinHandle, JoinSet};

use crate::net::Listener;
use crate::wait::eventually;

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace's id: 32 hexadecimal digits.
    pub trace: String,
    /// Its id: 16 hexadecimal digits.
    pub id: String,
    /// The id of the span above; empty for none.
    pub parent: String,
    /// What it is to others.
    pub kind: SpanKind,
    /// From when to when, nanoseconds since the Unix epoch.
    pub time: (u64, u64),
    /// Its attributes, numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// The message of its status, if that is an error.
    pub error: Option<String>,
}

/// A running collector; it ends when this is dropped.
#[derive(Debug)]
pub struct Collector {
    /// The base of its URL, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Collector {
    /// Starts one on loopback.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        let (listener, address) = Listener::loopback().await?;
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let kept = spans.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(stream) = listener.accept().await {
                let kept = kept.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, kept.clone()));
                    // How a connection ends is the client's to see.
                    drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Ok(Self { endpoint: format!("http://{address}"), spans, accepting })
    }

    /// What came so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of the trace in which one fits, once as many as `least` came of it.
    ///
    /// # Errors
    /// When that is not so within `limit`: with what came.
    pub async fn trace(&self, least: usize, limit: Duration, fits: impl Fn(&Span) -> bool) -> Result<Vec<Span>> {
        let what = format!("a trace of {least} spans");
        eventually(&what, limit, async || {
            let all = self.spans();
            let trace = all.iter().find(|span| fits(span)).map(|span| span.trace.clone());
            let whole: Vec<Span> = all.iter().filter(|span| Some(&span.trace) == trace.as_ref()).cloned().collect();
            (whole.len() >= least).then_some(whole).with_context(|| format!("there are {all:#?}"))
        })
        .await
    }
}

/// Takes what is posted to the path of traces, as the protocol wants it.
async fn answer(request: Request<Incoming>, spans: Arc<Mutex<Vec<Span>>>) -> io::Result<Response<Full<Bytes>>> {
    let is_export = request.method() == Method::POST
        && request.uri().path() == "/v1/traces"
        && request.headers().get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let mut response = Response::new(Full::default());
    match ExportTraceServiceRequest::decode(body) {
        Ok(export) if is_export => spans.lock().unwrap_or_else(PoisonError::into_inner).extend(read(export)),
        _ => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

fn read(export: ExportTraceServiceRequest) -> impl Iterator<Item = Span> {
    export.resource_spans.into_iter().flat_map(|of_resource| {
        let resource = attributes(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let wires = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        wires.map(move |wire| span(service.clone(), wire)).collect::<Vec<_>>()
    })
}

fn span(service: String, wire: Wire) -> Span {
    let kind = wire.kind();
    let status = wire.status.unwrap_or_default();
    Span {
        service,
        kind,
        name: wire.name,
        trace: hex(&wire.trace_id),
        id: hex(&wire.span_id),
        parent: hex(&wire.parent_span_id),
        time: (wire.start_time_unix_nano, wire.end_time_unix_nano),
        attributes: attributes(wire.attributes),
        error: (status.code == SpanStatus::Error as i32).then_some(status.message),
    }
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    all.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?.value?)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
