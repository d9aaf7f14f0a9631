//! The versions of TLS that the mesh entry allows to callers.

use anyhow::{Result, ensure};
use aralez_integration::apps;
use aralez_integration::certs::{self, SslVersion};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Pair, http_answers};

/// Sidecars look at the mesh entry every 10 to 15 s.
const CHANGED: std::time::Duration = PATIENCE;

async fn set(agent: &Agent, tls: Value) {
    agent.config_entry(json!({"Kind": "mesh", "TLS": tls})).await.unwrap();
}

/// The server shows its certificate to clients of exactly these versions.
async fn speaks(address: &Address, spoken: &[SslVersion]) -> Result<()> {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let shown = certs::shown_in(address, Some(version)).await;
        ensure!(shown.is_ok() == spoken.contains(&version), "{version:?}: {shown:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_says_which_are_spoken() {
    let agent = Agent::dev().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let pair = Pair::start(&agent, "http", &app.address).await;
    let public = pair.db.public();
    speaks(&public, &[SslVersion::TLS1_2, SslVersion::TLS1_3]).await.unwrap();

    set(&agent, json!({"Incoming": {"TLSMinVersion": "TLSv1_3"}})).await;
    eventually("TLS 1.3 only", CHANGED, async || speaks(&public, &[SslVersion::TLS1_3]).await).await.unwrap();
    http_answers(&pair.upstream, 200).await.unwrap();

    set(&agent, json!({"Incoming": {"TLSMaxVersion": "TLSv1_2"}})).await;
    eventually("TLS 1.2 only", CHANGED, async || speaks(&public, &[SslVersion::TLS1_2]).await).await.unwrap();
    http_answers(&pair.upstream, 200).await.unwrap();

    set(&agent, json!({})).await;
    let both = [SslVersion::TLS1_2, SslVersion::TLS1_3];
    eventually("both again", CHANGED, async || speaks(&public, &both).await).await.unwrap();
}
