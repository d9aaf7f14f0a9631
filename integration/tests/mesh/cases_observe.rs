//! Consul's own acceptance cases of metrics and traces. Each test bears the name of its case. The metrics' names are Aralez' own;
//! the labels (tags) are those that Consul gives Envoy.

use anyhow::{Context, Result, ensure};
use aralez_integration::clients::{self, request};
use aralez_integration::datagrams::Datagrams;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Method};
use serde_json::json;

use crate::cases::{Case, EVENTUALLY, pair_with, ping, s1, service};

/// The label that names the public listener of `s1`.
const PUBLIC_LISTENER: &str = r#"listener="s1-sidecar-proxy/public""#;

/// The metrics at `path` of a listener of their own.
async fn metrics(address: &Address, path: &str) -> Result<String> {
    let answer = clients::get(address, path).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(answer.text())
}

/// The samples that have all of these labels.
fn samples<'a>(metrics: &'a str, labels: &[&str]) -> Vec<&'a str> {
    let has = |line: &&str| !line.starts_with('#') && labels.iter().all(|label| line.contains(label));
    metrics.lines().filter(has).collect()
}

/// One sample at least has all of these labels, and a name with `part` in it.
fn ensure_sample(metrics: &str, part: &str, labels: &[&str]) -> Result<()> {
    let named = |line: &&&str| line.split(['{', ' ']).next().is_some_and(|name| name.contains(part));
    let found = samples(metrics, labels).iter().find(named).map(drop);
    found.with_context(|| format!("none with {labels:?} among\n{}", samples(metrics, &[part]).join("\n")))
}

fn bind(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn case_centralconf() {
    let agent = Case::cluster().await;
    let (central, own) = (free_port().unwrap(), free_port().unwrap());
    let config = json!({"envoy_prometheus_bind_addr": bind(central)});
    agent.config_entry(json!({"Kind": "proxy-defaults", "Name": "global", "Config": config})).await.unwrap();
    for name in ["s1", "s2"] {
        agent.config_entry(json!({"Kind": "service-defaults", "Name": name, "Protocol": "http"})).await.unwrap();
    }
    let (s2, app) = service("s2", "s2").await;
    let s2 = s2.config("envoy_prometheus_bind_addr", bind(own));
    let case = Case::start(agent, s1().await, vec![(s2, app)]).await;
    case.echo_ok().await;

    eventually("metrics of s1", EVENTUALLY, async || {
        let metrics = metrics(&Address::port(central), "/metrics").await?;
        ensure_sample(&metrics, "requests_total", &[r#"consul_source_service="s1""#])?;
        ensure_sample(&metrics, "requests_total", &[r#"consul_source_service="s1""#, r#"consul_destination_service="s2""#])?;
        ensure_sample(&metrics, "requests_active", &[r#"consul_source_service="s1""#])
    })
    .await
    .unwrap();
    eventually("metrics of s2", EVENTUALLY, async || {
        ensure_sample(&metrics(&Address::port(own), "/metrics").await?, "requests_total", &[r#"consul_source_service="s2""#])
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_prometheus() {
    let port = free_port().unwrap();
    let case = pair_with(Case::cluster().await, "http", |s1| s1.config("envoy_prometheus_bind_addr", bind(port))).await;
    case.echo_ok().await;
    eventually("metrics", EVENTUALLY, async || {
        let metrics = metrics(&Address::port(port), "/metrics").await?;
        ensure_sample(&metrics, "requests_active", &[r#"consul_source_service="s1""#])?;
        ensure_sample(&metrics, "requests_active", &[PUBLIC_LISTENER, r#"consul_source_service="s1""#])
    })
    .await
    .unwrap();
    assert_eq!(clients::get(&Address::port(port), "/snapshot").await.unwrap().status, 404, "nothing else is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_stats_proxy() {
    let port = free_port().unwrap();
    let case = pair_with(Case::cluster().await, "http", |s1| s1.config("envoy_stats_bind_addr", bind(port))).await;
    case.echo_ok().await;
    let address = Address::port(port);
    eventually("metrics", EVENTUALLY, async || {
        for path in ["/stats", "/stats/prometheus"] {
            ensure_sample(&metrics(&address, path).await?, "requests_active", &[PUBLIC_LISTENER, r#"consul_source_service="s1""#])?;
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(clients::get(&address, "/snapshot").await.unwrap().status, 404, "nothing else is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_statsd_udp() {
    let statsd = Datagrams::bind().await.unwrap();
    let url = format!("udp://{}", statsd.address().unwrap());
    let case = pair_with(Case::cluster().await, "http", |s1| s1.config("envoy_statsd_url", url)).await;
    case.echo_ok().await;
    let line = statsd.line("a name that begins with envoy.", EVENTUALLY, |line| line.starts_with("envoy.")).await.unwrap();
    let (_, value) = line.split_once(':').unwrap();
    let (number, kind) = value.split_once('|').unwrap();
    assert!(number.parse::<f64>().is_ok() && ["c", "g", "ms"].contains(&kind), "{line}");
}

/// The tags of a dogstatsd line.
fn tags(line: &str) -> Vec<&str> {
    line.split_once("|#").map_or_else(Vec::new, |(_, tags)| tags.split(',').collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_dogstatsd_udp() {
    let statsd = Datagrams::bind().await.unwrap();
    let url = format!("udp://{}", statsd.address().unwrap());
    let case = pair_with(Case::cluster().await, "http", |s1| {
        s1.config("envoy_dogstatsd_url", url).config("envoy_stats_tags", json!(["foo=bar"])).config("envoy_stats_flush_interval", "1s")
    })
    .await;
    case.echo_ok().await;
    let tagged = |wanted: &'static [&'static str]| move |line: &str| wanted.iter().all(|tag| tags(line).contains(tag));
    statsd.line("the tags of s1", EVENTUALLY, tagged(&["local_cluster:s1", "foo:bar"])).await.unwrap();
    let upstream = |line: &str| tags(line).iter().any(|tag| tag.starts_with("consul.") && tag.ends_with(".service:s2"));
    statsd.line("the service s2", EVENTUALLY, upstream).await.unwrap();
}

/// `case-grpc`'s other half: calls are counted for each method.
#[tokio::test(flavor = "multi_thread")]
async fn case_grpc_dogstatsd() {
    let statsd = Datagrams::bind().await.unwrap();
    let url = format!("udp://{}", statsd.address().unwrap());
    let case = pair_with(Case::cluster().await, "grpc", |s1| {
        s1.config("envoy_dogstatsd_url", url).config("envoy_stats_tags", json!(["foo=bar"])).config("envoy_stats_flush_interval", "1s")
    })
    .await;
    eventually("a ping", EVENTUALLY, async || ping(&case.upstream()).await).await.unwrap();
    let counted = |line: &str| line.contains("PingServer") && line.contains("Ping") && tags(line).contains(&"local_cluster:s1");
    statsd.line("the method fgrpc.PingServer/Ping", EVENTUALLY, counted).await.unwrap();
}

/// The part of the case that is ours: sidecars with the keys of Envoy's tracing serve, and pass trace context on unharmed. They make
/// no spans, so nothing reaches a collector.
#[tokio::test(flavor = "multi_thread")]
async fn case_zipkin() {
    let tracing = json!({"http": {"name": "envoy.tracers.zipkin", "typedConfig": {"collector_cluster": "zipkin"}}}).to_string();
    let case = pair_with(Case::cluster().await, "http", |s1| s1.config("envoy_tracing_json", tracing)).await;
    case.echo_ok().await;
    let context = [
        ("x-client-trace-id", "test-sentinel"),
        ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
        ("x-b3-spanid", "a2fb4a1d1a96d312"),
        ("x-b3-sampled", "1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=value"),
    ];
    let mut call = request(Method::GET, "/debug?env=dump", "").unwrap();
    for (name, value) in context {
        call.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let dump = clients::once(&case.upstream(), call).await.unwrap().text().to_ascii_lowercase();
    for (name, value) in context {
        assert!(dump.contains(&format!("\n{name}: {value}\n")), "{name} in {dump}");
    }
    assert!(dump.contains("\nx-request-id: "), "{dump}");
}
