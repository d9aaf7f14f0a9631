//! The agent is away; the mesh is not.

use std::time::Duration;

use anyhow::Result;
use aralez_integration::apps;
use aralez_integration::consul::{Agent, Options};
use aralez_integration::load::Load;
use aralez_integration::registration::{Check, Service, Upstream};
use aralez_integration::wait::{eventually, steadily};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Pair, caller, http_answers, kept_alive_get, tcp_refused, tcp_works, unique};

/// How long the agent is away.
const OUTAGE: Duration = Duration::from_secs(30);
/// Between two actions of a worker: the outage is about time, not about speed.
const PACE: Duration = Duration::from_millis(5);
/// Writes of 64 keys each that come before everything else: a restarted agent replays them for a quarter of a second or more, and knows of no
/// service until then.
const OLDER_WRITES: usize = 500;

async fn lengthen_log(agent: &Agent) {
    let writes: Vec<_> = (0..64).map(|key| json!({"KV": {"Verb": "set", "Key": format!("older/{key}"), "Value": "YQ=="}})).collect();
    let writes = json!(writes);
    let written: Result<Vec<_>> =
        stream::iter(0..OLDER_WRITES).map(|_| agent.put("/v1/txn", &writes)).buffer_unordered(32).try_collect().await;
    written.unwrap();
}

/// A pair of which the agent's servers know the most: protocol, intention, instances. Its checks are not reset to critical by a restart.
async fn pair(agent: &Agent, protocol: &str, app: &apps::App) -> Pair {
    let db = Service::new(unique("db"), &app.address).unwrap().check(Check::Ttl);
    let web = caller(Upstream::new(&db.name).unwrap()).check(Check::Ttl);
    for name in [&web.name, &db.name] {
        agent.config_entry(json!({"Kind": "service-defaults", "Name": name, "Protocol": protocol})).await.unwrap();
    }
    agent.intention(&web.name, &db.name, "allow").await.unwrap();
    let pair = Pair::launch(agent, web, db).await;
    for service in [&pair.web, &pair.db] {
        // Only a reported state is kept on disk.
        agent.put(&format!("/v1/agent/check/pass/{}", service.ttl_check()), &Value::Null).await.unwrap();
    }
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_for_thirty_seconds_and_restarted() {
    let config = json!({"default_intention_policy": "deny"});
    let mut agent = Agent::start(Options { persistent: true, config, ..Options::default() }).await.unwrap();
    lengthen_log(&agent).await;
    let (http_app, tcp_app) = (apps::http_echo("db").await.unwrap(), apps::tcp_echo().await.unwrap());
    let mut http = pair(&agent, "http", &http_app).await;
    let tcp = pair(&agent, "tcp", &tcp_app).await;

    let address = http.upstream.clone();
    let requests = Load::start(4, move |client| {
        let address = address.clone();
        async move {
            tokio::time::sleep(PACE).await;
            kept_alive_get(client, &address).await
        }
    });
    let address = tcp.upstream.clone();
    let handshakes = Load::start(2, move |_| {
        let address = address.clone();
        async move {
            tokio::time::sleep(PACE).await;
            tcp_works(&address).await
        }
    });
    requests.progress(100, PATIENCE).await.unwrap();

    agent.kill().unwrap();
    tokio::time::sleep(OUTAGE).await;
    requests.progress(100, PATIENCE).await.unwrap();

    agent.restart().await.unwrap();
    // Watches resume: an upstream added after the restart is opened, while the load goes on.
    let added = Upstream::new(&tcp.db.name).unwrap();
    http.web.upstreams.push(added.clone());
    agent.intention(&http.web.name, &tcp.db.name, "allow").await.unwrap();
    eventually("a registration after the restart", PATIENCE, async || agent.register(&http.web).await).await.unwrap();
    eventually("the upstream added after the restart", 4 * PATIENCE, async || tcp_works(&added.address()).await).await.unwrap();
    requests.progress(100, PATIENCE).await.unwrap();
    requests.stop().await.unwrap().flawless(2000).unwrap();
    handshakes.stop().await.unwrap().flawless(1000).unwrap();

    // … and a new intention is seen on either protocol.
    agent.intention(&http.web.name, &http.db.name, "deny").await.unwrap();
    agent.intention(&tcp.web.name, &tcp.db.name, "deny").await.unwrap();
    eventually("403 by the new intention", 4 * PATIENCE, async || http_answers(&http.upstream, 403).await).await.unwrap();
    eventually("a refusal by the new intention", 4 * PATIENCE, async || tcp_refused(&tcp.upstream).await).await.unwrap();
    steadily(Duration::from_secs(1), async || http_answers(&http.upstream, 403).await).await.unwrap();
}
