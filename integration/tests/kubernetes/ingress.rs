//! An Ingress from the API server to traffic, with the rights of the shipped role alone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aralez_integration::apps::{App, http_echo_at};
use aralez_integration::clients;
use aralez_integration::components;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::{eventually, steadily};
use aralez_integration::web_pki::{self, Pair, WebCa};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::lab::{self, PODS};

/// From a change to its effect, at the most, on a crowded machine.
const LIMIT: Duration = Duration::from_secs(60);
/// What users are promised.
const PROMISED: Duration = Duration::from_secs(1);

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn slice(service: &str, app: &App) -> Value {
    let Address::Tcp(address) = &app.address else { panic!("{}", app.address) };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": address.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true, "serving": true, "terminating": false}}]})
}

fn ingress() -> Value {
    let backend = |name: &str| json!({"service": {"name": name, "port": {"name": "http"}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend("shop")}, {"path": "/absent", "pathType": "Exact", "backend": backend("absent")}]);
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop"}, "spec": {"ingressClassName": "aralez",
        "tls": [{"hosts": ["shop.test"], "secretName": "shop-tls"}], "rules": [{"host": "shop.test", "http": {"paths": paths}}]}})
}

fn secret(pair: &Pair) -> Value {
    let data = |text: &str| BASE64_STANDARD.encode(text);
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-tls"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": data(&pair.crt), "tls.key": data(&pair.key)}})
}

/// The reverse proxy with a token of the shipped service account.
struct Edge {
    http: Address,
    tls: Address,
    admin: Address,
    _process: Process,
}

impl Edge {
    fn start(cluster: &Cluster, folder: &Path) -> Self {
        let [http, tls, admin] = [(); 3].map(|()| free_port().unwrap());
        let token = cluster.kubectl(&["create", "token", "aralez", "--namespace", "aralez"], None).unwrap();
        fs::write(folder.join("token"), token.trim()).unwrap();
        fs::create_dir(folder.join("certificates")).unwrap();
        let ca = cluster.folder.path().join("certs/apiserver.crt");
        let routes = format!(
            "provider: kubernetes\nkubernetes:\n  server: https://127.0.0.1:{}\n  token_file: token\n  ca_file: {}\n  status_address: 192.0.2.7\n",
            cluster.port,
            ca.display()
        );
        fs::write(folder.join("upstreams.yaml"), routes).unwrap();
        let main = format!(
            "proxy_address_http: 127.0.0.1:{http}\nproxy_address_tls: 127.0.0.1:{tls}\nproxy_certificates: certificates\nupstreams_conf: upstreams.yaml\n"
        );
        fs::write(folder.join("main.yaml"), main).unwrap();
        let mut command = Command::new(components::aralez().unwrap());
        command.arg("-c").arg(folder.join("main.yaml")).args(["-admin-bind", &format!("127.0.0.1:{admin}")]);
        let process = Process::start("aralez", command, Duration::ZERO).unwrap();
        let [http, tls, admin] = [http, tls, admin].map(Address::port);
        Self { http, tls, admin, _process: process }
    }

    async fn ready(&self) {
        let ready = eventually("readiness", LIMIT, async || {
            let answer = clients::get(&self.admin, "/ready").await?;
            ensure!(answer.status == 200, "{} {}", answer.text(), clients::get(&self.admin, "/watches").await?.text());
            Ok(())
        });
        ready.await.unwrap();
    }

    async fn get(&self, path: &str) -> Result<clients::Response> {
        clients::once(&self.http, Request::get(path).header("host", "shop.test").body(Bytes::new())?).await
    }

    /// Whether this app answers.
    async fn answered_by(&self, app: &str) -> Result<()> {
        let answer = self.get("/").await?;
        ensure!(answer.status == 200 && answer.headers["x-app"] == app, "{} {:?}", answer.status, answer.headers);
        Ok(())
    }

    async fn shows(&self, pair: &Pair) {
        let shown = eventually("the certificate", LIMIT, async || {
            let shown = web_pki::shown(&self.tls, "shop.test").await?.to_pem()?;
            ensure!(pair.crt.starts_with(std::str::from_utf8(&shown)?), "another certificate");
            Ok(())
        });
        shown.await.unwrap();
    }
}

#[test]
fn an_ingress_reaches_traffic_with_the_rights_of_the_shipped_role() {
    lab::inside("ingress::an_ingress_reaches_traffic_with_the_rights_of_the_shipped_role", whole);
}

async fn whole() {
    let [one, two] = [http_echo_at("one", PODS).await.unwrap(), http_echo_at("two", PODS).await.unwrap()];
    let ca = WebCa::new();
    let [first, second] = [ca.issue(&["shop.test"]), ca.issue(&["shop.test"])];
    let mut cluster = Cluster::start().await;
    cluster.follow("docs/quick-start.md", "With Kubernetes");
    [service("shop"), slice("shop", &one), secret(&first), ingress()].iter().for_each(|object| cluster.apply(object));

    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::start(&cluster, folder.path());
    edge.ready().await;
    edge.answered_by("one").await.unwrap();
    assert_eq!(edge.get("/absent").await.unwrap().status, 503);
    edge.shows(&first).await;

    // The account may do this and no more.
    let may = |arguments: &[&str]| {
        let asked = ["auth", "can-i", "--as", "system:serviceaccount:aralez:aralez"];
        cluster.kubectl(&[&asked, arguments].concat(), None).is_ok()
    };
    assert!(may(&["watch", "endpointslices.discovery.k8s.io"]) && may(&["patch", "ingresses.networking.k8s.io", "--subresource=status"]));
    for beyond in [&["list", "pods"], &["update", "secrets"], &["patch", "ingresses.networking.k8s.io"], &["create", "services"]] {
        assert!(!may(beyond), "{beyond:?}");
    }

    let written = eventually("the status", LIMIT, async || {
        let shown = cluster.kubectl(&["get", "ingress", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"], None)?;
        ensure!(shown == "192.0.2.7", "{shown:?}");
        Ok(())
    });
    written.await.unwrap();

    for (app, name) in [(&two, "two"), (&one, "one"), (&two, "two")] {
        let began = Instant::now();
        cluster.apply(&slice("shop", app));
        let applied = began.elapsed();
        eventually(name, LIMIT, async || edge.answered_by(name).await).await.unwrap();
        let after = began.elapsed() - applied;
        println!("EndpointSlice to traffic: {after:?} after kubectl, which took {applied:?}, had returned");
        assert!(after < PROMISED, "{after:?}");
    }

    cluster.apply(&secret(&second));
    edge.shows(&second).await;

    // Without the API server everything goes on; once it is back, changes arrive.
    cluster.down();
    steadily(Duration::from_secs(3), async || edge.answered_by("two").await).await.unwrap();
    cluster.up().await;
    cluster.apply(&slice("shop", &one));
    eventually("a change after the outage", LIMIT, async || edge.answered_by("one").await).await.unwrap();
}
