//! `/status.json`, and the page that shows it.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use aralez_integration::apps::http_echo;
use aralez_integration::clients;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::ingress::{MASTER_KEY, Setup};
use crate::support::fake_agent::{FakeAgent, intention};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY};
use crate::support::sidecar::Aralez;

async fn status(of: &Aralez) -> anyhow::Result<Value> {
    let answer = of.admin("/status.json").await?;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(serde_json::from_str(&answer.text())?)
}

fn listener<'a>(status: &'a Value, role: &str) -> anyhow::Result<&'a Value> {
    let listeners = status["listeners"].as_array().context("no listeners")?;
    listeners.iter().find(|listener| listener["role"] == role).with_context(|| format!("no {role} in {status}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_its_reason_and_a_rule_counts_over_its_changes() {
    let agent = FakeAgent::start().await;
    agent.set_intentions("api", vec![intention("web", "api", "deny")]);
    let mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    for _ in 0..2 {
        assert_eq!(clients::get(&mesh.entry, "/orders/7?card=4111-1111").await.unwrap().status, 403);
    }
    let denied = eventually("both refusals", RECOVERY, async || {
        let status = status(&mesh.api).await?;
        ensure!(status["refusals"]["total"] == 2, "{}", status["refusals"]);
        Ok(status)
    });
    let denied = denied.await.unwrap();
    assert!(!denied.to_string().contains("4111"), "a query in {denied}");
    let last = &denied["refusals"]["last"][0];
    let told =
        json!([last["number"], last["source"], last["method"], last["path"], last["status"], last["flag"], last["reason"], last["why"]]);
    let why = "intention web -> api (precedence 9) denies it";
    assert_eq!(told, json!([2, "web", "GET", "/orders/7", 403, "UAEX", "intention_denied", why]));
    let rule = |status: &Value| -> anyhow::Result<Value> {
        let rule = &listener(status, "public")?["intentions"]["rules"][0];
        Ok(json!([rule["intention"], rule["action"], rule["allowed"], rule["denied"]]))
    };
    assert_eq!(rule(&denied).unwrap(), json!(["web -> api (precedence 9)", "deny", 0, 2]));

    mesh.agent.set_intentions("api", vec![intention("web", "api", "allow")]);
    mesh.answered_by("api-1", EFFECT).await;
    let now = status(&mesh.api).await.unwrap();
    let [name, action, allowed, denied] = &rule(&now).unwrap().as_array().unwrap().clone()[..] else { panic!("{now}") };
    assert_eq!((name, action), (&json!("web -> api (precedence 9)"), &json!("allow")));
    assert!(allowed.as_u64() >= Some(1) && denied.as_u64() >= Some(2), "{now}");
    let served = &listener(&now, "public").unwrap()["traffic"]["answers"];
    assert!(served["2xx"].as_u64() >= Some(1) && served["4xx"].as_u64() >= Some(2), "{served}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_shows_its_leaf_its_upstreams_and_its_watches() {
    let mesh = Mesh::start("http").await;
    mesh.answering().await.unwrap();
    let shown = status(&mesh.web).await.unwrap();
    assert_eq!((&shown["ready"], &shown["configuration"]["problems"]), (&json!(true), &json!([])));
    let identity = &shown["identities"][0];
    assert_eq!(identity["id"], mesh.agent.signer().service_uri("web").as_str());
    assert!(
        identity["remaining_seconds"].as_i64() > Some(0) && identity["remaining_seconds"].as_i64() <= identity["lifetime_seconds"].as_i64()
    );
    let upstream = listener(&shown, "upstream").unwrap();
    assert_eq!((&upstream["destination"], &upstream["traffic"]["requests"]), (&json!("api"), &json!(1)));
    let cluster = &upstream["clusters"][0];
    assert_eq!((&cluster["available"], &cluster["endpoints"][0]["state"]), (&json!(1), &json!("healthy")));
    let watches = shown["watches"].as_array().unwrap();
    assert!(
        watches.iter().any(|watch| watch["name"].as_str().unwrap().starts_with("leaf") && watch["last_success"].is_string()),
        "{watches:?}"
    );
    let page = mesh.web.admin("/").await.unwrap();
    assert!(page.status == 200 && page.text().contains("/status.json"), "{}", page.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reverse_proxy_shows_routes_refusals_and_why_a_reload_failed_without_its_secrets() {
    const KEY: &str = "open-sesame-4711";
    let app = http_echo("shop").await.unwrap();
    let routes = format!(
        "provider: file\nupstreams:\n  shop.test:\n    paths:\n      /: {{servers: [\"http://{0}\"], healthcheck: false}}\n      \
         /closed: {{servers: [\"http://{0}\"], healthcheck: false, authorization: {{type: apikey, creds: \"{KEY}\"}}}}\n",
        app.address
    );
    let edge = Setup::new(&routes).start().await;
    assert_eq!(edge.get("shop.test", "/").await.status, 200);
    assert_eq!(edge.get("shop.test", "/closed?token=hidden-in-query").await.status, 401);
    assert_eq!(edge.get("other.test", "/").await.status, 404);
    std::fs::write(edge.path("upstreams.yaml"), "provider: file\nupstreams: {shop.test: {pats: {}}}\n").unwrap();
    let shown = eventually("the failed reload", RECOVERY, async || {
        let status = status(&edge.aralez).await?;
        let files = &status["configuration"]["reloads"][0];
        ensure!(files["failing"] == true && status["refusals"]["total"] == 2, "{status}");
        Ok(status)
    });
    let shown = shown.await.unwrap();
    let files = &shown["configuration"]["reloads"][0];
    assert!(files["applied"].is_string() && files["problems"][0].as_str().unwrap().contains("pats"), "{files}");
    let plain = listener(&shown, "ingress").unwrap();
    let takes: Vec<&Value> = plain["routes"].as_array().unwrap().iter().map(|route| &route["matches"]).collect();
    assert_eq!(takes, [&json!("shop.test/"), &json!("shop.test/closed")]);
    assert_eq!(plain["routes"][1]["filters"], json!(["authorization"]));
    // In the order of their ends, which two connections do not share.
    let reasons: BTreeSet<&str> =
        shown["refusals"]["last"].as_array().unwrap().iter().filter_map(|refused| refused["reason"].as_str()).collect();
    assert_eq!(reasons, BTreeSet::from(["auth_missing", "route_not_found"]));
    let text = shown.to_string();
    for secret in [KEY, MASTER_KEY, "hidden-in-query"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
