//! What a registration says and Aralez does not do is named, once.

use anyhow::ensure;
use aralez_integration::apps;
use aralez_integration::consul::Agent;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::wait::eventually;

use crate::scene::{Pair, SOON, caller, http_answers, unique};

/// Raw Envoy configuration (contract §1.6: escape hatches), and a name that nobody knows.
const KEYS: [&str; 3] = ["envoy_public_listener_json", "envoy_local_cluster_json", "no_such_key"];
const UPSTREAM_KEYS: [&str; 2] = ["envoy_listener_json", "envoy_cluster_json"];

#[tokio::test(flavor = "multi_thread")]
async fn unusable_keys_are_named_once() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap().protocol("http");
    let upstream = Upstream::new(&db.name).unwrap().protocol("http");
    let upstream = UPSTREAM_KEYS.iter().fold(upstream, |upstream, key| upstream.config(key, "{}"));
    let web = KEYS.iter().fold(caller(upstream), |web, key| web.config(key, "{}"));
    let pair = Pair::launch(&agent, web, db).await;
    // The rest works.
    http_answers(&pair.upstream, 200).await.unwrap();

    // A change that has nothing to do with them: they are not named anew.
    let changed = pair.web.clone().config("max_inbound_connections", 4321);
    agent.register(&changed).await.unwrap();
    eventually("the change", SOON, async || {
        let snapshot = pair.web_sidecar.admin("/snapshot").await?.text();
        ensure!(snapshot.contains("4321"), "{snapshot}");
        Ok(())
    })
    .await
    .unwrap();
    let snapshot = pair.web_sidecar.admin("/snapshot").await.unwrap().text();
    let log = pair.web_sidecar.log();
    for key in KEYS.into_iter().chain(UPSTREAM_KEYS) {
        assert!(snapshot.contains(key), "{key} is not in {snapshot}");
        assert_eq!(log.lines().filter(|line| line.contains(key)).count(), 1, "{key} in {log}");
    }
}
