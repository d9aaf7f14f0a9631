//! Which endpoint a call goes to: health, weights, the next one when a connection fails, failover.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use aralez_integration::clients::{self, GrpcCall, HttpClient};
use aralez_integration::load::Load;
use aralez_integration::ports::free_port;
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use tokio::io::AsyncWriteExt;

use crate::support::fake_agent::{ChainSpec, Instance};
use crate::support::mesh::{Backend, EFFECT, Mesh, RECOVERY, assert_flawless};
use crate::support::raw::{closes, read_until};

fn critical(instance: &Instance) -> Instance {
    Instance { status: "critical", ..instance.clone() }
}

async fn shares(mesh: &Mesh, requests: usize) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    let mut client = HttpClient::http1(&mesh.entry).await.unwrap();
    for _ in 0..requests {
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.status, 200);
        *shares.entry(answer.headers["x-app"].to_str().unwrap().to_owned()).or_default() += 1;
    }
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_healthy_endpoint_it_is_503_at_once_with_a_body() {
    let mesh = Mesh::start("http").await;
    for instances in [vec![critical(&mesh.instance())], vec![], vec![Instance { weight: 0, ..mesh.instance() }]] {
        mesh.agent.set_instances("api", instances);
        let refused = eventually("503", EFFECT, async || {
            let answer = clients::get(&mesh.entry, "/").await?;
            ensure!(answer.status == 503, "{}", answer.status);
            Ok(answer)
        });
        assert_eq!(refused.await.unwrap().text(), "no healthy upstream");
        let asked = Instant::now();
        assert_eq!(clients::post(&mesh.entry, "/", "body").await.unwrap().status, 503);
        assert!(asked.elapsed() < Duration::from_secs(2), "503 took {:?}", asked.elapsed());
        mesh.agent.set_instances("api", vec![mesh.instance()]);
        mesh.answered_by("api-1", EFFECT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_healthy_endpoint_grpc_is_unavailable_and_tcp_is_closed() {
    let mesh = Mesh::start("grpc").await;
    mesh.agent.set_instances("api", vec![]);
    let refused = eventually("UNAVAILABLE", EFFECT, async || {
        let (_, trailers) = GrpcCall::open(&mesh.entry, "/echo.Echo/Unary").await?.finish().await?;
        ensure!(trailers.get("grpc-status").is_some_and(|status| status == "14"), "{trailers:?}");
        Ok(())
    });
    refused.await.unwrap();
    let mesh = Mesh::start("tcp").await;
    mesh.agent.set_instances("api", vec![]);
    let refused = eventually("the close", EFFECT, async || {
        let mut tunnel = mesh.entry.connect().await?;
        ensure!(closes(&mut tunnel, Duration::from_millis(300)).await, "still open");
        Ok(())
    });
    refused.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_instance_serves() {
    let mesh = Mesh::start("http").await;
    mesh.agent.set_instances("api", vec![Instance { status: "warning", ..mesh.instance() }]);
    let load = mesh.load(1);
    load.progress(50, RECOVERY).await.unwrap();
    assert_flawless(load, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_by_weight() {
    let mesh = Mesh::start("http").await;
    let second = Backend::start(&mesh.agent, "api", "api-2").await;
    mesh.agent.set_instances("api", vec![mesh.instance(), second.instance.clone()]);
    mesh.answered_by("api-2", EFFECT).await;
    let even = shares(&mesh, 200).await;
    assert!(even["api-1"].abs_diff(100) <= 10, "{even:?}");
    mesh.agent.set_instances("api", vec![mesh.instance(), Instance { weight: 3, ..second.instance.clone() }]);
    // A look takes 200 requests.
    let weighted = eventually("three quarters for the heavier", 10 * EFFECT, async || {
        let shares = shares(&mesh, 200).await;
        ensure!(shares["api-2"].abs_diff(150) <= 10, "{shares:?}");
        Ok(shares)
    });
    println!("weights 1:1 {even:?}, 1:3 {:?}", weighted.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_goes_to_the_next_endpoint() {
    let mesh = Mesh::start("http").await;
    let nobody = Instance::new("api-0-sidecar-proxy", free_port().unwrap());
    mesh.agent.set_instances("api", vec![nobody, mesh.instance()]);
    let load = mesh.load(2);
    load.progress(200, RECOVERY).await.unwrap();
    assert_flawless(load, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_goes_to_the_next_endpoint_for_tcp_too() {
    let mesh = Mesh::start("tcp").await;
    let nobody = Instance::new("api-0-sidecar-proxy", free_port().unwrap());
    mesh.agent.set_instances("api", vec![nobody, mesh.instance()]);
    for _ in 0..20 {
        let mut tunnel = mesh.entry.connect().await.unwrap();
        tunnel.write_all(b"ping").await.unwrap();
        read_until(&mut tunnel, b"ping").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_dead_endpoints_are_a_503_in_bounded_time() {
    let mesh = Mesh::start("http").await;
    let dead = [(); 3].map(|()| Instance::new("dead", free_port().unwrap()));
    mesh.agent.set_instances("api", dead.to_vec());
    let refused = eventually("503", RECOVERY, async || {
        let asked = Instant::now();
        let answer = clients::get(&mesh.entry, "/").await?;
        ensure!(answer.status == 503, "{}", answer.status);
        ensure!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
        ensure!(!answer.body.is_empty(), "no body");
        Ok(())
    });
    refused.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_follows_the_order_of_the_chain_and_comes_back() {
    let mesh = Mesh::start("http").await;
    let second = Backend::start(&mesh.agent, "second", "second-1").await;
    let third = Backend::start(&mesh.agent, "third", "third-1").await;
    mesh.agent.set_instances("second", vec![second.instance.clone()]);
    mesh.agent.set_instances("third", vec![third.instance.clone()]);
    let failover = vec!["second".to_owned(), "third".to_owned()];
    mesh.agent.set_chain("api", ChainSpec { failover, ..ChainSpec::default_for("api") });
    mesh.answered_by("api-1", EFFECT).await;

    let load = mesh.load(2);
    mesh.agent.set_instances("api", vec![critical(&mesh.instance())]);
    mesh.answered_by("second-1", EFFECT).await;
    mesh.agent.set_instances("second", vec![]);
    mesh.answered_by("third-1", EFFECT).await;
    mesh.agent.set_instances("second", vec![second.instance.clone()]);
    mesh.answered_by("second-1", EFFECT).await;
    mesh.agent.set_instances("api", vec![mesh.instance()]);
    mesh.answered_by("api-1", EFFECT).await;
    assert_flawless(load, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirected_chain_leads_to_the_other_service() {
    let mesh = Mesh::start("http").await;
    let other = Backend::start(&mesh.agent, "other", "other-1").await;
    mesh.agent.set_instances("other", vec![other.instance.clone()]);
    mesh.agent.set_chain("api", ChainSpec::default_for("other"));
    mesh.answered_by("other-1", EFFECT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_no_request() {
    let mesh = Mesh::start("http").await;
    let mut second = Backend::start(&mesh.agent, "api", "api-2").await;
    mesh.agent.set_instances("api", vec![mesh.instance(), second.instance.clone()]);
    mesh.answered_by("api-2", EFFECT).await;
    let load = gets(&mesh);
    load.progress(50, RECOVERY).await.unwrap();
    second.sidecar.signal(Signal::KILL);
    load.progress(100, RECOVERY).await.unwrap();
    mesh.agent.set_instances("api", vec![mesh.instance()]);
    load.progress(50, RECOVERY).await.unwrap();
    assert_flawless(load, 200).await;
}

/// A load of idempotent requests: what a proxy may repeat.
fn gets(mesh: &Mesh) -> Load {
    let entry = mesh.entry.clone();
    Load::start(2, move |client: Option<HttpClient>| {
        let entry = entry.clone();
        async move {
            let mut client = match client {
                Some(client) => client,
                None => HttpClient::http1(&entry).await?,
            };
            let answer = client.get("/").await?;
            ensure!(answer.status == 200, "{}", answer.status);
            Ok(client)
        }
    })
}
