//! Edits of headers by routes and by the legs of a split. What must come out was seen with Envoy under the same Consul.

use anyhow::{Context, Result, ensure};
use aralez_integration::clients::{self, request};
use aralez_integration::net::Address;
use aralez_integration::registration::Upstream;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::scene::SOON;

/// `db`, a router with one route for `/edited`, a splitter with one leg, and a caller.
async fn scene(route: Value, leg: Value) -> (Fleet, Address) {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    let mut split = leg;
    split["Weight"] = json!(100);
    fleet.entry("service-splitter", &db, json!({"Splits": [split]})).await;
    fleet.entry("service-router", &db, json!({"Routes": [{"Match": {"HTTP": {"PathPrefix": "/edited"}}, "Destination": route}]})).await;
    fleet.run(&db, "db").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    (fleet, upstream)
}

/// What the app received under this name, in order.
fn received(dump: &str, name: &str) -> Vec<String> {
    dump.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_requests() {
    let route = json!({"RequestHeaders": {
        "Add": {"x-added": "route", "x-client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "x-sign": "100%%"},
        "Set": {"x-set": "route", "x-kept": "route"},
        "Remove": ["x-secret"],
    }});
    let leg =
        json!({"RequestHeaders": {"Add": {"x-added": "leg"}, "Set": {"x-set": "leg", "x-leg": "leg"}, "Remove": ["x-kept", "x-gone"]}});
    let (_fleet, upstream) = scene(route, leg).await;
    let mut call = request(Method::GET, "/edited/debug?env=dump", "").unwrap();
    for name in ["x-added", "x-set", "x-leg", "x-secret", "x-gone", "x-kept"] {
        call.headers_mut().insert(name, HeaderValue::from_static("app"));
    }
    let dump = clients::once(&upstream, call).await.unwrap().text();
    let table: [(&str, &[&str]); 8] = [
        // A line of its own each, the leg's before the route's.
        ("X-Added", &["app", "leg", "route"]),
        // The leg is edited first, so the route has the last word.
        ("X-Set", &["route"]),
        ("X-Kept", &["route"]),
        ("X-Leg", &["leg"]),
        ("X-Secret", &[]),
        ("X-Gone", &[]),
        ("X-Client", &["127.0.0.1"]),
        ("X-Sign", &["100%"]),
    ];
    for (name, values) in table {
        assert_eq!(received(&dump, name), values, "{name} in {dump}");
    }
}

fn has(answer: &clients::Response, name: &str, values: &[&str]) -> Result<()> {
    let seen: Vec<_> = answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    ensure!(seen == values, "{name}: {seen:?}, not {values:?}");
    Ok(())
}

/// Answers that the sidecar gives itself are edited too.
#[tokio::test(flavor = "multi_thread")]
async fn of_answers() {
    let route = json!({"ResponseHeaders": {"Add": {"x-added": "route"}, "Set": {"x-status": "%RESPONSE_CODE%"}, "Remove": ["x-secret"]}});
    let leg = json!({"ResponseHeaders": {"Add": {"x-added": "leg"}, "Set": {"x-leg": "leg"}}});
    let (fleet, upstream) = scene(route, leg).await;
    let path = "/edited/echo?header=x-added:app&header=x-secret:app&header=x-status:app";
    let answer = clients::get(&upstream, path).await.unwrap();
    has(&answer, "x-added", &["app", "leg", "route"]).unwrap();
    has(&answer, "x-status", &["200"]).unwrap();
    has(&answer, "x-secret", &[]).unwrap();
    has(&answer, "x-leg", &["leg"]).unwrap();
    // Another route, the same leg.
    let other = clients::get(&upstream, "/other/echo?header=x-secret:app").await.unwrap();
    has(&other, "x-secret", &["app"]).unwrap();
    has(&other, "x-added", &["leg"]).unwrap();

    fleet.set_health("db", "fail").await;
    eventually("an edited 503", SOON, async || {
        let answer = clients::get(&upstream, path).await?;
        ensure!(answer.status == 503, "{}", answer.status);
        has(&answer, "x-added", &["leg", "route"]).context("on 503")?;
        has(&answer, "x-status", &["503"])
    })
    .await
    .unwrap();
}
