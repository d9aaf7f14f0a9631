//! Listeners come and go with the registration, and a taken port is one problem, not an outage.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::tcp_echo;
use aralez_integration::clients::HttpClient;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::{eventually, steadily};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::fake_agent::{FakeAgent, upstream};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY, answering, assert_flawless, port, web};
use crate::support::raw::read_until;
use crate::support::sidecar::Launch;

const WEB: &str = "web-1-sidecar-proxy";

/// Gives `web` a listener for `api` on each of `ports`, besides its first one.
fn set_ports(mesh: &Mesh, ports: &[u16]) {
    let first = port(&mesh.entry);
    let upstreams: Vec<Value> = [first].iter().chain(ports).map(|port| upstream("api", *port, "http")).collect();
    mesh.agent.edit_registration(WEB, |service| service["Proxy"]["Upstreams"] = json!(upstreams));
}

async fn opens(address: &Address) {
    let opened = eventually("a new listener", EFFECT, async || answering(address).await);
    assert_eq!(opened.await.unwrap(), "api-1");
}

async fn closes(address: &Address) {
    let closed = eventually("a listener to close", EFFECT, async || {
        ensure!(address.connect().await.is_err(), "{address:?} still listens");
        Ok(())
    });
    closed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_added_moved_and_removed_without_touching_the_other() {
    let mesh = Mesh::start("http").await;
    let load = mesh.load(2);
    let [first, second] = [(); 2].map(|()| free_port().unwrap());
    set_ports(&mesh, &[first]);
    opens(&Address::port(first)).await;
    set_ports(&mesh, &[second]);
    opens(&Address::port(second)).await;
    closes(&Address::port(first)).await;
    set_ports(&mesh, &[]);
    closes(&Address::port(second)).await;
    set_ports(&mesh, &[first]);
    opens(&Address::port(first)).await;
    assert_flawless(load, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_lets_its_requests_end() {
    let mesh = Mesh::start("http").await;
    let extra = free_port().unwrap();
    set_ports(&mesh, &[extra]);
    let extra = Address::port(extra);
    opens(&extra).await;
    let mut client = HttpClient::http1(&extra).await.unwrap();
    let before = mesh.app.requests();
    let slow = tokio::spawn(async move { client.get("/slow?ms=1500").await });
    let arrived = eventually("the request at the app", EFFECT, async || {
        ensure!(mesh.app.requests() > before);
        Ok(())
    });
    arrived.await.unwrap();
    set_ports(&mesh, &[]);
    closes(&extra).await;
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_protocol_is_served_on_the_same_port() {
    let mesh = Mesh::around(FakeAgent::start().await, tcp_echo().await.unwrap(), "http").await;
    mesh.agent.edit_registration("api-1-sidecar-proxy", |service| service["Proxy"]["Config"]["protocol"] = json!("tcp"));
    mesh.agent.edit_registration(WEB, |service| service["Proxy"]["Upstreams"][0]["Config"]["protocol"] = json!("tcp"));
    let through = eventually("bytes that are no HTTP to be echoed", RECOVERY, async || {
        let mut tunnel = mesh.entry.connect().await?;
        tunnel.write_all(b"no HTTP\n").await?;
        read_until(&mut tunnel, b"no HTTP\n").await
    });
    through.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_one_problem_and_is_retried_until_it_is_free() {
    let mesh = Mesh::start("http").await;
    let [taken, other] = [(); 2].map(|()| free_port().unwrap());
    let squatter = TcpListener::bind(("127.0.0.1", taken)).await.unwrap();
    let load = mesh.load(1);
    set_ports(&mesh, &[taken, other]);
    opens(&Address::port(other)).await;

    let address = format!("127.0.0.1:{taken}");
    let log = mesh.web.logged(&address, RECOVERY).await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&address) && line.contains("in use")).collect();
    assert!((1..=3).contains(&lines.len()), "told {} times: {lines:#?}", lines.len());
    let listed = eventually("the problem in /snapshot", RECOVERY, async || {
        let snapshot: Value = serde_json::from_slice(&mesh.web.admin("/snapshot").await?.body)?;
        let problems = snapshot.to_string();
        ensure!(problems.contains("in use"), "{problems}");
        Ok(())
    });
    listed.await.unwrap();

    drop(squatter);
    let opened = eventually("the freed port to be taken", RECOVERY, async || answering(&Address::port(taken)).await);
    assert_eq!(opened.await.unwrap(), "api-1");
    assert_flawless(load, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_unusable_upstream_is_named_and_holds_nothing_back() {
    let agent = FakeAgent::start().await;
    let [good, bad] = [(); 2].map(|()| free_port().unwrap());
    let mut broken = upstream("broken", bad, "http");
    broken["LocalBindAddress"] = json!("not an address");
    agent.register(&web(vec![upstream("api", good, "http"), broken]));
    let web = Launch::sidecar_for(&agent, "web-1").start().await;
    Address::port(good).connect().await.unwrap();
    let snapshot = web.admin("/snapshot").await.unwrap().text();
    assert!(snapshot.contains("not an address"), "{snapshot}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_listens_on_a_unix_socket_with_its_mode() {
    use std::os::unix::fs::PermissionsExt;

    let mesh = Mesh::start("http").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let mut by_socket = upstream("api", 0, "http");
    by_socket.as_object_mut().unwrap().remove("LocalBindPort");
    by_socket["LocalBindSocketPath"] = json!(path);
    by_socket["LocalBindSocketMode"] = json!("0620");
    mesh.agent.edit_registration(WEB, |service| {
        service["Proxy"]["Upstreams"].as_array_mut().unwrap().push(by_socket);
    });
    let socket = Address::Unix(path.clone());
    opens(&socket).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    set_ports(&mesh, &[]);
    closes(&socket).await;
    assert!(!path.exists(), "the file of a removed socket stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deregistered_sidecar_comes_back_with_its_registration() {
    let mesh = Mesh::start("http").await;
    let registration = {
        let mut kept = None;
        mesh.agent.edit_registration(WEB, |service| kept = Some(service.clone()));
        kept.unwrap()
    };
    mesh.agent.deregister(WEB);
    // Drained or kept: both are defensible, dying is not.
    steadily(Duration::from_secs(1), async || {
        let live = mesh.web.admin("/live").await?;
        ensure!(live.status == 200, "{}", live.status);
        Ok(())
    })
    .await
    .unwrap();
    mesh.agent.set_registration(WEB, registration);
    mesh.answered_by("api-1", RECOVERY).await;
}
