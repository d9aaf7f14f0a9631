//! How the sidecar treats its agent: tokens, connections, rates, and an agent that dies.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::http_echo;
use aralez_integration::clients;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use serde_json::Value;

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, Instance, intention, upstream};
use crate::support::mesh::{Mesh, RECOVERY, assert_flawless, web};
use crate::support::sidecar::Launch;

/// Connections of one sidecar with ten upstreams. The agent allows 200 for all clients of an address.
const MOST_CONNECTIONS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn ten_upstreams_keep_few_connections_and_an_idle_agent_quiet() {
    let agent = FakeAgent::start().await;
    let upstreams: Vec<Value> = (0..10).map(|n| upstream(&format!("api-{n}"), free_port().unwrap(), "http")).collect();
    agent.register(&web(upstreams));
    for n in 0..10 {
        agent.set_instances(&format!("api-{n}"), vec![Instance::new(&format!("api-{n}"), free_port().unwrap())]);
    }
    let _web = Launch::sidecar_for(&agent, "web-1").start().await;
    let quiet = eventually("a quiet agent", RECOVERY, async || {
        let calls = agent.calls().len();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let more = agent.calls().len() - calls;
        ensure!(more <= 2, "{more} calls in 2 s of nothing new");
        Ok(())
    });
    quiet.await.unwrap();
    let (now, peak) = (agent.connections(), agent.peak_connections());
    println!("10 upstreams: {now} connections to the agent, {peak} at most, {} calls", agent.calls().len());
    assert!(peak <= MOST_CONNECTIONS, "{peak} connections at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_keep_to_the_contract() {
    let mesh = Mesh::start("http").await;
    // Which is the second round of calls.
    mesh.leaf_shown(mesh.agent.reissue_leaf("api").serial, RECOVERY).await;
    for call in mesh.agent.calls() {
        let said = format!("{} {} {:?}", call.method, call.path, call.query);
        let topic = call.topic.as_ref().unwrap_or_else(|| panic!("outside of the contract: {said}"));
        // Consul CE refuses both, even with the value "default".
        assert!(!call.query.contains_key("ns") && !call.query.contains_key("partition"), "{said}");
        // "passing" drops warning instances too.
        assert!(!call.query.contains_key("passing"), "{said}");
        assert!(call.index() != Some(0) || !call.query.contains_key("wait"), "waits on index 0, which never waits: {said}");
        let writes = matches!(topic.endpoint, Endpoint::Authorize | Endpoint::Chain);
        assert!(call.method == "GET" || writes && call.method == "POST", "{said}");
        assert!(call.token().is_none(), "a token from nowhere: {said}");
    }
    let followed = mesh.agent.calls_of(Endpoint::Leaf).iter().any(|call| call.index().is_some_and(|index| index >= 100));
    assert!(followed, "no call waits on the index it was given");
}

/// The pauses between the calls of one watch of `api` while its endpoint fails for `lasting`.
async fn pauses_under(fault: Fault, lasting: Duration) -> Vec<Duration> {
    let mesh = Mesh::start("http").await;
    let before = mesh.agent.calls_of(Endpoint::Health).len();
    mesh.agent.fail(Endpoint::Health, fault);
    tokio::time::sleep(lasting).await;
    let calls = mesh.agent.calls_of(Endpoint::Health).split_off(before);
    calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_grow_while_calls_fail() {
    let pauses = pauses_under(Fault::Status(500), Duration::from_secs(8)).await;
    println!("pauses between failing calls: {pauses:?}");
    let (first, last) = (pauses.first().expect("no retry in 8 s"), pauses.last().unwrap());
    assert!(pauses.len() >= 2 && *last >= *first + Duration::from_millis(200), "{pauses:?}");
    assert!(*last >= Duration::from_secs(1), "{pauses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_news_are_taken_once_a_second_at_most() {
    let pauses = pauses_under(Fault::Churn, Duration::from_secs(5)).await;
    println!("pauses under churn: {pauses:?}");
    assert!(!pauses.is_empty() && pauses.len() <= 8, "{} calls in 5 s", pauses.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_with_every_call() {
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![upstream("api", free_port().unwrap(), "http")]));
    agent.require_token(Some("the-token"));
    let _web = Launch::sidecar_for(&agent, "web-1").env("CONSUL_HTTP_TOKEN", "the-token").start().await;
    for call in agent.calls() {
        assert_eq!(call.token(), Some("the-token"), "{}", call.path);
        assert!(!call.query.contains_key("token"), "a token in a URL: {}", call.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_read_again_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![upstream("api", free_port().unwrap(), "http")]));
    agent.require_token(Some("first"));
    let launch = Launch::sidecar_for(&agent, "web-1").env("CONSUL_HTTP_TOKEN_FILE", file.to_str().unwrap());
    let mut web = launch.start().await;

    agent.require_token(Some("second"));
    let refused = eventually("calls with the revoked token", RECOVERY, async || {
        agent.reissue_leaf("web");
        let last = agent.calls_of(Endpoint::Leaf).len();
        ensure!(last > 2, "{last} calls for the leaf");
        Ok(())
    });
    refused.await.unwrap();
    web.assert_alive().await;
    let before = agent.calls().len();
    std::fs::write(&file, "second\n").unwrap();
    let used = eventually("the new token in every kind of call", RECOVERY, async || {
        agent.reissue_leaf("web");
        let calls = agent.calls().split_off(before);
        for endpoint in [Endpoint::Registration, Endpoint::Leaf, Endpoint::Intentions, Endpoint::Chain, Endpoint::Health] {
            let with_new = calls.iter().any(|call| call.is(endpoint) && call.token() == Some("second"));
            ensure!(with_new, "{endpoint:?} is not asked with the new token yet");
        }
        Ok(())
    });
    used.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_costs_no_request_and_its_return_is_noticed() {
    let mut mesh = Mesh::start("http").await;
    let load = mesh.load(2);
    load.progress(50, RECOVERY).await.unwrap();
    mesh.agent.kill().await;
    load.progress(300, RECOVERY).await.unwrap();
    for sidecar in [&mesh.web, &mesh.api] {
        assert_eq!(sidecar.admin("/ready").await.unwrap().status, 200, "the last good snapshot still serves");
    }
    mesh.agent.revive().await;
    mesh.leaf_shown(mesh.agent.reissue_leaf("api").serial, RECOVERY).await;
    load.progress(50, RECOVERY).await.unwrap();
    let report = assert_flawless(load, 400).await;
    println!("agent down: 0 of {} failed", report.ok);
    mesh.web.assert_alive().await;
}

/// As seen on Consul 1.20.1: a restarted server answers from an empty store until it has applied its log.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_server_replays_its_log_is_not_believed() {
    let agent = FakeAgent::start().await;
    agent.set_default_policy("deny", None);
    agent.set_intentions("api", vec![intention("web", "api", "allow")]);
    let mut mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    let load = mesh.load(2);
    load.progress(50, RECOVERY).await.unwrap();

    mesh.agent.kill().await;
    let before = mesh.agent.calls().len();
    mesh.agent.replay(true);
    mesh.agent.revive().await;
    let asked = eventually("questions to the replaying agent", RECOVERY, async || {
        let asked = mesh.agent.calls().len() - before;
        ensure!(asked >= 10, "{asked} by the ten watches of two sidecars that were held");
        Ok(())
    });
    asked.await.unwrap();
    load.progress(300, RECOVERY).await.unwrap();

    mesh.agent.replay(false);
    mesh.leaf_shown(mesh.agent.reissue_leaf("api").serial, RECOVERY).await;
    load.progress(50, RECOVERY).await.unwrap();
    assert_flawless(load, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_default_policy_is_learnt_when_the_agent_comes_back() {
    let mut mesh = Mesh::start("http").await;
    mesh.agent.kill().await;
    mesh.api.logged("Connection refused", RECOVERY).await;
    mesh.agent.set_default_policy("deny", None);
    mesh.agent.revive().await;
    let learnt = eventually("403 by the new default", RECOVERY * 2, async || {
        let answer = clients::get(&mesh.entry, "/").await?;
        ensure!(answer.status == 403, "{}", answer.status);
        Ok(())
    });
    learnt.await.unwrap();
}
