//! How long a call may take, on either side.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aralez_integration::clients::{self, Response};
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::scene::{PATIENCE, SOON};

/// Much less than the 15 s that hold when nothing is said (contract §4.1), much more than a call that is not held takes.
const SHORT: Duration = Duration::from_secs(8);

/// `db` with an instance of that name, whose registration `change` completes, and a caller.
async fn scene(entries: &[(&str, Value)], change: impl FnOnce(Service) -> Service) -> (Fleet, String, Address) {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    for (kind, fields) in entries {
        fleet.entry(kind, &db, fields.clone()).await;
    }
    let instance = fleet.app(&db, "db").await;
    fleet.start("db", change(instance)).await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    (fleet, db, upstream)
}

fn routes(routes: Value) -> (&'static str, Value) {
    ("service-router", json!({"Routes": routes}))
}

/// The answer is 504 with Envoy's words, and came before the usual time was up.
async fn times_out(address: &Address, path: &str) -> Result<()> {
    let asked = Instant::now();
    let answer = clients::get(address, path).await?;
    is_timeout(&answer)?;
    ensure!(asked.elapsed() < SHORT, "{:?}", asked.elapsed());
    Ok(())
}

fn is_timeout(answer: &Response) -> Result<()> {
    ensure!(answer.status == 504, "{}: {}", answer.status, answer.text());
    ensure!(answer.text() == "upstream request timeout", "{}", answer.text());
    Ok(())
}

async fn works(address: &Address, path: &str) {
    let answer = clients::get(address, path).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_ends_a_call_that_takes_too_long() {
    let short = json!({"Match": {"HTTP": {"PathPrefix": "/short"}}, "Destination": {"RequestTimeout": "300ms"}});
    let (fleet, _, upstream) = scene(&[routes(json!([short]))], |db| db).await;
    works(&upstream, "/short").await;
    works(&upstream, "/other").await;

    fleet.of("db").hold();
    times_out(&upstream, "/short").await.unwrap();
    fleet.of("db").release();
    works(&upstream, "/short").await;
}

/// The resolver's own limit holds where the chain begins with it, and only there.
#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_ends_a_call_that_takes_too_long() {
    let resolver = ("service-resolver", json!({"RequestTimeout": "300ms"}));
    let (fleet, db, upstream) = scene(&[resolver], |db| db).await;
    works(&upstream, "/").await;
    fleet.of("db").hold();
    times_out(&upstream, "/").await.unwrap();
    fleet.of("db").release();

    let other = json!({"Match": {"HTTP": {"PathPrefix": "/other"}}, "Destination": {}});
    let (kind, fields) = routes(json!([other]));
    fleet.entry(kind, &db, fields).await;
    // Longer than the resolver's limit, which a router takes out of force.
    eventually("an answer after 600 ms", PATIENCE, async || {
        let answer = clients::get(&upstream, "/slow?ms=600").await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await
    .unwrap();
}

/// Contract §1.6 and §4.1: 15 s on both sides when nothing is said; a negative timeout of the route and a local one of 0 lift them.
#[tokio::test(flavor = "multi_thread")]
async fn a_negative_timeout_is_none() {
    let long = json!({"Match": {"HTTP": {"PathPrefix": "/long"}}, "Destination": {"RequestTimeout": "-1s"}});
    let (_fleet, _, upstream) = scene(&[routes(json!([long]))], |db| db.config("local_request_timeout_ms", 0)).await;

    // Just over the usual limit, at once on both routes.
    let long = clients::get(&upstream, "/long/slow?ms=16500");
    let usual = clients::get(&upstream, "/usual/slow?ms=16500");
    let (long, usual) = tokio::join!(long, usual);
    assert_eq!(long.unwrap().status, 200);
    is_timeout(&usual.unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_app_may_take_so_long() {
    let (mut fleet, _, upstream) = scene(&[], |db| db.config("local_request_timeout_ms", 300)).await;
    works(&upstream, "/").await;
    fleet.of("db").hold();
    times_out(&upstream, "/").await.unwrap();
    fleet.of("db").release();
    works(&upstream, "/").await;

    // The setting is live.
    let lifted = fleet.registered("db").clone().config("local_request_timeout_ms", 5000);
    fleet.agent.register(&lifted).await.unwrap();
    eventually("an answer after 600 ms", SOON, async || {
        let answer = clients::get(&upstream, "/slow?ms=600").await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await
    .unwrap();
    assert!(fleet.sidecar("db").admin("/ready").await.unwrap().status == 200);
}
