//! Paths and checks that are reachable without the mesh.

use anyhow::{Context, Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::registration::Service;
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::{eventually, steadily};
use serde_json::{Value, json};

use crate::cases::{Case, EVENTUALLY, s1, service};
use crate::scene::{PATIENCE, SOON, app_in, unique};

fn port(address: &Address) -> u16 {
    let Address::Tcp(address) = address else { panic!("{address:?} has no port") };
    address.port()
}

async fn answers(client: &mut HttpClient, path: &str, status: u16) {
    let answer = client.get(path).await.unwrap();
    assert_eq!(answer.status, status, "{path}: {}", answer.text());
}

/// A service that exposes `/health` of another port of its app, and nobody may call over the mesh.
async fn exposing(agent: &Agent, protocol: &str) -> (Address, App, Sidecar) {
    let (app, health) = (apps::http_echo("db").await.unwrap(), apps::http_echo("health").await.unwrap());
    let listener = free_port().unwrap();
    let path = |path: &str| json!({"Path": path, "LocalPathPort": port(&health.address), "ListenerPort": listener, "Protocol": protocol});
    let db = Service::new(unique("db"), &app.address).unwrap().protocol("http").expose(json!({"Paths": [path("/health/debug")]}));
    agent.intention("*", &db.name, "deny").await.unwrap();
    agent.register(&db).await.unwrap();
    let sidecar = Sidecar::start(agent, &db).await.unwrap();
    (Address::port(listener), health, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_over_http1() {
    let agent = Agent::shared().await.unwrap();
    let (listener, health, _sidecar) = exposing(&agent, "http").await;
    let mut client = HttpClient::http1(&listener).await.unwrap();
    let dump = client.get("/health/debug?env=dump").await.unwrap().text();
    assert_eq!(app_in(&dump).unwrap(), "health");
    assert!(dump.starts_with("GET /health/debug?env=dump HTTP/1.1\n"), "{dump}");
    let served = health.requests();
    for other in ["/", "/health", "/health/debug/", "/health/debug/more", "/health/debugger", "/health/../health/debu"] {
        answers(&mut client, other, 404).await;
    }
    assert_eq!(health.requests(), served, "a path that is not exposed reached the app");
    answers(&mut client, "/health/debug", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_over_http2() {
    let agent = Agent::shared().await.unwrap();
    let (listener, _health, _sidecar) = exposing(&agent, "http2").await;
    let mut client = HttpClient::http2(&listener).await.unwrap();
    let dump = client.get("/health/debug?env=dump").await.unwrap().text();
    assert_eq!(app_in(&dump).unwrap(), "health");
    assert!(dump.contains("HTTP/2.0\n"), "the app must be spoken to in HTTP/2: {dump}");
    answers(&mut client, "/health", 404).await;
}

/// Exposed paths come and go with the registration.
#[tokio::test(flavor = "multi_thread")]
async fn paths_come_and_go() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap().protocol("http");
    agent.register(&db).await.unwrap();
    let _sidecar = Sidecar::start(&agent, &db).await.unwrap();
    let listener = Address::port(free_port().unwrap());
    let path = json!({"Path": "/health", "LocalPathPort": port(&app.address), "ListenerPort": port(&listener)});

    agent.register(&db.clone().expose(json!({"Paths": [path]}))).await.unwrap();
    eventually("the exposed path", SOON, async || {
        let answer = clients::get(&listener, "/health").await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .await
    .unwrap();
    agent.register(&db.expose(json!({}))).await.unwrap();
    eventually("the path gone", PATIENCE, async || {
        ensure!(listener.connect().await.is_err(), "it still listens");
        Ok(())
    })
    .await
    .unwrap();
}

/// The check of the app, as the agent sees it.
async fn http_check(agent: &Agent) -> Result<Value> {
    let checks = agent.get("/v1/agent/checks").await?;
    let checks = checks.as_object().context("no checks")?;
    checks.values().find(|check| check["Type"] == "http").cloned().context("no HTTP check")
}

#[tokio::test(flavor = "multi_thread")]
async fn case_expose_checks() {
    let exposed = free_port().unwrap();
    // The upper bound is not handed out itself (seen with Consul 1.20.1).
    let agent = Case::cluster_with(json!({"ports": {"expose_min_port": exposed, "expose_max_port": exposed + 1}})).await;
    let (s2, app) = service("s2", "s2").await;
    let check = json!({"HTTP": format!("http://127.0.0.1:{}/debug", port(&app.address)), "Interval": "1s", "Timeout": "1s"});
    let s2 = s2.expose(json!({"Checks": true})).app_check(check);
    let case = Case::start(agent, s1().await, vec![(s2, app)]).await;
    case.echo_ok().await;

    let listener = Address::port(exposed);
    eventually("the check through the listener", EVENTUALLY, async || {
        let check = http_check(&case.agent).await?;
        ensure!(check["ExposedPort"] == exposed && check["Status"] == "passing", "{check}");
        Ok(())
    })
    .await
    .unwrap();
    steadily(SOON, async || {
        let (debug, other) = (clients::get(&listener, "/debug").await?, clients::get(&listener, "/other").await?);
        ensure!((debug.status.as_u16(), other.status.as_u16()) == (200, 404), "{} {}", debug.status, other.status);
        Ok(())
    })
    .await
    .unwrap();
}
