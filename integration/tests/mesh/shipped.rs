//! What the repository ships works as it is: `examples/` and `consul/services/`. Only the ports are moved to free ones.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use aralez_integration::{
    apps, clients, components,
    consul::{Agent, Options},
    net::Address,
    ports::free_port,
    process::{Process, Signal},
    sidecar::Launch,
    wait::eventually,
};
use serde_json::{Value, json};

use crate::scene::{PATIENCE, http_answers};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A text with each of these ports replaced by a free one; their numbers, in the same order.
fn moved(mut text: String, ports: &[u16]) -> (String, Vec<u16>) {
    let mut new = Vec::new();
    for port in ports {
        let free = free_port().unwrap();
        assert!(text.contains(&port.to_string()), "{port} is not in the text any more");
        text = text.replace(&port.to_string(), &free.to_string());
        new.push(free);
    }
    (text, new)
}

async fn get_json(address: &Address, path: &str) -> anyhow::Result<Value> {
    let answer = clients::get(address, path).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(serde_json::from_str(&answer.text())?)
}

/// Every file of `examples/` is a mesh file; each runs, and its first service reaches the one that it names as its upstream.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_mesh_runs_and_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for entry in fs::read_dir(repository().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        // The folders are those of the reverse proxy, which has tests of its own.
        if path.is_dir() {
            continue;
        }
        let (text, ports) = moved(fs::read_to_string(&path).unwrap(), &[9090, 9091, 9191, 21000, 21001]);
        let file = folder.path().join(path.file_name().unwrap());
        fs::write(&file, text).unwrap();
        let admin = free_port().unwrap();
        let mut command = Command::new(components::aralez().unwrap());
        command.arg("dev").arg(&file).args(["-admin-bind", &format!("127.0.0.1:{admin}")]);
        let mut dev = Process::start("aralez dev", command, Duration::from_secs(2)).unwrap();

        let web = Address::port(ports[0]);
        eventually("an answer that names its caller", PATIENCE, async || {
            let answer = get_json(&web, "/").await?;
            let caller = &answer["upstreams"]["api"]["said"]["caller"];
            ensure!(caller.as_str().is_some_and(|id| id.ends_with("/svc/web")), "{answer}");
            Ok(())
        })
        .await
        .unwrap();
        assert!(dev.log().contains(&format!("curl http://127.0.0.1:{}/", ports[0])), "it says what to try:\n{}", dev.log());

        dev.signal(Signal::TERM).unwrap();
        let status = dev.exit(PATIENCE).await.unwrap();
        assert!(status.success(), "{status}");
        tried += 1;
    }
    assert!(tried > 0);
}

/// `consul agent -dev -config-dir consul/services`, an app, two sidecars: the quick start of `consul/README.md`.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_definitions_make_a_mesh() {
    let app = apps::http_echo("api").await.unwrap();
    let Address::Tcp(app) = &app.address else { panic!("{:?}", app.address) };
    let services = repository().join("consul/services");
    let read = |name: &str| fs::read_to_string(services.join(name)).unwrap();
    let (web, ports) = moved(read("web.hcl"), &[9090, 9191]);
    let api = read("api.hcl");
    assert!(api.contains("9091"));
    let definitions = vec![
        ("web.hcl".to_owned(), web),
        ("api.hcl".to_owned(), api.replace("9091", &app.port().to_string())),
        ("mesh.hcl".to_owned(), read("mesh.hcl")),
    ];
    // The agent hands out sidecar ports by itself: two free ones for this test.
    let first = free_port().unwrap();
    let config = json!({"ports": {"sidecar_min_port": first, "sidecar_max_port": first.saturating_add(40)}});
    let agent = Agent::start(Options { config, definitions, ..Options::default() }).await.unwrap();
    let start = async |service: &str| Launch::sidecar_for(&agent, service).unwrap().start().await.unwrap();
    let (_web, _api) = (start("web").await, start("api").await);

    let upstream = Address::port(ports[1]);
    eventually("web calls api", PATIENCE, async || http_answers(&upstream, 200).await).await.unwrap();
    agent.intention("web", "api", "deny").await.unwrap();
    eventually("the deny of the README", PATIENCE, async || http_answers(&upstream, 403).await).await.unwrap();
}
