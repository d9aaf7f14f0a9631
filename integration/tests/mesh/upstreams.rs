//! Upstreams come, change and go while the sidecar runs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use aralez_integration::apps;
use aralez_integration::clients;
use aralez_integration::consul::Agent;
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::eventually;

use crate::scene::{PATIENCE, Pair, caller, echoes, http_answers, kept_alive_get, tcp_works, unique};

async fn nobody_listens(address: &Address) -> Result<()> {
    if address.connect().await.is_ok() {
        bail!("{address:?} accepts");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn added_changed_and_removed_without_a_restart() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let mut pair = Pair::start(&agent, "http", &app.address).await;
    let echo = apps::tcp_echo().await.unwrap();
    let cache = Service::new(unique("cache"), &echo.address).unwrap();
    agent.register(&cache).await.unwrap();
    let _cache_sidecar = Sidecar::start(&agent, &cache).await.unwrap();
    agent.healthy(&cache.name, 1).await.unwrap();

    let address = pair.upstream.clone();
    let load = Load::start(2, move |client| {
        let address = address.clone();
        async move { kept_alive_get(client, &address).await }
    });

    let first = Upstream::new(&cache.name).unwrap();
    pair.web.upstreams.push(first.clone());
    agent.register(&pair.web).await.unwrap();
    eventually("the added upstream", PATIENCE, async || tcp_works(&first.address()).await).await.unwrap();
    let mut tunnel = first.address().connect().await.unwrap();
    echoes(&mut tunnel, b"before the change").await.unwrap();

    let second = Upstream::new(&cache.name).unwrap();
    pair.web.upstreams[1] = second.clone();
    agent.register(&pair.web).await.unwrap();
    eventually("the upstream on its new port", PATIENCE, async || tcp_works(&second.address()).await).await.unwrap();
    eventually("the old port closed", PATIENCE, async || nobody_listens(&first.address()).await).await.unwrap();
    // Its listener is gone; what was connected drains.
    echoes(&mut tunnel, b"after the change").await.unwrap();

    pair.web.upstreams.truncate(1);
    agent.register(&pair.web).await.unwrap();
    eventually("the removed upstream closed", PATIENCE, async || nobody_listens(&second.address()).await).await.unwrap();

    load.progress(100, PATIENCE).await.unwrap();
    load.stop().await.unwrap().flawless(100).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_taken_over_by_another_service() {
    let agent = Agent::shared().await.unwrap();
    let (app, other_app) = (apps::http_echo("db").await.unwrap(), apps::http_echo("other").await.unwrap());
    let mut pair = Pair::start(&agent, "http", &app.address).await;
    let other = Service::new(unique("other"), &other_app.address).unwrap().protocol("http");
    agent.register(&other).await.unwrap();
    let _other_sidecar = Sidecar::start(&agent, &other).await.unwrap();
    agent.healthy(&other.name, 1).await.unwrap();
    assert_eq!(clients::get(&pair.upstream, "/").await.unwrap().headers["x-app"], "db");

    pair.web.upstreams[0].destination.clone_from(&other.name);
    agent.register(&pair.web).await.unwrap();
    eventually("an answer of the other service", PATIENCE, async || {
        let answer = clients::get(&pair.upstream, "/").await?;
        match answer.headers.get("x-app") {
            Some(name) if name == "other" => Ok(()),
            name => bail!("{}, {name:?}", answer.status),
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_503_at_once() {
    let agent = Agent::shared().await.unwrap();
    let web = caller(Upstream::new(unique("nowhere")).unwrap().protocol("http"));
    agent.register(&web).await.unwrap();
    let _sidecar = Sidecar::start(&agent, &web).await.unwrap();

    let asked = Instant::now();
    http_answers(&web.upstreams[0].address(), 503).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_registered_again_is_served_again() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let mut pair = Pair::start(&agent, "http", &app.address).await;

    agent.deregister(&pair.web.id).await.unwrap();
    let moved = Upstream::new(&pair.db.name).unwrap().protocol("http");
    pair.web.upstreams[0] = moved.clone();
    agent.register(&pair.web).await.unwrap();
    eventually("the upstream on its new port", PATIENCE, async || http_answers(&moved.address(), 200).await).await.unwrap();
    eventually("the old port closed", PATIENCE, async || nobody_listens(&pair.upstream).await).await.unwrap();
}
