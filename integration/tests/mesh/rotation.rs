//! Leaves and roots rotate under load; nothing fails, and the new ones are used.

use anyhow::{Result, ensure};
use aralez_integration::apps;
use aralez_integration::certs::{self, Ca};
use aralez_integration::consul::{Agent, Options};
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::wait::eventually;
use serde_json::json;

use crate::scene::{PATIENCE, Pair, kept_alive_get, tcp_works};

/// The least each load must have done, all told.
const LEAST: u64 = 2000;

/// Consul spreads new leaves over 30 s after a root change; this hidden setting, made for its own tests, shortens that.
pub fn quick_rotation() -> Options {
    Options { config: json!({"connect": {"test_ca_leaf_root_change_spread": "2s"}}), ..Options::default() }
}

pub async fn leaf_is_of(ca: &Ca, public: &Address) -> Result<()> {
    ensure!(ca.signed(&*certs::shown_by(public).await?)?, "still a leaf of the old root");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaf_and_root_rotate_under_load() {
    let agent = Agent::start(quick_rotation()).await.unwrap();
    let (http_app, tcp_app) = (apps::http_echo("db").await.unwrap(), apps::tcp_echo().await.unwrap());
    let http = Pair::start(&agent, "http", &http_app.address).await;
    let tcp = Pair::start(&agent, "tcp", &tcp_app.address).await;

    // Kept-alive requests on pooled connections, and a full handshake for each echo.
    let address = http.upstream.clone();
    let requests = Load::start(2, move |client| {
        let address = address.clone();
        async move { kept_alive_get(client, &address).await }
    });
    let address = tcp.upstream.clone();
    let handshakes = Load::start(2, move |_| {
        let address = address.clone();
        async move { tcp_works(&address).await }
    });
    requests.progress(100, PATIENCE).await.unwrap();

    for _ in 0..2 {
        let ca = agent.rotate_ca().await.unwrap();
        for service in [&http.web, &http.db, &tcp.web, &tcp.db] {
            eventually("a leaf of the new root", PATIENCE, async || leaf_is_of(&ca, &service.public()).await).await.unwrap();
        }
        requests.progress(LEAST / 2, 4 * PATIENCE).await.unwrap();
        handshakes.progress(LEAST / 2, 8 * PATIENCE).await.unwrap();
    }

    requests.stop().await.unwrap().flawless(LEAST).unwrap();
    handshakes.stop().await.unwrap().flawless(LEAST).unwrap();
}
