//! Which Ingresses are ours, and what several of them make of one host.

use anyhow::ensure;
use aralez_integration::apps::http_echo_at;
use aralez_integration::wait::eventually;
use serde_json::json;

use crate::cluster::Cluster;
use crate::edge::{Edge, LIMIT};
use crate::lab::{self, PODS};
use crate::objects::{CLASS, account, backend, class, ingress, reads, role, service, slice, within};

#[test]
fn namespaces_and_classes_say_which_ingresses_are_served() {
    lab::inside("classes::namespaces_and_classes_say_which_ingresses_are_served", whole);
}

async fn whole() {
    let [one, two] = [http_echo_at("one", PODS).await.unwrap(), http_echo_at("two", PODS).await.unwrap()];
    let cluster = Cluster::start().await;
    cluster.apply(&account("limited"));
    cluster.apply(&class("theirs", "somebody/else"));
    cluster.apply(&class(CLASS, "aralez/ingress-controller"));
    role("limited", None, &[reads("networking.k8s.io", &["ingressclasses"])], "limited").iter().for_each(|object| cluster.apply(object));
    let rules =
        [reads("", &["services", "secrets"]), reads("discovery.k8s.io", &["endpointslices"]), reads("networking.k8s.io", &["ingresses"])];
    for (namespace, app) in [("left", &one), ("right", &two), ("other", &two)] {
        cluster.kubectl(&["create", "namespace", namespace], None).unwrap();
        [service("shop"), slice("shop", app)].into_iter().for_each(|object| cluster.apply(&within(namespace, object)));
    }
    for namespace in ["left", "right"] {
        role("limited", Some(namespace), &rules, "limited").iter().for_each(|object| cluster.apply(object));
    }
    let ours = |namespace: &str, name: &str, host: &str, path: &str| {
        cluster.apply(&within(namespace, ingress(name, Some(CLASS), host, &[(path, "shop")])));
    };
    ours("left", "shop", "a.test", "/");
    ours("right", "more", "a.test", "/two");
    ours("right", "late", "a.test", "/");
    ours("right", "wild", "*.b.test", "/");
    ours("other", "shop", "other.test", "/");
    cluster.apply(&within("left", ingress("theirs", Some("theirs"), "theirs.test", &[("/", "shop")])));
    cluster.apply(&within("left", ingress("none", None, "none.test", &[("/", "shop")])));

    let edge = Edge::start(&cluster, "default/limited", "  namespaces: [left, right]\n", "");
    edge.ready().await;
    edge.says("/watches", &["kubernetes ingresses left", "kubernetes secrets right", "kubernetes ingressclasses"]).await;
    for (host, path, app) in [("a.test", "/x", "one"), ("a.test", "/two/x", "two"), ("c.b.test", "/", "two")] {
        edge.answers(host, path, app).await.unwrap();
    }
    for host in ["other.test", "theirs.test", "none.test", "b.test", "d.c.b.test"] {
        assert_eq!(edge.get(host, "/").await.unwrap().status, 404, "{host}");
    }
    edge.says("/snapshot", &["Ingress right/late", "the path / of host a.test belongs to Ingress left/shop"]).await;

    // The older one goes: the younger has its turn, and there is nothing to tell any more.
    cluster.kubectl(&["delete", "ingress", "shop", "--namespace", "left"], None).unwrap();
    edge.served("a.test", "/x", "two", LIMIT).await;
    let told = eventually("no problem", LIMIT, async || {
        let text = edge.admin("/snapshot").await?.text();
        ensure!(!text.contains("Ingress right/late"), "{text}");
        Ok(())
    });
    told.await.unwrap();

    cluster.kubectl(&["annotate", "ingressclass", CLASS, "ingressclass.kubernetes.io/is-default-class=true"], None).unwrap();
    edge.served("none.test", "/", "one", LIMIT).await;
    let rest = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "rest", "namespace": "right"},
        "spec": {"defaultBackend": backend("shop")}});
    cluster.apply(&rest);
    edge.served("other.test", "/", "two", LIMIT).await;
    edge.answers("none.test", "/", "one").await.unwrap();
}
