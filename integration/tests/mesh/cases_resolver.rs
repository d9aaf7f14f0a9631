//! Consul's own acceptance cases with a service resolver. Each test bears the name of its case.

use aralez_integration::apps::App;
use aralez_integration::consul::Agent;
use aralez_integration::registration::Service;
use serde_json::{Value, json};

use crate::cases::{Case, s1, service};

/// A cluster whose proxy-defaults give every service `protocol`.
pub async fn cluster(protocol: &str) -> Agent {
    let agent = Case::cluster().await;
    agent.config_entry(json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": protocol}})).await.unwrap();
    agent
}

/// `name` without meta, and its versions v1 and v2.
pub async fn family(name: &str) -> Vec<(Service, App)> {
    let (v1, v1_app) = service(name, &format!("{name}-v1")).await;
    let (v2, v2_app) = service(name, &format!("{name}-v2")).await;
    vec![service(name, name).await, (v1.meta("version", "v1"), v1_app), (v2.meta("version", "v2"), v2_app)]
}

/// Subsets v1 and v2 of a [`family`].
pub fn subsets() -> Value {
    json!({"v1": {"Filter": "Service.Meta.version == v1"}, "v2": {"Filter": "Service.Meta.version == v2"}})
}

async fn default_subset(resolver: Value) {
    let agent = cluster("http").await;
    agent.config_entry(resolver).await.unwrap();
    let case = Case::start(agent, s1().await, family("s2").await).await;
    case.agent.healthy("s2", 3).await.unwrap();
    for _ in 0..10 {
        case.reaches_app("s2-v2").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_resolver_defaultsubset() {
    default_subset(json!({"Kind": "service-resolver", "Name": "s2", "DefaultSubset": "v2", "Subsets": subsets()})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_resolver_features() {
    let resolver = json!({"Kind": "service-resolver", "Name": "s2", "DefaultSubset": "v2", "Subsets": subsets(), "ConnectTimeout": "30s"});
    default_subset(resolver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_resolver_subset_redirect() {
    let agent = cluster("http").await;
    agent.config_entry(json!({"Kind": "service-resolver", "Name": "s3", "Subsets": subsets()})).await.unwrap();
    let redirect = json!({"Service": "s3", "ServiceSubset": "v2"});
    agent.config_entry(json!({"Kind": "service-resolver", "Name": "s2", "Redirect": redirect})).await.unwrap();
    let mut callees = family("s3").await;
    callees.push(service("s2", "s2").await);
    let case = Case::start(agent, s1().await, callees).await;
    case.agent.healthy("s3", 3).await.unwrap();
    case.reaches_app("s3-v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_resolver_svc_failover() {
    let agent = cluster("http").await;
    agent.config_entry(json!({"Kind": "service-resolver", "Name": "s3", "Subsets": subsets()})).await.unwrap();
    let failover = json!({"*": {"Service": "s3", "ServiceSubset": "v1"}});
    agent.config_entry(json!({"Kind": "service-resolver", "Name": "s2", "Failover": failover})).await.unwrap();
    let mut callees = family("s3").await;
    callees.push(service("s2", "s2").await);
    let mut case = Case::start(agent, s1().await, callees).await;
    case.reaches_app("s2").await;

    case.terminate("s2");
    case.agent.healthy("s2", 0).await.unwrap();
    case.reaches_app("s3-v1").await;
}

async fn service_redirect(protocol: &str) {
    let agent = cluster(protocol).await;
    agent.config_entry(json!({"Kind": "service-resolver", "Name": "s2", "Redirect": {"Service": "s3"}})).await.unwrap();
    let case = Case::start(agent, s1().await, vec![service("s2", "s2").await, service("s3", "s3").await]).await;
    case.echo_ok().await;
    case.reaches_app("s3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_resolver_svc_redirect_http() {
    service_redirect("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_resolver_svc_redirect_tcp() {
    service_redirect("tcp").await;
}
