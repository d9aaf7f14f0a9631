//! Intentions decide on new and on live connections, within two seconds.

use anyhow::{Context, ensure};
use aralez_integration::apps;
use aralez_integration::clients::{self, GrpcCall, HttpClient};
use aralez_integration::consul::{Agent, Options};
use aralez_integration::registration::Upstream;
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::{eventually, steadily};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::fleet::Fleet;
use crate::scene::{Pair, SOON, caller, echoes, http_answers, tcp_refused, tcp_works};

/// gRPC's status code.
const PERMISSION_DENIED: &str = "7";

/// Asks on one kept-alive connection until the status is the wanted one.
async fn turns_to(client: &mut HttpClient, status: u16) {
    eventually(&format!("{status} on the same connection"), SOON, async || {
        let answer = client.get("/").await?;
        ensure!(answer.status == status, "{}", answer.status);
        Ok(())
    })
    .await
    .unwrap();
}

async fn flip_on_a_live_http_connection(protocol: &str) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, protocol, &app.address).await;
    let mut client = match protocol {
        "http" => HttpClient::http1(&pair.upstream).await.unwrap(),
        _ => HttpClient::http2(&pair.upstream).await.unwrap(),
    };
    assert_eq!(client.get("/").await.unwrap().status, 200);

    agent.intention(&pair.web.name, &pair.db.name, "deny").await.unwrap();
    turns_to(&mut client, 403).await;
    let served = app.requests();
    assert_eq!(client.post("/", "secret").await.unwrap().status, 403);
    assert_eq!(app.requests(), served, "a denied request reached the app");

    agent.intention(&pair.web.name, &pair.db.name, "allow").await.unwrap();
    turns_to(&mut client, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flip_http() {
    flip_on_a_live_http_connection("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flip_http2() {
    flip_on_a_live_http_connection("http2").await;
}

/// `path` answers `status` on this connection.
async fn answers_on(client: &mut HttpClient, path: &str, status: u16) -> anyhow::Result<()> {
    let answer = client.get(path).await?;
    ensure!(answer.status == status, "{path}: {}", answer.status);
    Ok(())
}

/// A denied path of a live connection, and one that is not.
async fn permission_on_a_live_connection(protocol: &str) {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", protocol).await;
    fleet.run(&db, "db").await;
    let (web, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    let mut client = match protocol {
        "http" => HttpClient::http1(&upstream).await.unwrap(),
        _ => HttpClient::http2(&upstream).await.unwrap(),
    };
    answers_on(&mut client, "/admin/x", 200).await.unwrap();

    let permissions = json!([{"Action": "deny", "HTTP": {"PathPrefix": "/admin/"}}]);
    fleet.entry("service-intentions", &db, json!({"Sources": [{"Name": web, "Permissions": permissions}]})).await;
    eventually("403 on the same connection", SOON, async || answers_on(&mut client, "/admin/x", 403).await).await.unwrap();
    let served = fleet.of("db").requests();
    answers_on(&mut client, "/admin/y", 403).await.unwrap();
    answers_on(&mut client, "/open/../admin/x", 403).await.unwrap();
    assert_eq!(fleet.of("db").requests(), served, "a denied request reached the app");
    answers_on(&mut client, "/open", 200).await.unwrap();

    fleet.agent.delete(&format!("/v1/config/service-intentions/{db}")).await.unwrap();
    eventually("200 on the same connection", SOON, async || answers_on(&mut client, "/admin/x", 200).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn permission_flip_http() {
    permission_on_a_live_connection("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permission_flip_http2() {
    permission_on_a_live_connection("http2").await;
}

/// A WebSocket begins as a request, and is judged as one.
#[tokio::test(flavor = "multi_thread")]
async fn permission_for_a_websocket() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "db").await;
    let (web, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    let permissions = json!([{"Action": "deny", "HTTP": {"PathPrefix": "/chat/private"}}]);
    fleet.entry("service-intentions", &db, json!({"Sources": [{"Name": web, "Permissions": permissions}]})).await;

    eventually("a refused handshake", SOON, async || {
        let refused = clients::websocket(&upstream, "/chat/private/1").await.err().context("it was opened")?;
        ensure!(format!("{refused:#}").contains("403"), "{refused:#}");
        Ok(())
    })
    .await
    .unwrap();
    clients::websocket(&upstream, "/chat/open").await.unwrap();
}

/// gRPC methods are paths.
#[tokio::test(flavor = "multi_thread")]
async fn permission_for_a_grpc_method() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "grpc").await;
    fleet.run(&db, "db").await;
    let (web, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    let permissions = json!([{"Action": "deny", "HTTP": {"PathExact": "/echo.Echo/Delete"}}]);
    fleet.entry("service-intentions", &db, json!({"Sources": [{"Name": web, "Permissions": permissions}]})).await;

    let status = async |path: &str| {
        let call = GrpcCall::open(&upstream, path).await?;
        let (_, trailers) = call.finish().await?;
        anyhow::Ok(trailers.get("grpc-status").context("no grpc-status")?.to_str()?.to_owned())
    };
    eventually("PERMISSION_DENIED", SOON, async || {
        let seen = status("/echo.Echo/Delete").await?;
        ensure!(seen == PERMISSION_DENIED, "{seen}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(status("/echo.Echo/Unary").await.unwrap(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_grpc_is_permission_denied() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "grpc", &app.address).await;
    agent.intention(&pair.web.name, &pair.db.name, "deny").await.unwrap();

    eventually("PERMISSION_DENIED", SOON, async || {
        let call = GrpcCall::open(&pair.upstream, "/echo.Echo/Unary").await?;
        let (_, trailers) = call.finish().await?;
        let status = trailers.get("grpc-status").context("no grpc-status")?;
        ensure!(status == PERMISSION_DENIED, "{status:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn flip_tcp() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let pair = Pair::start(&agent, "tcp", &app.address).await;
    let other = caller(Upstream::new(&pair.db.name).unwrap());
    agent.register(&other).await.unwrap();
    let _other_sidecar = Sidecar::start(&agent, &other).await.unwrap();
    let mut denied = pair.upstream.connect().await.unwrap();
    let mut untouched = other.upstreams[0].address().connect().await.unwrap();
    echoes(&mut denied, b"hello").await.unwrap();
    echoes(&mut untouched, b"hello").await.unwrap();

    agent.intention(&pair.web.name, &pair.db.name, "deny").await.unwrap();
    let end = timeout(SOON, denied.read_u8()).await.expect("the live tunnel was not closed in time");
    assert!(end.is_err(), "a byte instead of the end");
    let connections = app.connections();
    tcp_refused(&pair.upstream).await.unwrap();
    assert_eq!(app.connections(), connections, "a denied connection reached the app");
    echoes(&mut untouched, b"another source").await.unwrap();

    agent.intention(&pair.web.name, &pair.db.name, "allow").await.unwrap();
    eventually("an echo", SOON, async || tcp_works(&pair.upstream).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn default_deny_and_precedence() {
    let agent = Agent::start(Options { config: json!({"default_intention_policy": "deny"}), ..Options::default() }).await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "http", &app.address).await;
    http_answers(&pair.upstream, 403).await.unwrap();

    agent.intention("*", &pair.db.name, "allow").await.unwrap();
    eventually("200 by the wildcard", SOON, async || http_answers(&pair.upstream, 200).await).await.unwrap();

    // The exact source comes first, whatever the wildcard says.
    agent.intention(&pair.web.name, &pair.db.name, "deny").await.unwrap();
    eventually("403 by the exact source", SOON, async || http_answers(&pair.upstream, 403).await).await.unwrap();

    agent.delete_intention(&pair.web.name, &pair.db.name).await.unwrap();
    eventually("200 by the wildcard again", SOON, async || http_answers(&pair.upstream, 200).await).await.unwrap();
    agent.delete_intention("*", &pair.db.name).await.unwrap();
    eventually("403 by the default", SOON, async || http_answers(&pair.upstream, 403).await).await.unwrap();
    steadily(SOON, async || http_answers(&pair.upstream, 403).await).await.unwrap();
}

/// Contract §3.5: an intention whose permissions do not match leaves it to the default policy, whatever intentions come after it.
async fn no_permission_matches(default: &str, other: &str, status: u16) {
    let agent = Agent::start(Options { config: json!({"default_intention_policy": default}), ..Options::default() }).await.unwrap();
    let mut fleet = Fleet::on(agent.into());
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "db").await;
    let (web, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    let permissions = json!([{"Action": other, "HTTP": {"PathPrefix": "/matched"}}]);
    let sources = json!([{"Name": web, "Permissions": permissions}, {"Name": "*", "Action": other}]);
    fleet.entry("service-intentions", &db, json!({"Sources": sources})).await;
    let matched = if other == "allow" { 200 } else { 403 };
    eventually("the permission", SOON, async || {
        answers_on(&mut HttpClient::http1(&upstream).await?, "/matched", matched).await?;
        answers_on(&mut HttpClient::http1(&upstream).await?, "/other", status).await
    })
    .await
    .unwrap();
    steadily(SOON / 2, async || answers_on(&mut HttpClient::http1(&upstream).await?, "/other", status).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_matches_under_default_allow() {
    no_permission_matches("allow", "deny", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_permission_matches_under_default_deny() {
    no_permission_matches("deny", "allow", 403).await;
}
