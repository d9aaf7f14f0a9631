//! Which instances a name stands for: subsets, health, weights, failover, and an upstream that wants no HTTP.

use anyhow::ensure;
use aralez_integration::clients;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::wait::{eventually, steadily};
use serde_json::{Value, json};

use crate::fleet::{Fleet, answered_by, answerer, app_of, shares};
use crate::scene::{PATIENCE, SOON};

fn subset(version: &str) -> Value {
    json!({"Filter": format!("Service.Meta.version == {version}")})
}

/// Starts an instance whose `Meta.version` is `version`.
async fn run_version(fleet: &mut Fleet, service: &str, instance: &str, version: &str) {
    let registration: Service = fleet.app(service, instance).await.meta("version", version);
    fleet.start(instance, registration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subset_of_only_passing_instances() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "one").await;
    fleet.run(&db, "two").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    answered_by(&upstream, &["one", "two"], SOON).await;

    // A warning instance is served like a passing one, until a subset says otherwise.
    fleet.set_health("two", "warn").await;
    steadily(SOON / 4, async || answerer(&upstream, "/").await.map(drop)).await.unwrap();
    answered_by(&upstream, &["one", "two"], SOON).await;
    let subsets = json!({"DefaultSubset": "good", "Subsets": {"good": {"OnlyPassing": true}}});
    fleet.entry("service-resolver", &db, subsets).await;
    answered_by(&upstream, &["one"], SOON).await;
    fleet.set_health("two", "pass").await;
    answered_by(&upstream, &["one", "two"], SOON).await;
    fleet.set_health("one", "warn").await;
    answered_by(&upstream, &["two"], SOON).await;
    fleet.set_health("two", "fail").await;
    eventually("503", SOON, async || {
        let answer = clients::get(&upstream, "/").await?;
        ensure!(answer.status == 503 && answer.text() == "no healthy upstream", "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await
    .unwrap();
}

/// `Weights` are shares, and a warning check brings the other weight into force.
#[tokio::test(flavor = "multi_thread")]
async fn weights_and_warning_weights() {
    const TOTAL: usize = 500;
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    let (heavy, light) = (fleet.app(&db, "heavy").await.weights(9, 1), fleet.app(&db, "light").await);
    fleet.start("heavy", heavy).await;
    fleet.start("light", light).await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;

    // Round robin by weight draws no lots: the share is exact but for the turn at which it begins.
    let seen = shares(&upstream, TOTAL).await["light"];
    assert!((45..=55).contains(&seen), "a tenth of {TOTAL} expected: {seen}");

    fleet.set_health("heavy", "warn").await;
    eventually("an even share", PATIENCE, async || {
        let light = shares(&upstream, TOTAL).await["light"];
        ensure!((225..=275).contains(&light), "{light}");
        Ok(())
    })
    .await
    .unwrap();
}

/// To another service and back.
#[tokio::test(flavor = "multi_thread")]
async fn failover_by_service_and_return() {
    let mut fleet = Fleet::shared().await;
    let (db, spare) = (fleet.service("db", "http").await, fleet.service("spare", "http").await);
    let nowhere = fleet.service("nowhere", "http").await;
    let failover = json!({"*": {"Targets": [{"Service": nowhere}, {"Service": &spare}]}});
    fleet.entry("service-resolver", &db, json!({"Failover": failover})).await;
    fleet.run(&db, "db").await;
    fleet.run(&spare, "spare").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    answered_by(&upstream, &["db"], SOON).await;

    fleet.set_health("db", "fail").await;
    answered_by(&upstream, &["spare"], SOON).await;
    fleet.set_health("db", "pass").await;
    answered_by(&upstream, &["db"], SOON).await;
}

/// From one subset to another of the same service, and back. The other subset has no such rule.
#[tokio::test(flavor = "multi_thread")]
async fn failover_by_subset_and_return() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    let subsets = json!({"v1": subset("v1"), "v2": subset("v2")});
    let resolver = json!({"DefaultSubset": "v1", "Subsets": subsets, "Failover": {"v1": {"ServiceSubset": "v2"}}});
    fleet.entry("service-resolver", &db, resolver).await;
    run_version(&mut fleet, &db, "one", "v1").await;
    run_version(&mut fleet, &db, "two", "v2").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    answered_by(&upstream, &["one"], SOON).await;

    fleet.set_health("one", "fail").await;
    answered_by(&upstream, &["two"], SOON).await;
    fleet.set_health("one", "pass").await;
    answered_by(&upstream, &["one"], SOON).await;
}

/// Contract §4.1: `OverrideProtocol: tcp` drops routers and splitters; the bytes go to the service itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_protocol_tcp_skips_the_router() {
    let mut fleet = Fleet::shared().await;
    let (db, other) = (fleet.service("db", "http").await, fleet.service("other", "http").await);
    let route = json!({"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"Service": &other}});
    fleet.entry("service-router", &db, json!({"Routes": [route]})).await;
    fleet.run(&db, "db").await;
    fleet.run(&other, "other").await;
    let (_, routed) = fleet.call(Upstream::new(&db).unwrap()).await;
    let (_, plain) = fleet.call(Upstream::new(&db).unwrap().protocol("tcp")).await;
    answered_by(&routed, &["other"], SOON).await;
    answered_by(&plain, &["db"], SOON).await;
}

/// A change of the chain is live: no restart, and the first answers after it are right or as before.
#[tokio::test(flavor = "multi_thread")]
async fn routes_come_and_go_while_the_sidecar_runs() {
    let mut fleet = Fleet::shared().await;
    let (db, other) = (fleet.service("db", "http").await, fleet.service("other", "http").await);
    fleet.run(&db, "db").await;
    fleet.run(&other, "other").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    answered_by(&upstream, &["db"], SOON).await;

    let route = json!({"Match": {"HTTP": {"PathPrefix": "/other/"}}, "Destination": {"Service": &other, "PrefixRewrite": "/"}});
    fleet.entry("service-router", &db, json!({"Routes": [route]})).await;
    eventually("the route", SOON, async || {
        let answer = clients::get(&upstream, "/other/x").await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        ensure!(app_of(&answer)? == "other", "not yet");
        Ok(())
    })
    .await
    .unwrap();
    answered_by(&upstream, &["db"], SOON).await;

    fleet.agent.delete(&format!("/v1/config/service-router/{db}")).await.unwrap();
    eventually("no route", SOON, async || {
        let name = answerer(&upstream, "/other/x").await?;
        ensure!(name == "db", "{name}");
        Ok(())
    })
    .await
    .unwrap();
}
