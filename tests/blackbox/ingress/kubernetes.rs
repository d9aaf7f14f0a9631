//! Kubernetes, with an API server of the test's own.

use std::time::{Duration, Instant};

use anyhow::ensure;
use aralez_integration::{
    apps::{App, http_echo},
    net::Address,
    wait::{eventually, steadily},
    web_pki::{self, WebCa},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Edge, Setup};
use crate::support::api_server::{ApiServer, Fault, PROMISED};

/// In which something must have happened, on a crowded machine.
const LIMIT: Duration = Duration::from_secs(30);

const UPSTREAMS: &str =
    "provider: kubernetes\nkubernetes: {kubeconfig: kubeconfig, status_address: [192.0.2.7, edge.example]}\nhealthcheck: false\n";

fn port(app: &App) -> u16 {
    let Address::Tcp(address) = &app.address else { panic!("{}", app.address) };
    address.port()
}

/// The EndpointSlice of a Service with these servers behind its port `http`.
fn slice(service: &str, apps: &[&App]) -> Value {
    let endpoint = json!({"addresses": ["127.0.0.1"], "conditions": {"ready": true}});
    let slice = apps.first().map(|app| json!({"name": "http", "port": port(app), "protocol": "TCP"}));
    json!({"metadata": {"name": format!("{service}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": slice.iter().collect::<Vec<_>>(), "endpoints": slice.iter().map(|_| &endpoint).collect::<Vec<_>>()})
}

fn ingress(name: &str, host: &str, service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"name": "http"}}});
    json!({"metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"ingressClassName": "edge",
        "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}})
}

fn secret(pair: &web_pki::Pair) -> Value {
    let data = |text: &str| BASE64_STANDARD.encode(text);
    json!({"metadata": {"name": "tls", "namespace": "shop"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": data(&pair.crt), "tls.key": data(&pair.key)}})
}

/// A cluster with our class, a Service `web` of this app, and an Ingress of `a.test` to it.
async fn cluster(app: &App) -> ApiServer {
    let server = ApiServer::start().await;
    server.put("ingressclasses", json!({"metadata": {"name": "edge"}, "spec": {"controller": "aralez/ingress-controller"}}));
    server.put("services", json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"name": "http", "port": 80}]}}));
    server.put("endpointslices", slice("web", &[app]));
    server.put("ingresses", ingress("one", "a.test", "web"));
    server
}

async fn app_of(edge: &Edge, host: &str) -> anyhow::Result<String> {
    let answer = edge.get(host, "/").await;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(answer.headers["x-app"].to_str()?.to_owned())
}

/// Waits until a host is served by this app; gives how long that took.
async fn served(edge: &Edge, host: &str, app: &str) -> Duration {
    let began = Instant::now();
    eventually(&format!("{host} by {app}"), LIMIT, async || {
        let now = app_of(edge, host).await?;
        ensure!(now == app, "{now}");
        Ok(())
    })
    .await
    .unwrap();
    began.elapsed()
}

/// Waits until the watch has this error; `""` is none.
async fn watch_says(edge: &Edge, watch: &str, part: &str) {
    eventually(&format!("{watch} to say {part:?}"), LIMIT, async || {
        let all: Vec<Value> = serde_json::from_str(&edge.aralez.admin("/watches").await?.text())?;
        let state = all.iter().find(|state| state["name"] == watch).cloned().unwrap_or_default();
        let fits = match state["last_error"].as_str() {
            Some(error) => !part.is_empty() && error.contains(part),
            None => part.is_empty() && state["last_success"].is_string(),
        };
        ensure!(fits, "{all:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn ingresses_are_routes_that_follow_endpoints() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let server = cluster(&one).await;
    let file = format!(
        "{UPSTREAMS}upstreams:\n  file.test:\n    paths:\n      /: {{servers: [\"{}\"]}}\n      /named: {{kubernetes: {{service: web, namespace: shop, port: 80}}}}\n",
        two.address
    );
    let edge = Setup::new(&file).file("kubeconfig", server.kubeconfig()).start().await;
    assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
    assert_eq!(app_of(&edge, "file.test").await.unwrap(), "two");
    assert_eq!(edge.get("file.test", "/named").await.headers["x-app"], "one");
    assert_eq!(edge.get("b.test", "/").await.status, 404);
    let addresses = json!([{"ip": "192.0.2.7"}, {"hostname": "edge.example"}]);
    eventually("the status", LIMIT, async || {
        let ingress = server.get("ingresses", "shop/one");
        ensure!(ingress["status"]["loadBalancer"]["ingress"] == addresses, "{ingress}");
        Ok(())
    })
    .await
    .unwrap();

    server.put("endpointslices", slice("web", &[&two]));
    let took = served(&edge, "a.test", "two").await;
    println!("endpoints reached traffic in {took:?}");
    assert!(took < PROMISED, "{took:?}");

    // A Service without endpoints, and none at all.
    server.put("endpointslices", slice("web", &[]));
    server.put("ingresses", ingress("two", "b.test", "absent"));
    for host in ["a.test", "b.test"] {
        eventually(host, LIMIT, async || {
            let status = edge.get(host, "/").await.status;
            ensure!(status == 503, "{status}");
            Ok(())
        })
        .await
        .unwrap();
    }
    let snapshot = edge.aralez.admin("/snapshot").await.unwrap().text();
    assert!(snapshot.contains("there is no Service absent in namespace shop"), "{snapshot}");
    assert_eq!(app_of(&edge, "file.test").await.unwrap(), "two");
}

#[tokio::test]
async fn what_was_known_stays_while_the_api_server_fails() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let server = cluster(&one).await;
    let edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).start().await;
    let slices = "kubernetes endpointslices";

    // A cut watch goes on from where it was.
    let lists = server.lists("endpointslices");
    server.cut();
    server.put("endpointslices", slice("web", &[&two]));
    served(&edge, "a.test", "two").await;
    assert_eq!(server.lists("endpointslices"), lists);

    for (fault, words) in [(Fault::Status(500), "500"), (Fault::Status(403), "403: the test says so")] {
        server.fail("", Some(fault));
        server.cut();
        watch_says(&edge, slices, words).await;
        watch_says(&edge, "kubernetes ingresses", words).await;
        steadily(Duration::from_secs(1), async || {
            ensure!(app_of(&edge, "a.test").await? == "two");
            Ok(())
        })
        .await
        .unwrap();
        server.fail("", None);
        watch_says(&edge, slices, "").await;
    }
    let failures = edge.aralez.admin("/metrics").await.unwrap().text();
    assert!(failures.contains("aralez_watch_failures{watch=\"kubernetes endpointslices\"} 0"), "{failures}");

    // 410: listed anew; the list is slow, and what was known serves on.
    server.compact();
    server.fail("endpointslices", Some(Fault::Silence));
    server.cut();
    server.put("endpointslices", slice("web", &[&one]));
    server.fail("ingresses", Some(Fault::Status(500)));
    steadily(Duration::from_secs(1), async || {
        ensure!(app_of(&edge, "a.test").await? == "two");
        Ok(())
    })
    .await
    .unwrap();
    server.fail("endpointslices", None);
    server.fail("ingresses", None);
    // The silent request is given up after half a minute.
    let limit = Duration::from_secs(90);
    eventually("a new list", limit, async || {
        ensure!(app_of(&edge, "a.test").await? == "one");
        ensure!(server.lists("endpointslices") > lists);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn nothing_is_served_before_everything_was_read() {
    let one = http_echo("one").await.unwrap();
    let server = cluster(&one).await;
    server.fail("secrets", Some(Fault::Status(403)));
    let mut edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).spawn();
    edge.aralez.not_ready_for(&["routes"]).await;
    watch_says(&edge, "kubernetes secrets", "403").await;
    server.fail("secrets", None);
    edge.aralez.ready().await;
    assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
}

#[tokio::test]
async fn certificates_come_from_secrets_and_rotate() {
    let one = http_echo("one").await.unwrap();
    let server = cluster(&one).await;
    let ca = WebCa::new();
    let (first, second) = (ca.issue(&["a.test"]), ca.issue(&["a.test"]));
    let mut with_tls = ingress("one", "a.test", "web");
    with_tls["spec"]["tls"] = json!([{"hosts": ["a.test"], "secretName": "tls"}]);
    server.put("ingresses", with_tls);
    server.put("secrets", secret(&first));
    // The folder may be empty.
    let edge = Setup::new(UPSTREAMS).tls().file("certs/.keep", "").file("kubeconfig", server.kubeconfig()).start().await;
    let shown = async |wanted: &web_pki::Pair| {
        eventually("the certificate", LIMIT, async || {
            let shown = web_pki::shown(&edge.tls, "a.test").await?.to_pem()?;
            ensure!(wanted.crt.starts_with(std::str::from_utf8(&shown)?), "another certificate");
            Ok(())
        })
        .await
        .unwrap();
    };
    shown(&first).await;
    server.put("secrets", secret(&second));
    shown(&second).await;
    // One that cannot be used changes nothing, and is told.
    let mut broken = secret(&first);
    broken["data"]["tls.key"] = "eA==".into();
    server.put("secrets", broken);
    eventually("the problem", LIMIT, async || {
        let snapshot = edge.aralez.admin("/snapshot").await?.text();
        ensure!(snapshot.contains("Secret shop/tls"), "{snapshot}");
        Ok(())
    })
    .await
    .unwrap();
    shown(&second).await;
}
