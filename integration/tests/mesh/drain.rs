//! A signalled sidecar ends what it has begun, then itself.

use std::time::{Duration, Instant};

use anyhow::ensure;
use aralez_integration::apps;
use aralez_integration::clients::HttpClient;
use aralez_integration::consul::Agent;
use aralez_integration::process::Signal;
use aralez_integration::registration::Service;
use aralez_integration::sidecar::{Launch, Sidecar};
use aralez_integration::wait::eventually;
use tokio::io::AsyncReadExt;

use crate::scene::{PATIENCE, Pair, echoes, unique};

/// Far above what a drained sidecar needs, far below the grace period given where idleness should end it.
const AT_ONCE: Duration = Duration::from_secs(8);

enum Side {
    Web,
    Db,
}

async fn a_slow_request_is_finished(side: Side, signal: Signal) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let mut pair = Pair::start(&agent, "http", &app.address).await;
    let mut client = HttpClient::http1(&pair.upstream).await.unwrap();
    assert_eq!(client.get("/").await.unwrap().status, 200);

    let request = tokio::spawn(async move { client.post("/slow?ms=2000", "slow").await });
    eventually("the request at the app", PATIENCE, async || {
        ensure!(app.requests() == 2, "{}", app.requests());
        Ok(())
    })
    .await
    .unwrap();
    let sidecar: &mut Sidecar = match side {
        Side::Web => &mut pair.web_sidecar,
        Side::Db => &mut pair.db_sidecar,
    };
    sidecar.signal(signal).unwrap();
    let answer = request.await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "slow"));
    // Both ends are idle now: the rest of the grace period is not waited for.
    let status = sidecar.exit(AT_ONCE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_on_the_called_side() {
    a_slow_request_is_finished(Side::Db, Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_on_the_calling_side() {
    a_slow_request_is_finished(Side::Web, Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_on_the_called_side() {
    a_slow_request_is_finished(Side::Db, Signal::INT).await;
}

/// A tunnel nobody ends is ended with the grace period, and that is still a clean exit.
#[tokio::test(flavor = "multi_thread")]
async fn the_grace_period_ends() {
    const GRACE: Duration = Duration::from_secs(3);
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let mut pair = Pair::start(&agent, "tcp", &app.address).await;
    // A second sidecar for the caller, with a short grace.
    let upstream = aralez_integration::registration::Upstream::new(&pair.db.name).unwrap();
    let web: Service = crate::scene::caller(upstream).id(unique("short"));
    agent.register(&web).await.unwrap();
    let launch = Launch::sidecar_for(&agent, &web.id).unwrap().arg("-shutdown-grace-period-seconds").arg("3");
    pair.web_sidecar = launch.start().await.unwrap();

    let mut tunnel = web.upstreams[0].address().connect().await.unwrap();
    echoes(&mut tunnel, b"before the signal").await.unwrap();
    let signalled = Instant::now();
    pair.web_sidecar.signal(Signal::TERM).unwrap();
    echoes(&mut tunnel, b"within the grace").await.unwrap();
    let status = pair.web_sidecar.exit(GRACE + AT_ONCE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(signalled.elapsed() >= GRACE - Duration::from_millis(500), "ended early: {:?}", signalled.elapsed());
    assert!(tunnel.read_u8().await.is_err());
}
