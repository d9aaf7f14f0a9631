//! Services that the reverse proxy calls through their sidecars: `connect: true`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use aralez_integration::{
    apps::{self, http_echo},
    wait::eventually,
};

use super::{Edge, Setup};
use crate::support::{
    fake_agent::{Endpoint, FakeAgent, Fault, Instance, intention},
    mesh::{Backend, EFFECT, RECOVERY, announce, api, assert_flawless, load},
    sidecar::Launch,
};

/// A proxy called `edge` with the service `api` at `/` and a server of its own at `/old`.
fn setup(agent: &FakeAgent, old: &apps::App) -> Setup {
    asking(&[agent.address()], old)
}

fn asking(agents: &[String], old: &apps::App) -> Setup {
    Setup::new(&format!(
        "consul: {{servers: {agents:?}, service: edge}}\nupstreams:\n  \"*\":\n    paths:\n      /: {{consul: {{service: api, connect: true}}}}\n      \
         /old: {{servers: [\"{}\"]}}\n",
        old.address
    ))
}

async fn answers(edge: &Edge, path: &str, status: u16, limit: Duration) {
    let what = format!("{status} of {path}");
    let answered = eventually(&what, limit, async || {
        let answer = edge.get("a.test", path).await;
        ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
        Ok(())
    });
    answered.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_called_through_its_sidecar_under_its_intentions() {
    let (agent, old) = (FakeAgent::start().await, http_echo("old").await.unwrap());
    agent.set_default_policy("deny", None);
    agent.set_intentions("api", vec![intention("edge", "api", "allow")]);
    let backend = Backend::start(&agent, "api", "api-1").await;
    agent.set_instances("api", vec![backend.instance.clone()]);
    let edge = setup(&agent, &old).start().await;
    assert_eq!(edge.get("a.test", "/").await.headers["x-app"], "api-1");
    assert_eq!(edge.get("a.test", "/old").await.headers["x-app"], "old");

    agent.set_intentions("api", vec![intention("edge", "api", "deny")]);
    answers(&edge, "/", 403, EFFECT).await;
    let log = backend.sidecar.logged("denied", RECOVERY).await;
    assert!(log.contains("/svc/edge"), "the denied caller is named: {log}");
    assert_eq!(edge.get("a.test", "/old").await.status, 200);
    agent.set_intentions("api", vec![intention("edge", "api", "allow")]);
    answers(&edge, "/", 200, EFFECT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leaf_its_routes_alone_answer_503_and_readiness_says_so() {
    let (agent, old) = (FakeAgent::start().await, http_echo("old").await.unwrap());
    let backend = Backend::start(&agent, "api", "api-1").await;
    agent.set_instances("api", vec![backend.instance.clone()]);
    agent.fail(Endpoint::Leaf, Fault::Status(500));
    let mut edge = setup(&agent, &old).spawn();
    edge.aralez.not_ready_for(&["ingress: leaf of edge"]).await;
    let bound = eventually("the listener", RECOVERY, async || edge.http.connect().await.map(drop).context("not yet"));
    bound.await.unwrap();
    assert_eq!(edge.get("a.test", "/old").await.status, 200);
    assert_eq!(edge.get("a.test", "/").await.status, 503);
    agent.heal(Endpoint::Leaf);
    edge.aralez.ready().await;
    assert_eq!(edge.get("a.test", "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_at_the_address_of_an_instance_gets_nothing() {
    let (agent, old) = (FakeAgent::start().await, http_echo("old").await.unwrap());
    let stranger = Backend::start(&agent, "other", "other-1").await;
    agent.set_instances("api", vec![stranger.instance.clone()]);
    let edge = setup(&agent, &old).start().await;
    let answer = edge.get("a.test", "/").await;
    assert_eq!((answer.status.as_u16(), stranger.app.requests()), (503, 0), "{}", answer.text());
    let reason = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    assert_eq!(answer.text(), reason, "no identity is told to clients");
    edge.aralez.logged("/svc/other", RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_leaf_an_agent_away_and_instances_that_come_and_go_fail_no_request() {
    let (mut agent, old) = (FakeAgent::start().await, http_echo("old").await.unwrap());
    let app = http_echo("api-1").await.unwrap();
    let first = api(&app, "http");
    announce(&agent, &first);
    let _first = Launch::sidecar_for(&agent, "api-1").start().await;
    let edge = setup(&agent, &old).replace_main("threads: 2", "threads: 1").start().await;
    agent.reissue_leaf("edge");
    let load = load(&edge.http, 2);
    load.progress(50, RECOVERY).await.unwrap();
    let renewed = agent.reissue_leaf("edge");
    let serial = format!("{:02x}", renewed.serial);
    let shown = eventually("the renewed leaf", EFFECT, async || {
        let text = edge.aralez.admin("/snapshot").await?.text();
        text.contains(&format!("\"serial\":\"{serial}\"")).then_some(()).context(text)
    });
    shown.await.unwrap();
    load.progress(50, RECOVERY).await.unwrap();
    let second = Backend::start(&agent, "api", "api-2").await;
    agent.set_instances("api", vec![second.instance.clone(), Instance::new(&first.proxy_id(), first.public_port)]);
    let both = eventually("the second instance to be called", RECOVERY, async || {
        ensure!(second.app.requests() > 0);
        Ok(())
    });
    both.await.unwrap();
    agent.kill().await;
    load.progress(50, RECOVERY).await.unwrap();
    agent.revive().await;
    agent.set_instances("api", vec![Instance::new(&first.proxy_id(), first.public_port)]);
    load.progress(50, RECOVERY).await.unwrap();
    assert_flawless(load, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_other_routes_serve_at_once_and_the_start_is_done() {
    let (mut agent, old) = (FakeAgent::start().await, http_echo("old").await.unwrap());
    let backend = Backend::start(&agent, "api", "api-1").await;
    agent.set_instances("api", vec![backend.instance.clone()]);
    agent.kill().await;
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let mut edge = setup(&agent, &old).main(&format!("pid_file: {}", pid_file.display())).spawn();
    // Written once it serves; what waits for that (systemd, whoever started it in the background) must not wait for Consul.
    let started = eventually("the pid file", RECOVERY, async || std::fs::read_to_string(&pid_file).map_err(Into::into));
    started.await.unwrap();
    assert_eq!((edge.get("a.test", "/old").await.status.as_u16(), edge.get("a.test", "/").await.status.as_u16()), (200, 503));
    let missing = edge.aralez.not_ready_for(&["ingress: leaf of edge", "ingress: roots of edge", "ingress: api: discovery chain"]).await;
    assert!(!missing.contains("listener"), "{missing}");
    agent.revive().await;
    edge.aralez.ready().await;
    assert_eq!(edge.get("a.test", "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_is_asked_when_one_does_not_answer() {
    let (mut agent, old) = (FakeAgent::start().await, http_echo("old").await.unwrap());
    let mut nobody = FakeAgent::start().await;
    nobody.kill().await;
    let backend = Backend::start(&agent, "api", "api-1").await;
    agent.set_instances("api", vec![backend.instance.clone()]);
    let edge = asking(&[nobody.address(), agent.address()], &old).start().await;
    assert_eq!(edge.get("a.test", "/").await.headers["x-app"], "api-1");
    // Both are away for a while, and what was known stays.
    agent.kill().await;
    assert_eq!(edge.get("a.test", "/").await.status, 200);
    agent.revive().await;
    agent.set_instances("api", Vec::new());
    answers(&edge, "/", 503, RECOVERY).await;
    agent.set_instances("api", vec![backend.instance.clone()]);
    answers(&edge, "/", 200, RECOVERY).await;
}
