//! The quick start of the book, run as it stands but for its ports.

use std::{fs, path::Path};

use anyhow::ensure;
use aralez_integration::{apps::http_echo, clients, net::Address, ports::free_port, wait::eventually};

use crate::support::mesh::{RECOVERY, port};
use crate::support::sidecar::{Launch, aralez};

/// The YAML files of the quick start: a mesh, `main.yaml`, `upstreams.yaml`.
fn files() -> [String; 3] {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/quick-start.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.collect::<Vec<_>>().try_into().unwrap()
}

/// A text with other ports than its own.
fn with_ports(text: &str, ports: &[(&str, u16)]) -> String {
    ports.iter().fold(text.to_owned(), |text, (theirs, ours)| {
        assert!(text.contains(theirs), "the quick start has no {theirs}");
        text.replace(theirs, &theirs.replace(theirs.rsplit([':', ' ']).next().unwrap(), &ours.to_string()))
    })
}

async fn answers(at: &Address) {
    let answer = eventually("the answer of the quick start", RECOVERY, async || {
        let answer = clients::get(at, "/").await?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    });
    answer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_of_the_quick_start_runs() {
    let [mesh, ..] = files();
    let (shop, stock) = (http_echo("shop").await.unwrap(), free_port().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    fs::write(&path, with_ports(&mesh, &[("port: 8080", port(&shop.address)), ("local_bind_port: 9191", stock)])).unwrap();
    let _mesh = Launch::dev(&path).start().await;
    answers(&Address::port(stock)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_of_the_quick_start_runs() {
    let [_, main, routes] = files();
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let http = free_port().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.yaml");
    fs::write(&path, with_ports(&main, &[("127.0.0.1:8080", http)])).unwrap();
    let servers = [("127.0.0.1:8000", port(&one.address)), ("127.0.0.1:8001", port(&two.address))];
    fs::write(folder.path().join("upstreams.yaml"), with_ports(&routes, &servers)).unwrap();
    assert!(aralez().arg("check").arg(&path).status().unwrap().success());
    let _edge = Launch::serve(&path).start().await;
    answers(&Address::port(http)).await;
}
