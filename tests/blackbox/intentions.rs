//! Who may call: what an intention, its change, and its absence do to new and to live connections.

use std::time::Duration;

use anyhow::{Context, ensure};
use aralez_integration::apps::{http_echo, tcp_echo};
use aralez_integration::clients::{self, GrpcCall, HttpClient};
use aralez_integration::wait::{eventually, steadily};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, intention};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY, announce, api, assert_flawless};
use crate::support::raw::{closes, read_until};
use crate::support::sidecar::Launch;
use crate::support::tls::Client;

const DENIED: &str = "RBAC: access denied";

fn deny_web(mesh: &Mesh) {
    mesh.agent.set_intentions("api", vec![intention("web", "api", "deny")]);
}

fn allow_web(mesh: &Mesh) {
    mesh.agent.set_intentions("api", vec![intention("web", "api", "allow")]);
}

async fn status_becomes(mesh: &Mesh, status: u16, limit: Duration) {
    let what = format!("status {status}");
    let became = eventually(&what, limit, async || {
        let answer = clients::get(&mesh.entry, "/").await?;
        ensure!(answer.status == status, "{}", answer.status);
        Ok(())
    });
    became.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_is_403_in_consuls_words_and_never_reaches_the_app() {
    let mesh = Mesh::start("http").await;
    deny_web(&mesh);
    status_becomes(&mesh, 403, EFFECT).await;
    let requests = mesh.app.requests();
    let answer = clients::post(&mesh.entry, "/", "secret").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (403, DENIED));
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(mesh.app.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deny_meets_the_next_request_of_a_kept_connection() {
    let mesh = Mesh::start("http").await;
    let mut client = HttpClient::http1(&mesh.entry).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 200);
    deny_web(&mesh);
    let denied = eventually("403 on the same connection", EFFECT, async || {
        let answer = client.get("/").await?;
        ensure!(answer.status == 403, "{}", answer.status);
        Ok(())
    });
    denied.await.unwrap();
    allow_web(&mesh);
    status_becomes(&mesh, 200, EFFECT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deny_meets_the_next_request_of_a_peers_own_connection() {
    let mesh = Mesh::start("http").await;
    let leaf = mesh.agent.reissue_leaf("probe");
    let mut peer = Client::with(&leaf).http(&mesh.public).await.unwrap();
    assert_eq!(peer.get("/", &[]).await.unwrap().status, 200);
    mesh.agent.set_intentions("api", vec![intention("probe", "api", "deny")]);
    let denied = eventually("403 on the same connection", EFFECT, async || {
        let answer = peer.get("/", &[]).await?;
        ensure!(answer.status == 403, "{}", answer.status);
        Ok(())
    });
    denied.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deny_closes_live_tcp_tunnels_and_refuses_new_ones() {
    let mesh = Mesh::start("tcp").await;
    let mut tunnels = Vec::new();
    for _ in 0..5 {
        let mut tunnel = mesh.entry.connect().await.unwrap();
        tunnel.write_all(b"ping").await.unwrap();
        read_until(&mut tunnel, b"ping").await.unwrap();
        tunnels.push(tunnel);
    }
    let apps = mesh.app.connections();
    deny_web(&mesh);
    for tunnel in &mut tunnels {
        assert!(closes(tunnel, EFFECT).await, "a live tunnel outlives the deny");
    }
    let mut refused = mesh.entry.connect().await.unwrap();
    assert!(closes(&mut refused, EFFECT).await, "a new tunnel is let through");
    assert_eq!(mesh.app.connections(), apps);

    allow_web(&mesh);
    let through = eventually("a tunnel after the allow", EFFECT, async || {
        let mut tunnel = mesh.entry.connect().await?;
        tunnel.write_all(b"ping").await?;
        read_until(&mut tunnel, b"ping").await
    });
    through.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deny_closes_live_websockets() {
    let mesh = Mesh::start("http").await;
    let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
    socket.send(Message::text("ping")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    deny_web(&mesh);
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(EFFECT, ended).await.expect("a live WebSocket outlives the deny");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_denied_in_its_own_words() {
    let mesh = Mesh::start("grpc").await;
    deny_web(&mesh);
    let status = async || {
        let (_, trailers) = GrpcCall::open(&mesh.entry, "/echo.Echo/Unary").await?.finish().await?;
        anyhow::Ok(trailers.get("grpc-status").context("no grpc-status")?.to_str()?.to_owned())
    };
    let denied = eventually("PERMISSION_DENIED", EFFECT, async || {
        let status = status().await?;
        ensure!(status == "7", "{status}");
        Ok(())
    });
    denied.await.unwrap();
    let requests = mesh.app.requests();
    assert_eq!(status().await.unwrap(), "7");
    assert_eq!(mesh.app.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unrelated_change_of_intentions_leaves_tunnels_alone() {
    let mesh = Mesh::start("tcp").await;
    let mut tunnel = mesh.entry.connect().await.unwrap();
    let probe = mesh.agent.reissue_leaf("probe");
    tunnel.write_all(b"ping").await.unwrap();
    read_until(&mut tunnel, b"ping").await.unwrap();
    mesh.agent.set_intentions("api", vec![intention("probe", "api", "deny")]);
    let effective = eventually("the probe to be denied", EFFECT, async || {
        let answer = Client::with(&probe).exchange(&mesh.public, b"ping").await?;
        ensure!(answer.is_empty());
        Ok(())
    });
    effective.await.unwrap();
    tunnel.write_all(b"pong").await.unwrap();
    read_until(&mut tunnel, b"pong").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exact_source_wins_over_the_wildcard() {
    let mesh = Mesh::start("http").await;
    mesh.agent.set_intentions("api", vec![intention("web", "api", "allow"), intention("*", "api", "deny")]);
    let probe = mesh.agent.reissue_leaf("probe");
    let denied = eventually("the probe to be denied", EFFECT, async || {
        let status = Client::with(&probe).status(&mesh.public).await?;
        ensure!(status == Some(403), "{status:?}");
        Ok(())
    });
    denied.await.unwrap();
    assert_eq!(mesh.answering().await.unwrap(), "api-1");
}

/// What a caller without an intention gets under each default; `None` is never asked.
async fn status_under(acl: &'static str, intention_default: Option<&'static str>) -> u16 {
    let agent = FakeAgent::start().await;
    agent.set_default_policy(acl, intention_default);
    let mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    clients::get(&mesh.entry, "/").await.unwrap().status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_policy_is_the_agents_effective_one() {
    // With ACLs off but a default of deny, the probe says "authorized" while the header says deny: deny is right.
    assert_eq!(status_under("allow", None).await, 200);
    assert_eq!(status_under("deny", None).await, 403);
    assert_eq!(status_under("allow", Some("deny")).await, 403);
    assert_eq!(status_under("deny", Some("allow")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_nobody_knows_denies() {
    let mesh = Mesh::start("http").await;
    allow_web(&mesh);
    assert_eq!(mesh.answering().await.unwrap(), "api-1");
    mesh.agent.fail(Endpoint::Intentions, Fault::UnknownAction);
    allow_web(&mesh);
    status_becomes(&mesh, 403, RECOVERY).await;
    mesh.agent.heal(Endpoint::Intentions);
    allow_web(&mesh);
    status_becomes(&mesh, 200, RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intention_with_permissions_on_a_tcp_service_denies() {
    let agent = FakeAgent::start().await;
    let mut odd = intention("web", "api", "allow");
    odd.as_object_mut().unwrap().remove("Action");
    odd["Permissions"] = serde_json::json!([{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]);
    agent.set_intentions("api", vec![odd]);
    let mesh = Mesh::around(agent, tcp_echo().await.unwrap(), "tcp").await;
    let mut tunnel = mesh.entry.connect().await.unwrap();
    assert!(closes(&mut tunnel, RECOVERY).await);
    assert_eq!(mesh.app.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_never_learns_its_default_policy_serves_nobody_by_default() {
    let agent = FakeAgent::start().await;
    agent.fail(Endpoint::Authorize, Fault::Status(403));
    let app = http_echo("api-1").await.unwrap();
    let sidecar = api(&app, "http");
    announce(&agent, &sidecar);
    let web = agent.reissue_leaf("web");
    let public = aralez_integration::net::Address::port(sidecar.public_port);
    let mut api = Launch::sidecar_for(&agent, "api-1").spawn();
    steadily(Duration::from_secs(1), async || {
        // Either nothing listens, or nobody is let through.
        if let Ok(status) = Client::with(&web).status(&public).await {
            ensure!(status.is_none_or(|status| status == 403), "{status:?}");
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(app.requests(), 0);
    agent.heal(Endpoint::Authorize);
    api.ready().await;
    let allowed = eventually("the default to be learnt", RECOVERY, async || {
        let status = Client::with(&web).status(&public).await?;
        ensure!(status == Some(200), "{status:?}");
        Ok(())
    });
    allowed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_flips_are_obeyed_and_cost_other_callers_nothing() {
    let mesh = Mesh::start("http").await;
    let probe = mesh.agent.reissue_leaf("probe");
    let load = mesh.load(2);
    for round in 0..10 {
        let (action, wanted) = if round % 2 == 0 { ("deny", 403) } else { ("allow", 200) };
        mesh.agent.set_intentions("api", vec![intention("probe", "api", action)]);
        let obeyed = eventually("the flip", EFFECT, async || {
            let status = Client::with(&probe).status(&mesh.public).await?;
            ensure!(status == Some(wanted), "{status:?}");
            Ok(())
        });
        obeyed.await.unwrap();
    }
    assert_flawless(load, 20).await;
}
