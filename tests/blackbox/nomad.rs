//! Started by Nomad: the proxy is found by itself, with nothing but what Nomad puts into the task; and in the place of Envoy.

use std::{fs, path::Path, time::Duration};

use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::{Process, Signal};
use aralez_integration::wait::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fake_agent::{Endpoint, FakeAgent, Sidecar, upstream};
use crate::support::mesh::{RECOVERY, web};
use crate::support::sidecar::{Launch, aralez};

const ALLOCATION: &str = "4f3f8d5e-0000-0000-0000-000000000001";
const TOKEN: &str = "t0ps3cret";

/// The sidecar of `service` as Nomad registers it: its public port is bound on all addresses, its own address is the host's.
fn register(agent: &FakeAgent, service: &str) -> String {
    let sidecar = Sidecar {
        service: service.to_owned(),
        service_id: format!("_nomad-task-{ALLOCATION}-group-front-{service}-9100"),
        ..web(vec![upstream("api", free_port().unwrap(), "http")])
    };
    let mut registration = sidecar.to_json();
    registration["Address"] = json!("192.0.2.1");
    registration["Proxy"]["Config"]["bind_address"] = json!("0.0.0.0");
    registration["Proxy"]["Config"]["bind_port"] = json!(sidecar.public_port);
    agent.set_registration(&sidecar.proxy_id(), registration);
    sidecar.proxy_id()
}

/// `aralez connect` without a word on whose sidecar it is, with Nomad's variables.
fn in_task(agent: &FakeAgent, secrets: &Path) -> Launch {
    let launch = Launch::connect(&[]).env("CONSUL_HTTP_ADDR", &agent.address());
    let launch = launch.env("NOMAD_ALLOC_ID", ALLOCATION).env("NOMAD_GROUP_NAME", "front").env("NOMAD_TASK_NAME", "aralez");
    launch.env("NOMAD_SECRETS_DIR", secrets.to_str().unwrap())
}

fn bootstrap(proxy_id: &str, admin: u16) -> Value {
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.2", "port_value": admin}}},
        "node": {"id": proxy_id, "cluster": "web"},
        "static_resources": {"clusters": []},
        "dynamic_resources": {"ads_config": {"grpc_services": {"initial_metadata": [{"key": "x-consul-token", "value": TOKEN}]}}},
    })
}

/// A secrets folder with a bootstrap in it; its path.
fn secrets(proxy_id: &str, admin: u16) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy_bootstrap.json");
    fs::write(&file, bootstrap(proxy_id, admin).to_string()).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_allocations_sidecar_is_found_in_the_agents_list() {
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![]));
    let id = register(&agent, "web");
    agent.require_token(Some(TOKEN));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("si_token"), TOKEN).unwrap();
    let sidecar = in_task(&agent, folder.path()).start().await;
    sidecar.logged(&id, RECOVERY).await;
    assert!(agent.calls_of(Endpoint::Services).iter().all(|call| call.token() == Some(TOKEN)));
    assert!(!sidecar.log().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sidecars_of_an_allocation_are_all_named_unless_the_bootstrap_says_which() {
    let agent = FakeAgent::start().await;
    let ids = [register(&agent, "web"), register(&agent, "admin")];
    let folder = tempfile::tempdir().unwrap();
    let mut lost = in_task(&agent, folder.path()).spawn();
    assert_eq!(lost.exit(RECOVERY).await.code(), Some(2));
    let log = lost.log();
    assert!(ids.iter().all(|id| log.contains(id)) && log.contains(ALLOCATION) && log.contains("-proxy-id"), "{log}");

    let (folder, _) = secrets(&ids[1], free_port().unwrap());
    let told = in_task(&agent, folder.path()).start().await;
    assert_eq!(agent.held(Endpoint::Registration, &ids[1]), 1, "{}", told.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_the_place_of_envoy() {
    let agent = FakeAgent::start().await;
    let id = register(&agent, "web");
    agent.require_token(Some(TOKEN));
    let admin = free_port().unwrap();
    let (_folder, file) = secrets(&id, admin);
    let mut command = aralez();
    command.args(["-c", &file, "-l", "info", "--concurrency", "1", "--disable-hot-restart"]);
    command.env("CONSUL_HTTP_ADDR", agent.address());
    let mut envoy = Process::start("aralez as envoy", command, Duration::ZERO).unwrap();
    let admin = Address::Tcp(([127, 0, 0, 2], admin).into());
    let ready = eventually("a ready sidecar where Envoy's admin API would be", RECOVERY, async || {
        let answer = clients::get(&admin, "/ready").await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    });
    ready.await.unwrap();
    let snapshot = clients::get(&admin, "/snapshot").await.unwrap().text();
    assert!(snapshot.contains(&id) && !snapshot.contains(TOKEN), "{snapshot}");
    envoy.signal(Signal::INT).unwrap();
    assert_eq!(envoy.exit(RECOVERY).await.unwrap().code(), Some(0));
    assert!(!envoy.log().contains(TOKEN) && !envoy.log().contains("has no effect"), "{}", envoy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_reached_comes_with_what_to_set() {
    let (folder, _) = secrets("web-1-sidecar-proxy", free_port().unwrap());
    // Nobody listens on it.
    fs::create_dir(folder.path().join("tmp")).unwrap();
    fs::write(folder.path().join("tmp/consul_http.sock"), "").unwrap();
    let agent = FakeAgent::start().await;
    let unreachable = in_task(&agent, folder.path()).env("CONSUL_HTTP_ADDR", "").env("NOMAD_ALLOC_DIR", folder.path().to_str().unwrap());
    let sidecar = unreachable.spawn();
    let log = sidecar.logged("CONSUL_HTTP_ADDR", RECOVERY).await;
    assert!(log.contains("consul_http.sock was tried") && log.contains("sidecar_task") && !log.contains(TOKEN), "{log}");
}
