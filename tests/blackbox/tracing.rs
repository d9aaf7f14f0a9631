//! Traces: what collectors get, what is passed on, and that neither costs a request anything.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aralez_integration::apps::{App, http_echo, tcp_echo};
use aralez_integration::clients::{self, Response};
use aralez_integration::net::{Address, Listener};
use aralez_integration::otlp::{Collector, Span};
use aralez_integration::ports::free_port;
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ingress::{Edge, Setup};
use crate::support::fake_agent::{FakeAgent, intention};
use crate::support::mesh::{Mesh, port};
use crate::support::sidecar::Launch;

/// How soon spans that were sent are at the collector, on a busy machine.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How soon a request must be answered for nobody to say that it waited for a collector.
const PROMPT: Duration = Duration::from_secs(5);
/// The span of whoever calls.
const CALLER: &str = "00f067aa0ba902b7";

/// A trace's id that nobody has used.
fn fresh() -> String {
    format!("{:032x}", fastrand::u128(1..))
}

/// `GET` with these fields; the app answers with what it got.
async fn dump(address: &Address, fields: &[(&str, &str)]) -> Result<Response> {
    let request = Request::get("http://x/debug?env=dump").header("host", "shop.example");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    clients::once(address, request.body(Bytes::new())?).await
}

/// A field of the request that the app got.
fn got(answer: &Response, name: &str) -> Option<String> {
    let text = answer.text().to_lowercase();
    text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(|value| value.trim().to_owned()))
}

/// `traceparent` of a caller that is sampled.
fn sampled(trace: &str) -> String {
    format!("00-{trace}-{CALLER}-01")
}

/// The one span with this name, of this service.
fn the<'a>(spans: &'a [Span], service: &str, name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.service == service && span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} of {service} among {spans:#?}");
    found[0]
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.get(key).map(String::as_str).unwrap_or_default()
}

/// A reverse proxy with this line in its `main.yaml`, in front of an echo.
async fn edge(tracing: &str) -> (Edge, App) {
    let app = http_echo("app").await.unwrap();
    let routes = format!("upstreams:\n  shop.example:\n    paths:\n      /: {{servers: [\"{}\"]}}\n", app.address);
    let log = "access_log: {to: access.log, format: \"trace %TRACE_ID%\"}";
    (Setup::new(&routes).main(log).main(tracing).start().await, app)
}

fn to(collector: &Collector, more: &str) -> String {
    format!("tracing: {{endpoint: \"{}\", service_name: edge{more}}}", collector.endpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_request_is_one_tree_of_its_steps() {
    let collector = Collector::start().await.unwrap();
    let (edge, _app) = edge(&to(&collector, "")).await;
    let trace = fresh();
    let fields = [("traceparent", &*sampled(&trace)), ("tracestate", "congo=t61rcWkgMzE"), ("user-agent", "test/1")];
    let answer = dump(&edge.http, &fields).await.unwrap();
    let spans = collector.trace(7, ARRIVAL, |span| span.trace == trace).await.unwrap();
    let root = the(&spans, "edge", "GET shop.example/");
    assert_eq!((root.parent.as_str(), root.kind.as_str_name(), &root.error), (CALLER, "SPAN_KIND_SERVER", &None));
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/debug"),
        ("http.response.status_code", "200"),
        ("server.address", "shop.example"),
        ("user_agent.original", "test/1"),
        ("client.address", "127.0.0.1"),
        ("aralez.listener", "ingress/http"),
        ("aralez.details", "via_upstream"),
    ] {
        assert_eq!(attribute(root, key), value, "{key} of {root:#?}");
    }
    let steps = ["accept", "route", "authorize", "balance", "connect", "forward", "record"];
    assert_eq!(spans.len(), steps.len() + 1, "{spans:#?}");
    let steps = steps.map(|step| the(&spans, "edge", step));
    assert!(steps.iter().all(|step| step.parent == root.id && step.error.is_none()));
    assert!(steps.windows(2).all(|pair| pair[0].time.1 <= pair[1].time.0), "where one ends the next begins: {steps:#?}");
    let forward = steps[5];
    assert_eq!(forward.kind.as_str_name(), "SPAN_KIND_CLIENT");
    assert_eq!(got(&answer, "traceparent"), Some(format!("00-{trace}-{}-01", forward.id)));
    assert_eq!(got(&answer, "tracestate").as_deref(), Some("congo=t61rcwkgmze"));
    let logged = eventually("the line of the request", ARRIVAL, async || {
        let text = std::fs::read_to_string(edge.path("access.log"))?;
        ensure!(text == format!("trace {trace}\n"), "{text}");
        Ok(())
    });
    logged.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_share_only_callers_begin_traces() {
    let collector = Collector::start().await.unwrap();
    let (edge, _app) = edge(&to(&collector, "")).await;
    let unsampled = format!("00-{}-{CALLER}-00", fresh());
    assert_eq!(got(&dump(&edge.http, &[]).await.unwrap(), "traceparent"), None);
    for field in [("traceparent", &*unsampled), ("b3", "0"), ("x-b3-sampled", "0"), ("traceparent", "00-none")] {
        let answer = dump(&edge.http, &[field]).await.unwrap();
        assert_eq!(got(&answer, field.0).as_deref(), Some(field.1), "it passes as it came");
    }
    // Consul's Envoy grants a trace to whoever asks by this header.
    let answer = dump(&edge.http, &[("x-client-trace-id", "test-sentinel")]).await.unwrap();
    let asked = got(&answer, "traceparent").unwrap();
    let spans = collector.trace(8, ARRIVAL, |span| asked.contains(&span.trace)).await.unwrap();
    assert!(the(&spans, "edge", "GET shop.example/").parent.is_empty());
    assert_eq!(collector.spans().len(), spans.len(), "the others left no span");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_all_begins_traces_in_the_forms_that_are_asked_for() {
    let collector = Collector::start().await.unwrap();
    let (edge, _app) = edge(&to(&collector, ", sampling: 100%, propagate: [w3c, b3, b3multi]")).await;
    let answer = dump(&edge.http, &[]).await.unwrap();
    let trace = got(&answer, "x-b3-traceid").unwrap();
    let spans = collector.trace(8, ARRIVAL, |span| span.trace == trace).await.unwrap();
    let (root, forward) = (the(&spans, "edge", "GET shop.example/"), the(&spans, "edge", "forward"));
    assert!(root.parent.is_empty());
    // The trace's id is random, and that is said.
    assert_eq!(got(&answer, "traceparent"), Some(format!("00-{trace}-{}-03", forward.id)));
    assert_eq!(got(&answer, "b3"), Some(format!("{trace}-{}-1-{}", forward.id, root.id)));
    let several = ["x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"].map(|name| got(&answer, name).unwrap());
    assert_eq!(several, [forward.id.clone(), root.id.clone(), "1".to_owned()]);
    let metrics = Request::get("http://x/metrics").header("host", "localhost").header("accept", "application/openmetrics-text");
    let metrics = clients::once(edge.aralez.admin_address(), metrics.body(Bytes::new()).unwrap()).await.unwrap().text();
    assert!(metrics.contains(&format!("# {{trace_id=\"{trace}\"}} ")), "no exemplar of {trace} in {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_is_passed_on_in_the_form_it_came_in() {
    let collector = Collector::start().await.unwrap();
    let (edge, _app) = edge(&to(&collector, "")).await;
    let [single, several] = [fresh(), fresh()];
    let one = dump(&edge.http, &[("b3", &format!("{single}-{CALLER}-1"))]).await.unwrap();
    let fields = [("x-b3-traceid", &*several), ("x-b3-spanid", CALLER), ("x-b3-flags", "1")];
    let other = dump(&edge.http, &fields).await.unwrap();
    let forwarded = async |trace: &str| {
        let spans = collector.trace(8, ARRIVAL, |span| span.trace == trace).await.unwrap();
        let root = the(&spans, "edge", "GET shop.example/");
        assert_eq!(root.parent, CALLER);
        (root.id.clone(), the(&spans, "edge", "forward").id.clone())
    };
    let (root, forward) = forwarded(&single).await;
    assert_eq!(got(&one, "b3"), Some(format!("{single}-{forward}-1-{root}")));
    let (_, forward) = forwarded(&several).await;
    assert_eq!(got(&other, "x-b3-spanid"), Some(forward));
    assert_eq!((got(&other, "x-b3-traceid"), got(&other, "x-b3-flags").as_deref()), (Some(several), Some("1")));
    for (answer, absent) in [(&one, "traceparent"), (&one, "x-b3-traceid"), (&other, "b3"), (&other, "traceparent")] {
        assert_eq!(got(answer, absent), None, "{absent}");
    }
}

/// Has both sidecars send spans to the collector.
fn traced(mesh: &Mesh, collector: &Collector, sampling: &str) {
    for proxy in ["web-1-sidecar-proxy", "api-1-sidecar-proxy"] {
        mesh.agent.edit_registration(proxy, |service| {
            let config = service["Proxy"]["Config"].as_object_mut().unwrap();
            config.insert("aralez_tracing_endpoint".to_owned(), json!(collector.endpoint));
            config.insert("aralez_tracing_sampling".to_owned(), json!(sampling));
        });
    }
}

/// The spans of one request through both sidecars, each with its root, and what the app or the sidecar answered; `least` is how many there are.
async fn through_both(entry: &Address, collector: &Collector, least: usize) -> (Vec<Span>, Response) {
    // Both sidecars must have heard of the collector, and their connection must be a new one: each request is of another trace until that is so.
    let whole = eventually("a trace of both sidecars", ARRIVAL * 2, async || {
        let trace = fresh();
        let answer = dump(entry, &[("traceparent", &sampled(&trace))]).await?;
        let spans = collector.trace(least, Duration::from_secs(4), |span| span.trace == trace).await?;
        for service in ["web", "api"] {
            ensure!(spans.iter().any(|span| span.service == service && span.name == "record"), "{service} has sent nothing");
        }
        Ok((spans, answer))
    });
    whole.await.unwrap()
}

fn root<'a>(spans: &'a [Span], service: &str) -> &'a Span {
    spans.iter().find(|span| span.service == service && span.kind.as_str_name() == "SPAN_KIND_SERVER").unwrap()
}

/// That a trace goes from the caller by both sidecars to the app.
fn assert_chain(spans: &[Span], answer: &Response) {
    let (web, api) = (root(spans, "web"), root(spans, "api"));
    assert_eq!(web.parent, CALLER);
    assert_eq!(api.parent, the(spans, "web", "forward").id, "the caller's sidecar is above the callee's");
    let forward = the(spans, "api", "forward");
    assert_eq!((forward.parent.as_str(), answer.status), (api.id.as_str(), http::StatusCode::OK));
    assert_eq!(got(answer, "traceparent"), Some(format!("00-{}-{}-01", api.trace, forward.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_two_sidecars_is_one_trace() {
    let (mesh, collector) = (Mesh::start("http").await, Collector::start().await.unwrap());
    traced(&mesh, &collector, "0");
    let (spans, answer) = through_both(&mesh.entry, &collector, 13).await;
    assert_chain(&spans, &answer);
    let (web, api) = (root(&spans, "web"), root(&spans, "api"));
    let source = mesh.agent.signer().service_uri("web");
    assert_eq!((attribute(web, "aralez.direction"), attribute(api, "aralez.direction")), ("outbound", "inbound"));
    assert_eq!((attribute(api, "aralez.source"), attribute(web, "aralez.destination")), (source.as_str(), "api"));
    for (service, step) in [("web", "route"), ("web", "balance"), ("web", "connect"), ("api", "authorize"), ("api", "connect")] {
        the(&spans, service, step);
    }
    // The connection between the sidecars was made for the first request, be it sampled or not; a new leaf makes a new one.
    let secured = eventually("the steps of a connection", ARRIVAL * 2, async || {
        mesh.agent.reissue_leaf("web");
        let (spans, _) = through_both(&mesh.entry, &collector, 13).await;
        let steps = ["accept", "tls", "identify"].map(|step| spans.iter().find(|span| span.service == "api" && span.name == step));
        steps
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .context("the connection was there already")
            .map(|steps| steps.into_iter().cloned().collect())
    });
    let secured: Vec<Span> = secured.await.unwrap();
    assert!(secured.windows(2).all(|pair| pair[0].time.1 == pair[1].time.0), "{secured:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_says_so_and_why() {
    let (mesh, collector) = (Mesh::start("http").await, Collector::start().await.unwrap());
    mesh.agent.set_intentions("api", vec![intention("web", "api", "deny")]);
    traced(&mesh, &collector, "0");
    let denied = eventually("a denied request", ARRIVAL, async || {
        ensure!(dump(&mesh.entry, &[]).await?.status == 403);
        Ok(())
    });
    denied.await.unwrap();
    let (spans, answer) = through_both(&mesh.entry, &collector, 8).await;
    assert_eq!(answer.status, 403);
    let api = root(&spans, "api");
    assert_eq!((attribute(api, "aralez.flag"), attribute(api, "http.response.status_code")), ("UAEX", "403"));
    assert_eq!(attribute(api, "error.type"), attribute(api, "aralez.details"));
    assert!(api.error.as_ref().is_some_and(|why| why.contains("web")), "{api:#?}");
    assert!(the(&spans, "api", "authorize").error.is_some());
    // To the caller's sidecar an answer of 403 is an answer.
    assert_eq!(root(&spans, "web").error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_connection_is_one_span_with_its_steps() {
    let (agent, app) = (FakeAgent::start().await, tcp_echo().await.unwrap());
    let (mesh, collector) = (Mesh::around(agent, app, "tcp").await, Collector::start().await.unwrap());
    traced(&mesh, &collector, "1");
    let arrived = eventually("the span of a connection", ARRIVAL, async || {
        let mut stream = mesh.entry.connect().await?;
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut [0; 5]).await?;
        drop(stream);
        let spans = collector.spans();
        let root = spans.iter().find(|span| span.name == "tcp api" && span.service == "web").context("none")?.clone();
        Ok(spans.into_iter().filter(|span| span.trace == root.trace && span.id != root.id).collect::<Vec<_>>())
    });
    let steps = arrived.await.unwrap();
    for step in ["route", "balance", "connect", "forward", "record"] {
        the(&steps, "web", step);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_the_default_of_a_mesh_without_consul() {
    let (app, collector) = (http_echo("api").await.unwrap(), Collector::start().await.unwrap());
    let (folder, entry) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let file = folder.path().join("mesh.yaml");
    let mesh = format!(
        "services:\n  - {{name: web, protocol: http, demo_port: 0, upstreams: [{{destination: api, local_bind_port: {entry}}}]}}\n  \
         - {{name: api, protocol: http, port: {}}}\nintentions: [{{source: web, destination: api, action: allow}}]\n",
        port(&app.address)
    );
    std::fs::write(&file, mesh).unwrap();
    let _mesh = Launch::dev(&file).env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint).start().await;
    let (spans, answer) = through_both(&Address::port(entry), &collector, 13).await;
    assert_chain(&spans, &answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sampled_last_is_sent_before_the_end() {
    let collector = Collector::start().await.unwrap();
    let (mut edge, _app) = edge(&to(&collector, ", sampling: 1")).await;
    for _ in 0..20 {
        assert_eq!(dump(&edge.http, &[]).await.unwrap().status, 200);
    }
    edge.aralez.signal(Signal::TERM);
    assert!(edge.aralez.exit(ARRIVAL).await.success());
    let roots = collector.spans().into_iter().filter(|span| span.parent.is_empty()).count();
    assert_eq!(roots, 20);
}

/// That a reverse proxy whose collector is of no use answers as ever, tells of it once, counts what is lost, and ends in time.
async fn assert_unharmed(endpoint: &str) {
    let (mut edge, _app) = edge(&format!("tracing: {{endpoint: \"{endpoint}\", sampling: 1}}")).await;
    for _ in 0..2 {
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(dump(&edge.http, &[]).await.unwrap().status, 200);
            assert!(begun.elapsed() < PROMPT, "a request took {:?}", begun.elapsed());
        }
        let before = lost(&edge).await.unwrap();
        let counted = eventually("spans that are counted as dropped", ARRIVAL * 2, async || {
            let lost = lost(&edge).await?;
            ensure!(lost > before, "{lost} of them");
            Ok(())
        });
        counted.await.unwrap();
    }
    assert_eq!(edge.aralez.log().matches("the collector takes no spans").count(), 1);
    let begun = Instant::now();
    edge.aralez.signal(Signal::TERM);
    assert!(edge.aralez.exit(ARRIVAL).await.success());
    assert!(begun.elapsed() < ARRIVAL / 2, "it took {:?} to end", begun.elapsed());
}

/// How many spans were dropped.
async fn lost(edge: &Edge) -> Result<u64> {
    let text = edge.aralez.admin("/metrics").await?.text();
    let line = text.lines().find_map(|line| line.strip_prefix("aralez_trace_spans_dropped_total "));
    Ok(line.context("no such metric")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nobody() {
    assert_unharmed(&format!("http://127.0.0.1:{}", free_port().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_harms_nobody() {
    // The kernel takes the connections, and nobody ever answers.
    let (_silent, address) = Listener::loopback().await.unwrap();
    assert_unharmed(&format!("http://{address}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_are_told() {
    let app = http_echo("app").await.unwrap();
    let routes = format!("upstreams:\n  shop.example:\n    paths:\n      /: {{servers: [\"{}\"]}}\n", app.address);
    let told = Setup::new(&routes).main("tracing: {endpoint: \"otel:4317\", sampling: 2, propagate: xray}").refused();
    for part in
        ["\"otel:4317\" is no URL of a collector; write http://HOST:PORT", "a share (0 to 1", "\"xray\" is none of w3c, b3, b3multi"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}
