//! Services of a real mesh that the reverse proxy calls through their sidecars: `connect: true`.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps;
use aralez_integration::clients;
use aralez_integration::consul::Agent;
use aralez_integration::load::Load;
use aralez_integration::registration::Service;
use aralez_integration::wait::eventually;
use serde_json::json;

use crate::ingress_consul::Edge;
use crate::mixed::Kind;
use crate::scene::{PATIENCE, SOON, unique};

/// Who the proxy is if its file does not say.
const CALLER: &str = "aralez";

async fn answers(edge: &Edge, path: &str, status: u16) {
    let what = format!("{status} of {path}");
    let answered = eventually(&what, SOON, async || {
        let answer = edge.get(path).await;
        ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    answered.await.unwrap();
}

/// A service of this protocol behind a sidecar of this kind, beside a server of the file: called, denied, called again.
async fn is_called_under_its_intentions(kind: Kind, protocol: &str) {
    let agent = Agent::shared().await.unwrap();
    let [app, file] = [apps::http_echo("db").await.unwrap(), apps::http_echo("file").await.unwrap()];
    let db = Service::new(unique("db"), &app.address).unwrap().protocol(protocol);
    agent.config_entry(json!({"Kind": "service-defaults", "Name": db.name, "Protocol": protocol})).await.unwrap();
    agent.register(&db).await.unwrap();
    let _sidecar = kind.start(&agent, &db).await;
    agent.healthy(&db.name, 1).await.unwrap();
    let paths = [
        format!("/: {{consul: {{service: {}, connect: true}}}}", db.name),
        format!("/file: {{servers: [\"{}\"], strip_prefix: true}}", file.address),
    ];
    let edge = Edge::start(&[agent.http_addr()], None, &paths).await;
    answers(&edge, "/", 200).await;
    agent.intention(CALLER, &db.name, "deny").await.unwrap();
    answers(&edge, "/", 403).await;
    assert_eq!(edge.get("/file").await.headers["x-app"], "file");
    agent.intention(CALLER, &db.name, "allow").await.unwrap();
    answers(&edge, "/", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_calls_behind_aralez_under_intentions() {
    is_called_under_its_intentions(Kind::Aralez, "http").await;
    is_called_under_its_intentions(Kind::Aralez, "grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_calls_behind_envoy_under_intentions() {
    is_called_under_its_intentions(Kind::Envoy, "http").await;
    is_called_under_its_intentions(Kind::Envoy, "http2").await;
}

/// Instances join and leave, and the resolver sends all to a subset of another service, while requests go on.
#[tokio::test(flavor = "multi_thread")]
async fn the_edge_follows_instances_and_resolvers_under_load() {
    let agent = Agent::shared().await.unwrap();
    let [one, two, spare] =
        [apps::http_echo("one").await.unwrap(), apps::http_echo("two").await.unwrap(), apps::http_echo("spare").await.unwrap()];
    let (name, other) = (unique("db"), unique("spare"));
    for name in [&name, &other] {
        agent.config_entry(json!({"Kind": "service-defaults", "Name": name, "Protocol": "http"})).await.unwrap();
    }
    let first = Service::new(&name, &one.address).unwrap().protocol("http");
    agent.register(&first).await.unwrap();
    let _first = Kind::Aralez.start(&agent, &first).await;
    agent.healthy(&name, 1).await.unwrap();
    let edge = Edge::start(&[agent.http_addr()], None, &[format!("/: {{consul: {{service: {name}, connect: true}}}}")]).await;
    let http = edge.http.clone();
    let load = Load::start(2, move |_: Option<()>| {
        let http = http.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let answer = clients::get(&http, "/").await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(())
        }
    });
    let second = Service::new(&name, &two.address).unwrap().id(format!("{name}-2")).protocol("http");
    agent.register(&second).await.unwrap();
    let _second = Kind::Aralez.start(&agent, &second).await;
    edge.answered_by("/", &["one", "two"]).await;
    let third = Service::new(&other, &spare.address).unwrap().protocol("http");
    agent.register(&third).await.unwrap();
    let _third = Kind::Aralez.start(&agent, &third).await;
    agent.healthy(&other, 1).await.unwrap();
    agent.config_entry(json!({"Kind": "service-resolver", "Name": name, "Redirect": {"Service": other}})).await.unwrap();
    edge.answered_by("/", &["spare"]).await;
    load.progress(50, PATIENCE).await.unwrap();
    load.stop().await.unwrap().flawless(100).unwrap();
}
