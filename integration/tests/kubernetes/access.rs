//! Who may read what: the shipped manifests in a pod, and accounts that lack a right.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::http_echo_at;
use aralez_integration::wait::steadily;
use aralez_integration::web_pki::WebCa;
use serde_json::json;

use crate::cluster::Cluster;
use crate::edge::{Edge, LIMIT, mount_account};
use crate::lab::{self, PODS};
use crate::objects::{CLASS, account, class, ingress, reads, role, secret, service, slice};

/// Files with tokens are read again after less than a minute.
const NEW_TOKEN: Duration = Duration::from_secs(150);

#[test]
fn the_shipped_manifests_work_in_a_pod_whose_token_is_replaced() {
    lab::inside("access::the_shipped_manifests_work_in_a_pod_whose_token_is_replaced", manifests);
}

async fn manifests() {
    let [one, two] = [http_echo_at("one", PODS).await.unwrap(), http_echo_at("two", PODS).await.unwrap()];
    let pair = WebCa::new().issue(&["shop.example"]);
    let mut cluster = Cluster::start().await;
    let applied = cluster.apply_manifests();
    assert!(["rbac.yaml", "aralez.yaml", "ingress.yaml"].iter().all(|name| applied.iter().any(|path| path.ends_with(name))), "{applied:?}");
    let mut api = service("api");
    api["spec"]["ports"][0]["port"] = json!(8080);
    [service("shop"), slice("shop", &one), api, slice("api", &two), secret("shop", &pair)].iter().for_each(|object| cluster.apply(object));

    mount_account(&cluster, "aralez/aralez", 1);
    let edge = Edge::in_a_pod(&cluster);
    edge.ready().await;
    edge.answers("shop.example", "/", "one").await.unwrap();
    edge.answers("shop.example", "/api/x", "two").await.unwrap();
    edge.shows("shop.example", &pair).await;
    cluster.shows_status("shop", "192.0.2.7").await;

    // An account that is made anew under its name has none of the tokens of the old one.
    cluster.kubectl(&["delete", "serviceaccount", "aralez", "--namespace", "aralez"], None).unwrap();
    cluster.apply_manifests();
    cluster.down();
    cluster.up().await;
    edge.says("/watches", &["401"]).await;
    mount_account(&cluster, "aralez/aralez", 2);
    cluster.apply(&slice("shop", &two));
    edge.served("shop.example", "/", "two", NEW_TOKEN).await;
}

#[test]
fn a_right_that_lacks_is_named_and_the_rest_serves() {
    lab::inside("access::a_right_that_lacks_is_named_and_the_rest_serves", rights);
}

async fn rights() {
    let [one, two] = [http_echo_at("one", PODS).await.unwrap(), http_echo_at("two", PODS).await.unwrap()];
    let mut cluster = Cluster::start().await;
    let discovery = reads("discovery.k8s.io", &["endpointslices"]);
    let networking = reads("networking.k8s.io", &["ingresses", "ingressclasses"]);
    let poor = |core: &[&str]| role("poor", None, &[reads("", core), discovery.clone(), networking.clone()], "poor");
    let objects = [account("poor"), class(CLASS, "aralez/ingress-controller"), service("shop"), slice("shop", &one)];
    objects.iter().chain(&poor(&["services"])).for_each(|object| cluster.apply(object));
    cluster.apply(&ingress("shop", Some(CLASS), "shop.test", &[("/", "shop")]));

    let file = format!("upstreams: {{file.test: {{paths: {{/: {{servers: [\"{}\"]}}}}}}}}\n", two.address);
    let edge = Edge::start(&cluster, "default/poor", "  status_address: 192.0.2.7\n", &file);
    let lacks = "cannot list resource \"secrets\" in API group \"\" at the cluster scope";
    edge.says("/watches", &["kubernetes secrets", lacks]).await;
    edge.says("/ready", &["ingress: kubernetes secrets"]).await;
    edge.says("/snapshot", &[lacks, "give the account this right"]).await;
    edge.served("file.test", "/", "two", LIMIT).await;
    assert_eq!(edge.get("shop.test", "/").await.unwrap().status, 404);
    let (well, told) = edge.check();
    assert!(!well && told.contains(lacks), "{told}");

    poor(&["services", "secrets"]).iter().for_each(|object| cluster.apply(object));
    edge.ready().await;
    edge.answers("shop.test", "/", "one").await.unwrap();
    edge.says("/watches", &["kubernetes status", "cannot patch resource \"ingresses/status\""]).await;
    let (well, told) = edge.check();
    assert!(well && told.contains("route shop.test/: Service default/shop, 1 endpoints"), "{told}");

    // Rights that are taken away: what was known goes on.
    cluster.kubectl(&["delete", "clusterrolebinding", "poor"], None).unwrap();
    cluster.down();
    cluster.up().await;
    edge.says("/watches", &["cannot watch resource \"services\"", "cannot watch resource \"endpointslices\""]).await;
    let goes_on = steadily(Duration::from_secs(3), async || {
        ensure!(edge.admin("/ready").await?.status == 200);
        edge.answers("file.test", "/", "two").await?;
        edge.answers("shop.test", "/", "one").await
    });
    goes_on.await.unwrap();
}
