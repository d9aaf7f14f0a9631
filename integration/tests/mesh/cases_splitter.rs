//! Consul's own acceptance case with a service splitter, and the shares of one. The first test bears the name of its case.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aralez_integration::clients::{self, request};
use aralez_integration::net::Address;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::cases::{Case, EVENTUALLY, s1};
use crate::cases_resolver::{cluster, family, subsets};
use crate::fleet::shares;
use crate::scene::app_in;

/// Legs by subset and weight, with the header edits of the case.
fn splitter(legs: &[(&str, f64)]) -> Value {
    let leg = |(subset, weight): &(&str, f64)| {
        json!({
            "Weight": weight, "ServiceSubset": subset,
            "RequestHeaders": {"Set": {"x-split-leg": subset}, "Remove": ["x-bad-req"]},
            "ResponseHeaders": {"Add": {"x-svc-version": subset}, "Remove": ["x-bad-resp"]},
        })
    };
    json!({"Kind": "service-splitter", "Name": "s2", "Splits": legs.iter().map(leg).collect::<Vec<_>>()})
}

async fn case(legs: &[(&str, f64)]) -> Case {
    let agent = cluster("http").await;
    agent.config_entry(json!({"Kind": "service-resolver", "Name": "s2", "Subsets": subsets()})).await.unwrap();
    agent.config_entry(splitter(legs)).await.unwrap();
    Case::start(agent, s1().await, family("s2").await).await
}

/// The leg taken by a request that brings `X-Bad-Req`; the app must have seen it edited.
async fn edited_request(upstream: &Address) -> Result<String> {
    let mut bad = request(Method::GET, "/debug?env=dump", "")?;
    bad.headers_mut().insert("x-bad-req", HeaderValue::from_static("true"));
    let dump = clients::once(upstream, bad).await?.text();
    let leg = app_in(&dump)?.strip_prefix("s2-").context("plain s2 answered")?.to_owned();
    ensure!(dump.contains(&format!("\nX-Split-Leg: {leg}\n")) && !dump.contains("X-Bad-Req"), "{dump}");
    Ok(leg)
}

/// The leg that answered a request for the header `X-Bad-Resp`; the answer must be edited.
async fn edited_answer(upstream: &Address) -> Result<String> {
    let put = request(Method::PUT, "/header-manip/echo?header=x-bad-resp:true", "")?;
    let answer = clients::once(upstream, put).await?;
    ensure!(answer.status == 200 && !answer.headers.contains_key("x-bad-resp"), "{answer:?}");
    let versions: Vec<_> = answer.headers.get_all("x-svc-version").iter().collect();
    let [version] = versions[..] else { anyhow::bail!("{versions:?}") };
    ensure!(answer.headers["x-app"] == format!("s2-{}", version.to_str()?), "{answer:?}");
    Ok(version.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_splitter_features() {
    let case = case(&[("v2", 50.0), ("v1", 50.0)]).await;
    let upstream = case.upstream();
    eventually("an edited request", EVENTUALLY, async || edited_request(&upstream).await.map(drop)).await.unwrap();
    eventually("an edited answer", EVENTUALLY, async || edited_answer(&upstream).await.map(drop)).await.unwrap();

    // Both legs are taken, each with its own edits: the chance that 60 turns miss one is below 1 in 10^17.
    let mut legs = BTreeMap::<_, u32>::new();
    for _ in 0..60 {
        *legs.entry(edited_request(&upstream).await.unwrap()).or_default() += 1;
        *legs.entry(edited_answer(&upstream).await.unwrap()).or_default() += 1;
    }
    assert_eq!(legs.keys().collect::<Vec<_>>(), ["v1", "v2"], "{legs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_splitter_keeps_its_shares() {
    const TOTAL: usize = 3000;
    let case = case(&[("v1", 90.0), ("v2", 10.0)]).await;
    let shares = shares(&case.upstream(), TOTAL).await;
    assert_eq!(shares.values().sum::<usize>(), TOTAL);
    assert!(!shares.contains_key("s2"), "{shares:?}");
    // Ten per cent, within five standard deviations of independent draws (16.4): one failure in two million runs.
    let v2 = shares["s2-v2"];
    assert!((218..=382).contains(&v2), "{shares:?}");
}

/// Weights are taken to the hundredth of a per cent: 0.01 % is neither refused nor rounded up to a visible share.
#[tokio::test(flavor = "multi_thread")]
async fn a_splitter_knows_hundredths_of_a_percent() {
    const TOTAL: usize = 1000;
    let case = case(&[("v1", 99.99), ("v2", 0.01)]).await;
    let shares = shares(&case.upstream(), TOTAL).await;
    // Expected: 0.1 of 1000. Six or more come once in a billion runs; one per cent would be ten.
    assert!(shares["s2-v1"] > TOTAL - 6, "{shares:?}");
    // The leg exists: the sidecar's own view of its routes shows it with the weight of one hundredth.
    let snapshot = case.snapshot().await;
    assert!(weights(&snapshot).contains(&1), "{snapshot}");
}

/// Every number under the key `weight` within routes, in the sidecar's unit of 0.01 %.
fn weights(value: &Value) -> Vec<u64> {
    match value {
        Value::Object(fields) => {
            let own = fields.contains_key("clusters").then(|| fields.get("weight")?.as_u64()).flatten();
            own.into_iter().chain(fields.values().flat_map(weights)).collect()
        }
        Value::Array(items) => items.iter().flat_map(weights).collect(),
        _ => Vec::new(),
    }
}
