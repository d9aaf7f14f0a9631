//! Dashboards, alert rules and the list of metrics in the documentation say what is there: a mesh and a reverse proxy with traffic show it.

mod promql;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::ensure;
use aralez_integration::apps::{App, http_echo, tcp_echo};
use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use self::promql::{Selector, selectors};
use crate::ingress::{Edge, Setup};
use crate::support::api_server::ApiServer;
use crate::support::fake_agent::{FakeAgent, intention};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY};
use crate::support::raw::read_until;

/// The labels that Prometheus adds by itself.
const SCRAPED: [&str; 2] = ["instance", "job"];

/// What Consul 1.20.1's `consulservicedashboard.json`, `consulservicetoservicedashboard.json`, `consuldataplanedashboard.json` and its UI ask of
/// sidecars, without what Kubernetes' scrapes add (`app`, `service`, `namespace`) and what only Envoy has (its heap, buffers, uptime).
const CONSULS: &str = include_str!("consul.promql");

/// The series of an exposition: by name the labels that stand together.
#[derive(Debug, Default)]
struct Shown(BTreeMap<String, Vec<BTreeMap<String, String>>>);

impl Shown {
    fn read(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let end = line.find(['{', ' ']).unwrap();
            let (name, rest) = line.split_at(end);
            let mut labels = BTreeMap::new();
            let mut rest = rest.strip_prefix('{').unwrap_or_default();
            while let Some((label, after)) = rest.split_once("=\"") {
                let end = after.match_indices('"').find(|(at, _)| !after[..*at].ends_with('\\')).unwrap().0;
                labels.insert(label.to_owned(), after[..end].to_owned());
                rest = after[end + 1..].trim_start_matches(',');
            }
            self.0.entry(name.to_owned()).or_default().push(labels);
        }
    }

    /// What is missing for a query to have an answer.
    fn missing(&self, query: &str) -> Vec<String> {
        let lacks = |selector: &Selector| {
            let fits = |series: &BTreeMap<String, String>| {
                let has = |label: &String| SCRAPED.contains(&label.as_str()) || series.contains_key(label);
                selector.labels.iter().all(has) && selector.values.iter().all(|(label, value)| series.get(label) == Some(value))
            };
            !self.0.get(&selector.name).is_some_and(|all| all.iter().any(fits))
        };
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{query} asks for nothing");
        selectors.iter().filter(|selector| lacks(selector)).map(|lacking| format!("{lacking:?} of {query}")).collect()
    }
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

async fn metrics(address: &Address) -> String {
    clients::get(address, "/metrics").await.unwrap().text()
}

/// A mesh whose sidecars show Envoy's series on addresses of their own; the addresses.
async fn mesh(protocol: &'static str) -> (Mesh, [Address; 2]) {
    let app: App = if protocol == "tcp" { tcp_echo().await } else { http_echo("api-1").await }.unwrap();
    let mesh = Mesh::around(FakeAgent::start().await, app, protocol).await;
    let outlets = ["api-1-sidecar-proxy", "web-1-sidecar-proxy"].map(|proxy| {
        let port = free_port().unwrap();
        mesh.agent.edit_registration(proxy, |service| {
            let settings = json!({"envoy_prometheus_bind_addr": format!("127.0.0.1:{port}"), "aralez_metrics_compat": "envoy"});
            service["Proxy"]["Config"].as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        });
        Address::port(port)
    });
    (mesh, outlets)
}

/// A reverse proxy with a server that answers, one that is never there, and one that fails its health checks; and a cluster that has gone since.
async fn edge() -> Edge {
    let cluster = ApiServer::start().await;
    let app = http_echo("shop").await.unwrap();
    let (dead, sick) = (free_port().unwrap(), free_port().unwrap());
    let routes = format!(
        "provider: kubernetes\nkubernetes: {{kubeconfig: kubeconfig}}\nupstreams:\n  shop.example:\n    paths:\n      /: {{servers: ['127.0.0.1:{dead}', '{}'], retries: {{attempts: 2}}, healthcheck: false}}\n      \
         /sick: {{servers: ['127.0.0.1:{sick}'], healthcheck: true}}\n",
        app.address
    );
    let setup = Setup::new(&routes).file("kubeconfig", cluster.kubeconfig());
    let edge = setup.main("hc_interval: 1\nmetrics: {compat: envoy}").start().await;
    let tried = eventually("a request that is tried again", RECOVERY, async || {
        edge.get("shop.example", "/").await;
        edge.get("shop.example", "/sick").await;
        let text = metrics(edge.aralez.admin_address()).await;
        ensure!(
            ["aralez_retries_total{", "aralez_upstream_ejections_total{", "code_class=\"5xx\"", "aralez_server_healthy{"]
                .iter()
                .all(|part| text.contains(part)),
            "{text}"
        );
        Ok(())
    });
    tried.await.unwrap();
    edge
}

/// Everything that is shown by two meshes and a reverse proxy to which everything has happened once.
async fn everything() -> Shown {
    let mut shown = Shown::default();
    let (http, outlets) = mesh("http").await;
    let settled = eventually("the sidecars' metrics with traffic, a refusal and a failed handshake", RECOVERY, async || {
        http.answering().await?;
        let mut stranger = http.public.connect().await?;
        stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let text = metrics(http.api.admin_address()).await;
        ensure!(text.contains("aralez_tls_failures_total{"), "{text}");
        for outlet in &outlets {
            ensure!(clients::get(outlet, "/metrics").await?.text().contains("envoy_cluster_upstream_rq_total{"));
        }
        Ok(())
    });
    settled.await.unwrap();
    http.app.answer_next([500]);
    assert_eq!(clients::get(&http.entry, "/").await.unwrap().status, 500);
    http.agent.set_intentions("api", vec![intention("web", "api", "deny")]);
    let denied = eventually("a refusal", EFFECT, async || {
        ensure!(clients::get(&http.entry, "/").await?.status == 403);
        Ok(())
    });
    denied.await.unwrap();
    let (tcp, tcp_outlets) = mesh("tcp").await;
    let tunnelled = eventually("a tunnel's series", RECOVERY, async || {
        let mut tunnel = tcp.entry.connect().await?;
        tunnel.write_all(b"ping").await?;
        read_until(&mut tunnel, b"ping").await?;
        drop(tunnel);
        for outlet in &tcp_outlets {
            ensure!(clients::get(outlet, "/metrics").await?.text().contains("aralez_tcp_connections_total{"));
        }
        Ok(())
    });
    tunnelled.await.unwrap();
    let edge = edge().await;
    let admins = [&http.api, &http.web, &tcp.api, &tcp.web, &edge.aralez].map(|aralez| aralez.admin_address());
    for address in admins.into_iter().chain(&outlets).chain(&tcp_outlets) {
        shown.read(&metrics(address).await);
    }
    shown
}

/// The values of these keys, however deep.
fn texts<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| match value {
            Value::String(text) if keys.contains(&key.as_str()) => found.push(text),
            value => texts(value, keys, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

/// The queries of our dashboards and of the questions that fill their lists.
fn dashboards() -> Vec<String> {
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(file("examples/monitoring/dashboards")).unwrap() {
        let dashboard: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let mut found = Vec::new();
        texts(&dashboard, &["expr", "definition"], &mut found);
        queries.extend(found.into_iter().map(|text| match text.strip_prefix("label_values(").and_then(|text| text.strip_suffix(')')) {
            // `label_values(series, label)` asks for the label of the series.
            Some(asked) => asked.rsplit_once(", ").map(|(series, label)| format!("count by ({label}) ({series})")).unwrap(),
            None => text.to_owned(),
        }));
    }
    queries
}

/// The queries of our alert rules: what follows `expr:`, on its line or below it.
fn alerts() -> Vec<String> {
    let text = std::fs::read_to_string(file("examples/monitoring/alerts.yaml")).unwrap();
    let rules = text.split("- alert: ").skip(1);
    let expression = |rule: &str| {
        let (_, after) = rule.split_once("expr: ").unwrap();
        let lines = after.lines().take_while(|line| !["for:", "labels:"].iter().any(|key| line.trim_start().starts_with(key)));
        lines.map(|line| line.trim_start_matches('|')).collect::<Vec<_>>().join(" ")
    };
    rules.map(expression).collect()
}

/// The names in the documentation's tables of metrics: the first cell of each row of those that begin with `| metric |`.
fn documented() -> BTreeSet<String> {
    let pages = ["docs/observability.md", "docs/reference/metrics.md"].map(|page| std::fs::read_to_string(file(page)).unwrap());
    let tables = pages.iter().flat_map(|page| page.split("\n| metric |").skip(1));
    let rows = tables.flat_map(|table| table.lines().skip(1).take_while(|line| line.starts_with('|')));
    let names = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_and_every_row_of_the_documentation_has_its_series() {
    let shown = everything().await;
    let (ours, alerts) = (dashboards(), alerts());
    let consuls: Vec<String> = CONSULS.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    assert!(ours.len() > 30 && alerts.len() > 8 && consuls.len() > 15);
    let missing: Vec<String> = [ours, alerts, consuls].concat().iter().flat_map(|query| shown.missing(query)).collect();
    assert!(missing.is_empty(), "no series for:\n{}\namong {:#?}", missing.join("\n"), shown.0.keys());
    let family = |name: &String| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        base.filter(|base| shown.0.contains_key(&format!("{base}_bucket"))).unwrap_or(name).to_owned()
    };
    let there: BTreeSet<String> = shown.0.keys().map(family).collect();
    let documented = documented();
    let silent: Vec<&String> = there.difference(&documented).collect();
    let absent: Vec<&String> = documented.difference(&there).filter(|name| *name != "aralez_grpc_requests_total").collect();
    assert!(silent.is_empty() && absent.is_empty(), "not in the documentation: {silent:?}; only there: {absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_comes_to_those_who_ask_and_names_the_trace() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let edge = edge().await;
    let request = Request::get("http://x/").header("host", "shop.example").header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    edge.send(request.body(Bytes::new()).unwrap()).await;
    for address in [edge.aralez.admin_address(), &edge.api] {
        let asked = Request::get("http://x/metrics").header("host", "localhost");
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        let answer = clients::once(address, asked.header("accept", accept).body(Bytes::new()).unwrap()).await.unwrap();
        assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let text = answer.text();
        assert!(text.ends_with("\n# EOF\n") && text.contains(&format!("# {{trace_id=\"{trace}\"}} ")), "{text}");
        let plain = clients::get(address, "/metrics").await.unwrap();
        assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        assert!(!plain.text().contains(trace));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_series_are_shown_only_where_a_key_asks_for_them() {
    const SERIES: &str = "\nenvoy_http_downstream_rq_total{";
    let app = http_echo("shop").await.unwrap();
    let routes =
        format!("provider: file\nupstreams: {{shop.example: {{paths: {{/: {{servers: ['{}'], healthcheck: false}}}}}}}}\n", app.address);
    for (key, shown) in [("metrics: {compat: envoy}", true), ("", false)] {
        let edge = Setup::new(&routes).main(key).start().await;
        assert_eq!(edge.get("shop.example", "/").await.status, 200);
        // A request is counted at its very end, which the client does not wait for.
        let counted = eventually("a request that is counted", RECOVERY, async || {
            ensure!(metrics(edge.aralez.admin_address()).await.contains("\naralez_requests_total{"));
            Ok(())
        });
        counted.await.unwrap();
        for address in [edge.aralez.admin_address(), &edge.api] {
            assert_eq!(metrics(address).await.contains(SERIES), shown, "{key}");
        }
    }
    let (mesh, outlets) = mesh("http").await;
    for (compat, shown) in [(json!("envoy"), true), (Value::Null, false)] {
        mesh.agent.edit_registration("web-1-sidecar-proxy", |service| service["Proxy"]["Config"]["aralez_metrics_compat"] = compat.clone());
        let what = format!("{compat} at the sidecar");
        let follows = eventually(&what, RECOVERY, async || {
            mesh.answering().await?;
            let text = clients::get(&outlets[1], "/metrics").await?.text();
            ensure!(text.contains("aralez_requests_total{") && text.contains(SERIES) == shown, "{text}");
            Ok(())
        });
        follows.await.unwrap();
        assert!(!metrics(mesh.web.admin_address()).await.contains(SERIES));
    }
}
