//! Leaves and roots: rotation under load, what is refused, and who the other side really is.

use std::time::Duration;

use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::{eventually, steadily};
use openssl::ssl::SslVersion;

use crate::support::ca::{Authority, Leaf, LeafRequest};
use crate::support::fake_agent::{FakeAgent, Instance, TRUST_DOMAIN, intention, upstream};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY, assert_flawless, web};
use crate::support::raw;
use crate::support::sidecar::Launch;
use crate::support::tls::{Client, SilentServer};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_rotations_of_both_leaves_lose_nothing() {
    let mesh = Mesh::start("http").await;
    let load = mesh.load(4);
    for _ in 0..20 {
        mesh.agent.reissue_leaf("web");
        let newest = mesh.agent.reissue_leaf("api");
        mesh.leaf_shown(newest.serial, EFFECT).await;
        load.progress(20, RECOVERY).await.unwrap();
    }
    let report = assert_flawless(load, 400).await;
    println!("20 rotations: 0 of {} failed", report.ok);
}

/// Serves `bad` as `api`'s leaf: the old one stays in use, and a good one is taken afterwards.
async fn keeps_its_leaf_instead_of(bad: impl FnOnce(&FakeAgent) -> Leaf) {
    let mesh = Mesh::start("http").await;
    let good = mesh.agent.reissue_leaf("api");
    mesh.leaf_shown(good.serial, EFFECT).await;
    let load = mesh.load(1);
    let asked = mesh.agent.calls().len();
    mesh.agent.set_leaf("api", bad(&mesh.agent));
    eventually("the bad leaf to be fetched", RECOVERY, async || {
        anyhow::ensure!(mesh.agent.calls().len() > asked);
        Ok(())
    })
    .await
    .unwrap();
    steadily(Duration::from_millis(500), async || mesh.shows_leaf(good.serial).await).await.unwrap();
    let next = mesh.agent.reissue_leaf("api");
    mesh.leaf_shown(next.serial, RECOVERY).await;
    assert_flawless(load, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_of_an_unknown_authority_is_not_used() {
    keeps_its_leaf_instead_of(|_| {
        let stranger = Authority::new("unknown", TRUST_DOMAIN);
        stranger.issue(&LeafRequest::new(stranger.service_uri("api"), 9001), "")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_for_another_service_is_not_used() {
    keeps_its_leaf_instead_of(|agent| {
        let signer = agent.signer();
        signer.issue(&LeafRequest::new(signer.service_uri("web"), 9002), "")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_with_anothers_key_is_not_used() {
    keeps_its_leaf_instead_of(|agent| {
        let signer = agent.signer();
        let request = LeafRequest::new(signer.service_uri("api"), 9003);
        let key_pem = signer.issue(&request, "").key_pem;
        Leaf { key_pem, ..signer.issue(&request, "") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_of_roots_changes_nothing_on_a_running_sidecar() {
    let mesh = Mesh::start("http").await;
    let stranger = Authority::new("unknown", TRUST_DOMAIN);
    let stranger = stranger.issue(&LeafRequest::new(stranger.service_uri("web"), 5), "");
    let load = mesh.load(1);
    mesh.agent.hide_roots(true);
    steadily(Duration::from_secs(1), async || {
        let status = Client::with(&stranger).status(&mesh.public).await?;
        anyhow::ensure!(status.is_none(), "a stranger got {status:?}");
        Ok(())
    })
    .await
    .unwrap();
    mesh.agent.hide_roots(false);
    let renewed = mesh.agent.reissue_leaf("api");
    mesh.leaf_shown(renewed.serial, RECOVERY).await;
    assert_flawless(load, 50).await;
}

/// A new root, both leaves renewed from it, the old root dropped: nothing fails, and the old root's leaves are refused after.
async fn rotates_its_root(cross_sign: bool) {
    let mesh = Mesh::start("http").await;
    let old = mesh.agent.reissue_leaf("probe");
    assert_eq!(Client::with(&old).status(&mesh.public).await.unwrap(), Some(200));
    let load = mesh.load(2);
    load.progress(20, RECOVERY).await.unwrap();
    mesh.agent.add_root("root-2", cross_sign);
    // Consul lets the new root be known for a while before leaves are signed by it, unless the two are bridged.
    if !cross_sign {
        let by_new_root = mesh.agent.reissue_leaf("early");
        accepted(&mesh, &by_new_root).await;
    }
    mesh.agent.reissue_leaf("web");
    let renewed = mesh.agent.reissue_leaf("api");
    mesh.leaf_shown(renewed.serial, EFFECT).await;
    load.progress(20, RECOVERY).await.unwrap();
    let new = mesh.agent.reissue_leaf("probe");
    accepted(&mesh, &old).await;
    accepted(&mesh, &new).await;
    mesh.agent.drop_old_roots();
    eventually("the old root's leaf to be refused", EFFECT, async || {
        let status = Client::with(&old).status(&mesh.public).await?;
        anyhow::ensure!(status.is_none(), "{status:?}");
        Ok(())
    })
    .await
    .unwrap();
    accepted(&mesh, &new).await;
    load.progress(20, RECOVERY).await.unwrap();
    let report = assert_flawless(load, 60).await;
    println!("root rotation, cross-signed {cross_sign}: 0 of {} failed", report.ok);
}

async fn accepted(mesh: &Mesh, leaf: &Leaf) {
    eventually("a leaf to be accepted", EFFECT, async || {
        let status = Client::with(leaf).status(&mesh.public).await?;
        anyhow::ensure!(status == Some(200), "{status:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cross_signed_root_rotation_loses_nothing() {
    rotates_its_root(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_rotation_without_bridge_loses_nothing() {
    rotates_its_root(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_nobody_of_this_mesh_are_refused() {
    let mesh = Mesh::start("http").await;
    let signer = mesh.agent.signer();
    let stranger = Authority::new("unknown", TRUST_DOMAIN);
    let request = |uri: &str| LeafRequest::new(uri, 77);
    let web = signer.service_uri("web");
    let two = LeafRequest { uris: vec![web.clone(), signer.service_uri("admin")], ..request(&web) };
    let day = Duration::from_secs(86400);
    let expired = LeafRequest { backdated: 2 * day, lifetime: day, ..request(&web) };
    let refused = [
        ("of an unknown root", stranger.issue(&request(&web), "")),
        ("with two URIs", signer.issue(&two, "")),
        ("that has expired", signer.issue(&expired, "")),
        ("of another trust domain", signer.issue(&request("spiffe://other.consul/ns/default/dc/dc1/svc/web"), "")),
        ("of a longer trust domain", signer.issue(&request(&web.replace(TRUST_DOMAIN, &format!("{TRUST_DOMAIN}.evil"))), "")),
        ("without a service", signer.issue(&request(&format!("spiffe://{TRUST_DOMAIN}")), "")),
        ("of an agent", signer.issue(&request(&format!("spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/n")), "")),
        ("that is no SPIFFE ID", signer.issue(&request("https://example.com/web"), "")),
    ];
    for newest in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for (what, leaf) in &refused {
            let client = Client { newest: Some(newest), ..Client::with(leaf) };
            assert_eq!(client.status(&mesh.public).await.unwrap(), None, "a leaf {what}");
        }
        let nobody = Client { newest: Some(newest), ..Client::default() };
        assert_eq!(nobody.status(&mesh.public).await.unwrap(), None, "no certificate");
        let good = signer.issue(&request(&web), "");
        let client = Client { newest: Some(newest), ..Client::with(&good) };
        assert_eq!(client.status(&mesh.public).await.unwrap(), Some(200));
    }
    assert_eq!(mesh.app.requests(), 2, "only the good leaf's requests reach the app");
}

/// A server with a valid leaf of another service stands where `api` should be.
async fn sends_nothing_to_an_impostor(protocol: &'static str) {
    let agent = FakeAgent::start().await;
    let signer = agent.signer();
    let impostor = SilentServer::start(&signer.issue(&LeafRequest::new(signer.service_uri("apis"), 3), "")).await;
    let entry = free_port().unwrap();
    agent.register(&web(vec![upstream("api", entry, protocol)]));
    agent.set_instances("api", vec![Instance::new("api-1", impostor.port)]);
    let mut web = Launch::sidecar_for(&agent, "web-1").start().await;
    let entry = Address::port(entry);
    if protocol == "tcp" {
        let received = raw::exchange(&entry, b"hello?\n").await.unwrap();
        assert!(received.is_empty());
    } else {
        for _ in 0..3 {
            let answer = clients::post(&entry, "/", "secret").await.unwrap();
            assert!([502, 503].contains(&answer.status.as_u16()), "{}", answer.status);
        }
    }
    eventually("a connection to the impostor", RECOVERY, async || {
        anyhow::ensure!(impostor.connections() > 0);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(impostor.bytes(), 0, "bytes for a server that is not api");
    web.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_gets_no_byte_of_tcp() {
    sends_nothing_to_an_impostor("tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_gets_no_byte_of_http() {
    sends_nothing_to_an_impostor("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_gets_no_byte_of_http2() {
    sends_nothing_to_an_impostor("http2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_leaf_of_our_own_makes_us_unready() {
    let agent = FakeAgent::start().await;
    let signer = agent.signer();
    let entry = free_port().unwrap();
    agent.register(&web(vec![upstream("api", entry, "http")]));
    let day = Duration::from_secs(86400);
    let request = LeafRequest { backdated: 2 * day, lifetime: day, ..LeafRequest::new(signer.service_uri("web"), 4) };
    agent.set_leaf("web", signer.issue(&request, ""));
    let mut web = Launch::sidecar_for(&agent, "web-1").spawn();
    web.not_ready_for(&["leaf"]).await;
    agent.reissue_leaf("web");
    web.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_datacenter_in_a_clients_identity_does_not_count() {
    let mesh = Mesh::start("http").await;
    mesh.agent.set_default_policy("deny", None);
    mesh.agent.set_intentions("api", vec![intention("web", "api", "allow")]);
    let signer = mesh.agent.signer();
    let elsewhere = signer.service_uri("web").replace("/dc/dc1/", "/dc/dc7/");
    let leaf = signer.issue(&LeafRequest::new(elsewhere, 6), "");
    accepted(&mesh, &leaf).await;
}
