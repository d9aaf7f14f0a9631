//! Bounds that protect a service, and instances that are left out because they fail.

use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::apps;
use aralez_integration::clients::{self, Response};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::wait::{eventually, steadily};
use serde_json::json;
use tokio::task::JoinSet;

use crate::fleet::{Fleet, app_of, shares};
use crate::logs::{Log, logging_agent};
use crate::scene::{PATIENCE, Pair, caller, echoes, tcp_refused, tcp_works, unique};

/// `count` calls at once to an app that holds them.
async fn held(fleet: &Fleet, upstream: &Address, count: u64) -> JoinSet<Result<Response>> {
    let app = fleet.of("db");
    app.hold();
    let mut calls = JoinSet::new();
    let before = app.requests();
    for _ in 0..count {
        let address = upstream.clone();
        calls.spawn(async move { clients::get(&address, "/held").await });
    }
    eventually("the held calls", PATIENCE, async || {
        ensure!(app.requests() - before == count, "{} of {count}", app.requests() - before);
        Ok(())
    })
    .await
    .unwrap();
    calls
}

async fn all_answer(mut calls: JoinSet<Result<Response>>) {
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_concurrent_requests_overflow() {
    let format = json!({"path": "%REQ(:PATH)%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%"}).to_string();
    let log = Log::new();
    let agent = logging_agent(json!({"Type": "file", "Path": log.path(), "JSONFormat": format})).await;
    let mut fleet = Fleet::on(agent);
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "db").await;
    let upstream = Upstream::new(&db).unwrap().config("limits", json!({"max_concurrent_requests": 1}));
    let (_, upstream) = fleet.call(upstream).await;

    let calls = held(&fleet, &upstream, 1).await;
    for _ in 0..3 {
        let answer = clients::get(&upstream, "/over").await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    assert_eq!(fleet.of("db").requests(), 1, "an overflowing request reached the app");
    log.line("an overflow", |line| line["path"] == "/over" && line["flags"] == "UO").await.unwrap();
    fleet.of("db").release();
    all_answer(calls).await;
    assert_eq!(clients::get(&upstream, "/").await.unwrap().status, 200);
}

/// The limit comes from central configuration too, in its other spelling, and allows as many as it says.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_central_configuration() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "db").await;
    let web = caller(Upstream::new(&db).unwrap());
    let limits = json!({"Limits": {"MaxConcurrentRequests": 3}});
    fleet.entry("service-defaults", &web.name, json!({"UpstreamConfig": {"Defaults": limits}})).await;
    fleet.start_caller(&web).await;
    let upstream = web.upstreams[0].address();

    let calls = held(&fleet, &upstream, 3).await;
    assert_eq!(clients::get(&upstream, "/over").await.unwrap().status, 503);
    fleet.of("db").release();
    all_answer(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_connections_are_closed() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap();
    let upstream = Upstream::new(&db.name).unwrap().config("limits", json!({"max_connections": 1}));
    let pair = Pair::launch(&agent, caller(upstream), db).await;

    let mut first = pair.upstream.connect().await.unwrap();
    echoes(&mut first, b"hello").await.unwrap();
    tcp_refused(&pair.upstream).await.unwrap();
    echoes(&mut first, b"still here").await.unwrap();
    drop(first);
    eventually("a free place", PATIENCE, async || tcp_works(&pair.upstream).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_inbound_connections_are_closed() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap().config("max_inbound_connections", 2);
    let upstream = Upstream::new(&db.name).unwrap();
    let pair = Pair::launch(&agent, caller(upstream), db).await;

    let mut open = Vec::new();
    for _ in 0..2 {
        // The agent's own TCP check counts while it lasts.
        let stream = eventually("a place", PATIENCE, async || {
            let mut stream = pair.upstream.connect().await?;
            echoes(&mut stream, b"hello").await.map(|()| stream)
        });
        open.push(stream.await.unwrap());
    }
    steadily(Duration::from_millis(500), async || tcp_refused(&pair.upstream).await).await.unwrap();
    assert_eq!(app.connections(), 2);
    for stream in &mut open {
        echoes(stream, b"still here").await.unwrap();
    }
    open.pop();
    eventually("a free place", PATIENCE, async || tcp_works(&pair.upstream).await).await.unwrap();
}

/// An instance that answers 500 is left out after `max_failures` in a row, for `base_ejection_time`, and comes back when it is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_instance_is_left_out_and_comes_back() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "good").await;
    fleet.run(&db, "bad").await;
    let passive = json!({
        "interval": "500ms", "max_failures": 3, "base_ejection_time": "5s", "max_ejection_percent": 100, "enforcing_consecutive_5xx": 100,
    });
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap().config("passive_health_check", passive)).await;
    fleet.of("bad").answer_always(500);

    let mut failures = 0;
    for _ in 0..20 {
        failures += u32::from(clients::get(&upstream, "/").await.unwrap().status == 500);
    }
    assert_eq!(failures, 3, "the failures that eject, and none after");
    fleet.of("bad").answer_always(200);
    eventually("both instances again", PATIENCE, async || {
        ensure!(shares(&upstream, 10).await.len() == 2, "only one");
        Ok(())
    })
    .await
    .unwrap();

    // Failures that do not come in a row eject nobody: it keeps its turns.
    for _ in 0..5 {
        fleet.of("bad").answer_next([500, 500]);
        let mut turns = Vec::new();
        while turns.iter().filter(|turn| *turn == "bad").count() < 3 {
            turns.push(app_of(&clients::get(&upstream, "/").await.unwrap()).unwrap());
        }
        assert!(turns.len() <= 6, "{turns:?}");
    }
}
