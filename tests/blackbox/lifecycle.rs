//! The end of a sidecar: inbound drains, outbound keeps accepting until then, and the exit code is 0.

use std::time::{Duration, Instant};

use anyhow::ensure;
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::support::fake_agent::upstream;
use crate::support::mesh::{Backend, EFFECT, Mesh, RECOVERY, answering};
use crate::support::sidecar::Launch;
use crate::support::tls::Client;

/// From the last finished request to the end of the process.
const PROMPT: Duration = Duration::from_secs(3);

/// `api` serves `web` and calls `back`.
struct Busy {
    mesh: Mesh,
    back: Address,
    _back: Backend,
}

impl Busy {
    async fn start() -> Busy {
        let mesh = Mesh::start("http").await;
        let back = Backend::start(&mesh.agent, "back", "back-1").await;
        mesh.agent.set_instances("back", vec![back.instance.clone()]);
        let port = free_port().unwrap();
        let upstreams = json!([upstream("back", port, "http")]);
        mesh.agent.edit_registration("api-1-sidecar-proxy", |service| service["Proxy"]["Upstreams"] = upstreams);
        let calls = Address::port(port);
        let ready = eventually("the upstream of api", EFFECT, async || answering(&calls).await);
        assert_eq!(ready.await.unwrap(), "back-1");
        Busy { mesh, back: calls, _back: back }
    }

    /// A request that stays with the app for `ms`, and has arrived there.
    async fn slow_request(&self, ms: u32) -> JoinHandle<anyhow::Result<clients::Response>> {
        let (entry, before) = (self.mesh.entry.clone(), self.mesh.app.requests());
        let request = tokio::spawn(async move { clients::get(&entry, &format!("/slow?ms={ms}")).await });
        let arrived = eventually("the slow request at the app", RECOVERY, async || {
            ensure!(self.mesh.app.requests() > before);
            Ok(())
        });
        arrived.await.unwrap();
        request
    }
}

async fn drains_on(signal: Signal) {
    let mut busy = Busy::start().await;
    let probe = busy.mesh.agent.reissue_leaf("probe");
    // Idle connections on either side must hold nothing up.
    let mut idle = HttpClient::http1(&busy.mesh.entry).await.unwrap();
    idle.get("/").await.unwrap();
    let _idle_peer = Client::with(&probe).http(&busy.mesh.public).await.unwrap();
    let slow = busy.slow_request(3000).await;
    busy.mesh.api.signal(signal);

    let refused = eventually("inbound to refuse", EFFECT, async || {
        ensure!(busy.mesh.public.connect().await.is_err(), "inbound still accepts");
        Ok(())
    });
    refused.await.unwrap();
    assert_eq!(busy.mesh.api.admin("/ready").await.unwrap().status, 503);
    assert_eq!(busy.mesh.api.admin("/live").await.unwrap().status, 200);
    // The app is still at work, so it may still call.
    assert_eq!(answering(&busy.back).await.unwrap(), "back-1");
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    let ended = Instant::now();
    let status = busy.mesh.api.exit(PROMPT).await;
    assert_eq!(status.code(), Some(0));
    println!("{signal:?}: ended {:?} after the last request", ended.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_inbound_while_outbound_serves_then_exits_0() {
    drains_on(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_does_the_same() {
    drains_on(Signal::INT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sidecar_ends_at_once() {
    let mut mesh = Mesh::start("http").await;
    let mut kept = HttpClient::http1(&mesh.entry).await.unwrap();
    kept.get("/").await.unwrap();
    for sidecar in [&mut mesh.web, &mut mesh.api] {
        sidecar.signal(Signal::TERM);
        assert_eq!(sidecar.exit(PROMPT).await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_period_ends_what_will_not_end() {
    let mut mesh = Mesh::start("http").await;
    // The same sidecar again, with a short grace.
    mesh.api.signal(Signal::TERM);
    mesh.api.exit(PROMPT).await;
    let launch = Launch::sidecar_for(&mesh.agent, "api-1");
    mesh.api = launch.arg("-shutdown-grace-period-seconds").arg("1").start().await;
    mesh.answered_by("api-1", RECOVERY).await;
    let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
    socket.send(Message::text("ping")).await.unwrap();
    socket.next().await.unwrap().unwrap();

    let asked = Instant::now();
    mesh.api.signal(Signal::TERM);
    let status = mesh.api.exit(Duration::from_secs(1) + PROMPT).await;
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() >= Duration::from_millis(900), "a live WebSocket got no grace: {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_holds_the_end_up_until_it_closes() {
    let mut mesh = Mesh::start("http").await;
    let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
    mesh.api.signal(Signal::TERM);
    let refused = eventually("inbound to refuse", EFFECT, async || {
        ensure!(mesh.public.connect().await.is_err());
        Ok(())
    });
    refused.await.unwrap();
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ping"));
    assert!(mesh.api.exited().is_none());
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(mesh.api.exit(PROMPT).await.code(), Some(0));
}
