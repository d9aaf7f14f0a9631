//! An Ingress from the API server to traffic, with the rights of the shipped role alone.

use std::time::{Duration, Instant};

use anyhow::ensure;
use aralez_integration::apps::http_echo_at;
use aralez_integration::clients::HttpClient;
use aralez_integration::load::Load;
use aralez_integration::web_pki::WebCa;
use bytes::Bytes;
use http::Request;
use serde_json::json;

use crate::cluster::Cluster;
use crate::edge::{Edge, LIMIT};
use crate::lab::{self, PODS};
use crate::objects::{CLASS, backend, ingress, secret, service, slice};

/// What users are promised.
const PROMISED: Duration = Duration::from_secs(1);
/// Requests that are made while the API server is away.
const MEANWHILE: u64 = 2000;

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
    let mut shop = ingress("site", Some(CLASS), "shop.test", &[("/", "shop")]);
    shop["spec"]["tls"] = json!([{"hosts": ["shop.test"], "secretName": "shop-tls"}]);
    let paths = shop["spec"]["rules"][0]["http"]["paths"].as_array_mut().unwrap();
    paths.push(json!({"path": "/absent", "pathType": "Exact", "backend": backend("absent")}));
    [service("shop"), slice("shop", &one), secret("shop-tls", &first), shop].iter().for_each(|object| cluster.apply(object));

    let edge = Edge::start(&cluster, "aralez/aralez", "  status_address: 192.0.2.7\n", "");
    edge.ready().await;
    edge.answers("shop.test", "/", "one").await.unwrap();
    assert_eq!(edge.get("shop.test", "/absent").await.unwrap().status, 503);
    edge.shows("shop.test", &first).await;

    // The account may do this and no more.
    let may = |arguments: &[&str]| {
        let asked = ["auth", "can-i", "--as", "system:serviceaccount:aralez:aralez"];
        cluster.kubectl(&[&asked, arguments].concat(), None).is_ok()
    };
    assert!(may(&["watch", "endpointslices.discovery.k8s.io"]) && may(&["patch", "ingresses.networking.k8s.io", "--subresource=status"]));
    for beyond in [&["list", "pods"], &["update", "secrets"], &["patch", "ingresses.networking.k8s.io"], &["create", "services"]] {
        assert!(!may(beyond), "{beyond:?}");
    }
    cluster.shows_status("site", "192.0.2.7").await;

    for (app, name) in [(&two, "two"), (&one, "one"), (&two, "two")] {
        let began = Instant::now();
        cluster.apply(&slice("shop", app));
        let applied = began.elapsed();
        edge.served("shop.test", "/", name, LIMIT).await;
        let after = began.elapsed() - applied;
        println!("EndpointSlice to traffic: {after:?} after kubectl, which took {applied:?}, had returned");
        assert!(after < PROMISED, "{after:?}");
    }

    cluster.apply(&secret("shop-tls", &second));
    edge.shows("shop.test", &second).await;

    // Without the API server everything goes on; once it is back, changes arrive.
    let address = edge.http.clone();
    let load = Load::start(2, move |known: Option<HttpClient>| {
        let address = address.clone();
        async move {
            let mut client = if let Some(known) = known { known } else { HttpClient::http1(&address).await? };
            let answer = client.send(Request::get("/").header("host", "shop.test").body(Bytes::new())?).await?;
            ensure!(answer.status == 200, "{}", answer.status);
            Ok(client)
        }
    });
    cluster.down();
    edge.says("/watches", &["Connection refused"]).await;
    load.progress(MEANWHILE, LIMIT).await.unwrap();
    cluster.up().await;
    cluster.apply(&slice("shop", &one));
    edge.served("shop.test", "/", "one", LIMIT).await;
    let report = load.stop().await.unwrap();
    println!("{} requests around an outage of the API server, {} failed", report.ok, report.failed);
    report.flawless(MEANWHILE).unwrap();
}
