//! Kubernetes, with an API server of the test's own.

use std::{
    fs,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::ensure;
use aralez_integration::{
    apps::{App, http_echo},
    net::Address,
    wait::{eventually, steadily},
    web_pki::{self, WebCa},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::time::interval;

use super::{Edge, Setup, push};
use crate::{
    ask::ask,
    support::{
        api_server::{ApiServer, Fault, PROMISED},
        sidecar::aralez,
    },
};

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

    // An Ingress that is given to somebody else no longer says that it is reached here.
    let mut given = server.get("ingresses", "shop/one");
    given["spec"]["ingressClassName"] = "other".into();
    server.put("ingresses", given);
    eventually("no status", LIMIT, async || {
        let ingress = server.get("ingresses", "shop/one");
        ensure!(ingress["status"]["loadBalancer"]["ingress"] == json!([]), "{ingress}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(edge.get("a.test", "/").await.status, 404);
}

#[tokio::test]
async fn two_with_other_addresses_do_not_race_for_the_status() {
    let one = http_echo("one").await.unwrap();
    let server = cluster(&one).await;
    let began = Instant::now();
    let first = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).start().await;
    let second = Setup::new(&UPSTREAMS.replace("192.0.2.7", "192.0.2.8")).file("kubeconfig", server.kubeconfig()).start().await;
    eventually("both to write", LIMIT, async || {
        ensure!(server.patches("shop/one") >= 2);
        Ok(())
    })
    .await
    .unwrap();
    steadily(Duration::from_secs(3), async || {
        // Each at first, then every ten seconds.
        let (patches, most) = (server.patches("shop/one"), 2 * (1 + began.elapsed().as_secs() / 10));
        ensure!(u64::from(patches) <= most, "{patches} > {most}");
        Ok(())
    })
    .await
    .unwrap();
    for edge in [first, second] {
        assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
    }
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
    server.fail("secrets", Some(Fault::Status(500)));
    let mut edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).spawn();
    edge.aralez.not_ready_for(&["routes", "kubernetes secrets"]).await;
    watch_says(&edge, "kubernetes secrets", "500").await;
    server.fail("secrets", None);
    edge.aralez.ready().await;
    assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
}

#[tokio::test]
async fn a_right_that_lacks_is_told_and_holds_back_ingresses_alone() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let server = cluster(&one).await;
    server.fail("secrets", Some(Fault::Status(403)));
    let file = format!(
        "{UPSTREAMS}upstreams:\n  file.test:\n    paths:\n      /: {{servers: [\"{}\"]}}\n      /named: {{kubernetes: {{service: web, namespace: shop}}}}\n",
        two.address
    );
    let mut edge = Setup::new(&file).file("kubeconfig", server.kubeconfig()).spawn();
    eventually("the route of the file", LIMIT, async || {
        edge.http.connect().await?;
        ensure!(app_of(&edge, "file.test").await? == "two");
        ensure!(edge.get("file.test", "/named").await.headers.get("x-app").is_some_and(|app| app == "one"));
        let missing = edge.aralez.not_ready_for(&["ingress: kubernetes secrets"]).await;
        ensure!(!missing.contains("services"), "{missing}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(edge.get("a.test", "/").await.status, 404);
    let (code, out, _) = ask("status", edge.aralez.admin_address(), &[]).await;
    assert!(
        code == Some(1) && out.contains("problem  ingress: kubernetes secrets: 403: the test says so; give the account this right"),
        "{out}"
    );

    // Once there were Ingresses, they stay.
    server.fail("secrets", None);
    edge.aralez.ready().await;
    served(&edge, "a.test", "one").await;
    server.fail("secrets", Some(Fault::Status(403)));
    server.compact();
    server.cut();
    watch_says(&edge, "kubernetes secrets", "403").await;
    assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
    edge.aralez.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_listed_but_not_watched_is_not_known() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let server = cluster(&one).await;
    server.fail("watch ingresses", Some(Fault::Status(403)));
    let mut edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).spawn();
    edge.aralez.not_ready_for(&["ingress: kubernetes ingresses"]).await;
    assert_eq!(edge.get("a.test", "/").await.status, 404);
    let (code, _, told) = check(&edge.path("main.yaml"), &["-cluster"]).await;
    assert_eq!((code, &*told), (Some(1), "kubernetes ingresses: 403: the test says so; a start waits for it\n"));
    server.fail("watch ingresses", None);
    edge.aralez.ready().await;
    served(&edge, "a.test", "one").await;
    // What was followed once stays.
    server.fail("watch ingresses", Some(Fault::Status(403)));
    server.cut();
    watch_says(&edge, "kubernetes ingresses", "403").await;
    server.put("endpointslices", slice("web", &[&two]));
    served(&edge, "a.test", "two").await;
    edge.aralez.ready().await;
}

#[tokio::test]
async fn credentials_and_a_ca_that_are_replaced_are_read_anew() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let server = cluster(&one).await;
    let [first, second] = [WebCa::new(), WebCa::new()];
    server.guard(&first.issue(&["127.0.0.1"]), "early");
    let edge = Setup::new(UPSTREAMS).file("kubeconfig", server.guarded_kubeconfig(&first.root_pem(), "early")).start().await;
    assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
    for (ca, token, words, (name, app)) in
        [(&first, "late", "401: the test says so", ("two", &two)), (&second, "late", "certificate", ("one", &one))]
    {
        server.guard(&ca.issue(&["127.0.0.1"]), token);
        server.cut();
        server.put("endpointslices", slice("web", &[app]));
        watch_says(&edge, "kubernetes endpointslices", words).await;
        fs::write(edge.path("kubeconfig"), server.guarded_kubeconfig(&ca.root_pem(), token)).unwrap();
        eventually(token, 3 * LIMIT, async || {
            let now = app_of(&edge, "a.test").await?;
            ensure!(now == name, "{now}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingresses_that_come_together_are_looked_at_together() {
    const MANY: usize = 200;
    let one = http_echo("one").await.unwrap();
    let server = cluster(&one).await;
    let quiet = UPSTREAMS.replace(", status_address: [192.0.2.7, edge.example]", "");
    let began = Instant::now();
    let edge = Setup::new(&quiet).file("kubeconfig", server.kubeconfig()).start().await;
    let mut pace = interval(Duration::from_millis(5));
    for n in 0..MANY {
        pace.tick().await;
        server.put("ingresses", ingress(&format!("n{n}"), &format!("n{n}.test"), "web"));
    }
    served(&edge, &format!("n{}.test", MANY - 1), "one").await;
    let (looks, took) = (edge.aralez.log().matches("looked at the Ingresses").count(), began.elapsed());
    println!("{MANY} Ingresses in {took:?}, {looks} looks");
    // One in 50 ms at the most, and the first.
    assert!(looks as u128 <= 1 + took.as_millis() / 50, "{looks}");
}

#[tokio::test]
async fn a_change_of_the_cluster_alone_is_told_and_turns_to_it() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let (server, other) = (cluster(&one).await, cluster(&two).await);
    let edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).file("other", other.kubeconfig()).start().await;
    let changed = UPSTREAMS.replace("kubeconfig: kubeconfig", "kubeconfig: other").replace(", edge.example", "");
    let told = push(&edge, "?dry_run", &changed).await.text();
    let changes = ["kubernetes.kubeconfig: kubeconfig -> other", "kubernetes.status_address: edge.example removed"];
    assert!(changes.iter().all(|change| told.contains(&format!("would change: {change}\n"))), "{told}");
    // Nothing of the new cluster is known yet: the old routes stay until all is.
    other.fail("services", Some(Fault::Status(500)));
    assert_eq!(push(&edge, "", &changed).await.status, 200);
    edge.aralez.logged(&changes.join("; "), LIMIT).await;
    eventually("a list that fails", LIMIT, async || {
        let watches = edge.aralez.admin("/watches").await?.text();
        ensure!(watches.contains("500: the test says so"), "{watches}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
    other.fail("services", None);
    served(&edge, "a.test", "two").await;
}

/// How many snapshots there were.
async fn generation(edge: &Edge) -> u64 {
    let status: Value = serde_json::from_str(&edge.aralez.admin("/status.json").await.unwrap().text()).unwrap();
    status["configuration"]["generation"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_a_thousand_endpoints_is_few_snapshots() {
    const MANY: usize = 1000;
    let one = http_echo("one").await.unwrap();
    let server = cluster(&one).await;
    server.put("services", json!({"metadata": {"name": "big", "namespace": "shop"}, "spec": {"ports": [{"name": "http", "port": 80}]}}));
    server.put("ingresses", ingress("big", "big.test", "big"));
    let edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).start().await;
    let before = generation(&edge).await;
    let began = Instant::now();
    for n in 0..MANY {
        let mut more = slice("big", &[&one]);
        more["metadata"]["name"] = format!("big-{n}").into();
        more["endpoints"][0]["addresses"] = json!([format!("127.1.{}.{}", n / 250, n % 250 + 1)]);
        server.put("endpointslices", more);
    }
    let known = eventually("all endpoints", 3 * LIMIT, async || {
        assert_eq!(app_of(&edge, "a.test").await.unwrap(), "one");
        let clusters: Vec<Value> = serde_json::from_str(&edge.aralez.admin("/clusters").await?.text())?;
        let big =
            clusters.iter().find(|cluster| cluster["name"] == "big.test/").map_or(0, |big| big["endpoints"].as_array().unwrap().len());
        ensure!(big == MANY, "{big}");
        Ok(())
    });
    known.await.unwrap();
    let snapshots = generation(&edge).await - before;
    println!("{MANY} endpoints in {:?}, {snapshots} snapshots", began.elapsed());
    assert!(snapshots < MANY as u64 / 5, "{snapshots}");
}

/// `aralez check`: exit code, standard output, standard error.
async fn check(main: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = aralez();
    command.env("HOME", "/nonexistent").env_remove("KUBECONFIG").arg("check").arg("-c").arg(main).args(more);
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_told_by_status_and_by_check() {
    let one = http_echo("one").await.unwrap();
    let server = cluster(&one).await;
    server.put("ingresses", ingress("late", "a.test", "web"));
    server.put("ingresses", ingress("lost", "b.test", "absent"));
    let edge = Setup::new(UPSTREAMS).file("kubeconfig", server.kubeconfig()).start().await;
    let twice = "Ingress shop/one: the path / of host a.test belongs to Ingress shop/late; keep one of them";
    let absent = "there is no Service absent in namespace shop";
    eventually("status", LIMIT, async || {
        let (code, out, _) = ask("status", edge.aralez.admin_address(), &[]).await;
        let wanted = ["watch    kubernetes endpointslices  answers", &format!("problem  ingress: {twice}"), absent];
        ensure!(code == Some(0) && wanted.iter().all(|part| out.contains(part)), "{out}");
        Ok(())
    })
    .await
    .unwrap();
    let status = edge.aralez.admin("/status.json").await.unwrap().text();
    assert!(status.contains("kubernetes ingresses") && status.contains(absent), "{status}");

    let main = edge.path("main.yaml");
    let (code, out, told) = check(&main, &["-cluster"]).await;
    assert_eq!((code, &*out), (Some(1), "route a.test/: Service shop/web, 1 endpoints\n"), "{told}");
    assert_eq!(told, format!("{twice}\nroute b.test/: {absent}; see to the Service and its ports; until then it is answered with 503\n"));
    server.fail("status", Some(Fault::Status(403)));
    let (code, _, more) = check(&main, &["-cluster"]).await;
    let lacks = "warning: kubernetes status: the account cannot patch resource \"ingresses/status\" in API group \"networking.k8s.io\" at the cluster scope; \
        give it this right; until then status_address is not written";
    assert!(code == Some(1) && more.lines().any(|line| line == lacks) && more.ends_with(&told), "{more}");
    server.fail("secrets", Some(Fault::Status(403)));
    let (code, out, told) = check(&main, &["-cluster", "-format=json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["findings"][0]["path"], &*told), (Some(1), &json!("kubernetes secrets"), ""), "{out}");
    // Without the flag nothing is asked; that there is no way to the cluster is a warning.
    assert_eq!(check(&main, &[]).await, (Some(0), String::new(), String::new()));
    fs::remove_file(edge.path("kubeconfig")).unwrap();
    let (code, _, told) = check(&main, &[]).await;
    assert!(code == Some(0) && told.starts_with("warning: ") && told.contains("upstreams.yaml: from here the cluster"), "{told}");
    fs::write(edge.path("upstreams.yaml"), "provider: kubernetes\n").unwrap();
    let (code, _, told) = check(&main, &[]).await;
    assert!(code == Some(0) && told.contains("in-cluster"), "{told}");
    fs::write(edge.path("upstreams.yaml"), "provider: file\nupstreams: {}\n").unwrap();
    let (code, _, told) = check(&main, &["-cluster"]).await;
    assert!(code == Some(2) && told.contains("no cluster"), "{told}");
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
