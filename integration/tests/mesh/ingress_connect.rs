//! Services of a real mesh that the reverse proxy calls through their sidecars: `connect: true`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aralez_integration::apps;
use aralez_integration::clients;
use aralez_integration::consul::{Agent, Options};
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::registration::Service;
use aralez_integration::sidecar::Launch;
use aralez_integration::wait::eventually;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::ingress_consul::Edge;
use crate::interop;
use crate::mixed::{Kind, Running};
use crate::rotation::{leaf_is_of, quick_rotation};
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

/// The line of a path that leads to a service in the mesh.
fn to(name: &str) -> String {
    format!("/: {{consul: {{service: {name}, connect: true}}}}")
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
    let paths = [to(&db.name), format!("/file: {{servers: [\"{}\"], strip_prefix: true}}", file.address)];
    let edge = Edge::start(&[agent.http_addr()], None, &paths).await;
    answers(&edge, "/", 200).await;
    agent.intention(CALLER, &db.name, "deny").await.unwrap();
    if protocol == "tcp" {
        // Nobody can answer there: the far side closes, which is all that is known here.
        answers(&edge, "/", 503).await;
        assert!(edge.get("/").await.text().ends_with("reset reason: connection termination"));
        assert!(edge.admin("/status.json").await.contains("upstream_closed"));
    } else {
        answers(&edge, "/", 403).await;
    }
    assert_eq!(edge.get("/file").await.headers["x-app"], "file");
    agent.intention(CALLER, &db.name, "allow").await.unwrap();
    answers(&edge, "/", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_calls_behind_aralez_under_intentions() {
    is_called_under_its_intentions(Kind::Aralez, "http").await;
    is_called_under_its_intentions(Kind::Aralez, "grpc").await;
    is_called_under_its_intentions(Kind::Aralez, "tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_calls_behind_envoy_under_intentions() {
    is_called_under_its_intentions(Kind::Envoy, "http").await;
    is_called_under_its_intentions(Kind::Envoy, "http2").await;
    is_called_under_its_intentions(Kind::Envoy, "tcp").await;
}

/// Requests on connections of their own, until stopped.
fn load(edge: &Edge) -> Load {
    let http = edge.http.clone();
    Load::start(2, move |_: Option<()>| {
        let http = http.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let answer = clients::get(&http, "/").await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(())
        }
    })
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
    let edge = Edge::start(&[agent.http_addr()], None, &[to(&name)]).await;
    let load = load(&edge);
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

/// A service of this protocol behind a sidecar of this kind, and a proxy that leads to it.
async fn behind(agent: &Agent, kind: Kind, protocol: &str, app: &Address) -> (Edge, Service, Running) {
    let service = Service::new(unique("db"), app).unwrap().protocol(protocol);
    agent.config_entry(json!({"Kind": "service-defaults", "Name": service.name, "Protocol": protocol})).await.unwrap();
    agent.register(&service).await.unwrap();
    let sidecar = kind.start(agent, &service).await;
    agent.healthy(&service.name, 1).await.unwrap();
    let edge = Edge::start(&[agent.http_addr()], None, &[to(&service.name)]).await;
    (edge, service, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_and_websockets_pass_the_edge_into_the_mesh() {
    let agent = Agent::shared().await.unwrap();
    let (_server, calls) = interop::server().await;
    let echo = apps::http_echo("db").await.unwrap();
    for kind in [Kind::Aralez, Kind::Envoy] {
        let (edge, _db, _sidecar) = behind(&agent, kind, "grpc", &calls).await;
        interop::passes(&edge.http).await;
        let (edge, _db, _sidecar) = behind(&agent, kind, "http", &echo.address).await;
        let mut socket = clients::websocket(&edge.http, "/chat").await.unwrap();
        for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
    }
}

/// The serial of the leaf that the proxy uses.
async fn serial(edge: &Edge) -> Result<String> {
    let status: Value = serde_json::from_str(&edge.admin("/status.json").await)?;
    let serial = status["identities"][0]["serial"].as_str().context("no identity")?;
    Ok(serial.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaf_and_root_rotate_under_load() {
    let agent = Agent::start(quick_rotation()).await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let (edge, db, _sidecar) = behind(&agent, Kind::Aralez, "http", &app.address).await;
    let load = load(&edge);
    load.progress(100, PATIENCE).await.unwrap();
    for _ in 0..2 {
        let before = serial(&edge).await.unwrap();
        let ca = agent.rotate_ca().await.unwrap();
        eventually("a leaf of the new root on both sides", PATIENCE, async || {
            leaf_is_of(&ca, &db.public()).await?;
            ensure!(serial(&edge).await? != before, "the proxy's leaf is the old one");
            Ok(())
        })
        .await
        .unwrap();
        load.progress(300, 4 * PATIENCE).await.unwrap();
    }
    load.stop().await.unwrap().flawless(700).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_identity_suffices_and_its_lack_is_told() {
    let agent = Agent::start(Options::acl()).await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let db = Service::new("db", &app.address).unwrap().protocol("http");
    agent.config_entry(json!({"Kind": "service-defaults", "Name": "db", "Protocol": "http"})).await.unwrap();
    agent.register(&db).await.unwrap();
    let token = agent.service_token("db").await.unwrap();
    let _db = Launch::sidecar_for(&agent, "db").unwrap().env("CONSUL_HTTP_TOKEN", &token).start().await.unwrap();
    agent.healthy("db", 1).await.unwrap();
    // Of another service, whose leaf it may have; it may read all services.
    let other = agent.service_token("other").await.unwrap();
    let lacking = Edge::spawn(&[agent.http_addr()], Some(&other), &[to("db")]);
    eventually("what is lacking", PATIENCE, async || {
        let (ready, log) = (lacking.admin("/ready").await, lacking.log());
        ensure!(ready.contains(&format!("leaf of {CALLER}")), "{ready}");
        ensure!(log.contains("403") && log.contains(&format!("lacks permission 'service:write' on \\\"{CALLER}\\\"")), "{log}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(lacking.get("/").await.status, 503);

    let token = agent.service_token(CALLER).await.unwrap();
    let edge = Edge::start(&[agent.http_addr()], Some(&token), &[to("db")]).await;
    // The ACL default is the default of intentions.
    answers(&edge, "/", 403).await;
    agent.intention(CALLER, "db", "allow").await.unwrap();
    answers(&edge, "/", 200).await;
}
