//! The commands of the book that need nothing but `aralez`, run as they stand; those that need a Consul agent are followed in `integration/tests/mesh/book.rs`.

use std::{fs, path::Path, time::Duration};

use aralez_integration::{book::Terminals, process::Process};

/// Longer than anything takes that is waited for, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

async fn terminals() -> Terminals {
    Terminals::open(&[("aralez", Path::new(env!("CARGO_BIN_EXE_aralez")))]).await.unwrap()
}

/// Writes a file of the reverse proxy.
fn write(terminals: &Terminals, name: &str, text: &str) {
    fs::write(terminals.folder().join(name), text).unwrap();
}

/// Starts the reverse proxy and waits until it is ready.
async fn edge(terminals: &Terminals) -> Process {
    let edge = terminals.serve("aralez -c main.yaml").unwrap();
    terminals.run("aralez wait", 0).await.unwrap();
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn the_meshes_of_the_quick_start_run() {
    let terminals = terminals().await;
    let mut page = terminals.follow("docs/quick-start.md", "A mesh in one process").unwrap();
    let built_in = page.serve().await.unwrap();
    page.run(0, &[]).await.unwrap();
    drop(built_in);
    let _own = page.serve().await.unwrap();
    page.run(0, &["stock"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_of_the_quick_start_runs() {
    let terminals = terminals().await;
    let mut page = terminals.follow("docs/quick-start.md", "At the edge").unwrap();
    let _servers = [page.serve().await.unwrap(), page.serve().await.unwrap()];
    page.run(0, &[]).await.unwrap();
    let _edge = page.serve().await.unwrap();
    page.run(0, &["200 OK", "Directory listing"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_binary_is_replaced_as_the_how_to_says() {
    let terminals = terminals().await;
    write(&terminals, "main.yaml", "proxy_address_http: 127.0.0.1:8080\nupstreams_conf: upstreams.yaml\nupgrade_sock: upgrade.sock\n");
    write(&terminals, "upstreams.yaml", "upstreams: {}\n");
    let mut old = edge(&terminals).await;
    let mut page = terminals.follow("docs/how-to.md", "Replace the running binary without losing a request").unwrap();
    let mut new = page.serve().await.unwrap();
    assert!(old.exit(LIMIT).await.unwrap().success());
    terminals.run("aralez status", 0).await.unwrap();
    assert!(new.exited().unwrap().is_none());
}

/// Routes of a shop, which is what the pages about changes speak of.
const SHOP: &str = "upstreams:
  shop.example:
    paths:
      /: {servers: [\"10.0.0.11:9000\", \"10.0.0.12:9000\"]}
      /api: {servers: [\"10.0.0.11:9001\"], timeout: 30s}
";

/// What follows them.
const CHANGED: &str = "upstreams:
  shop.example:
    paths:
      /: {servers: [\"10.0.0.12:9000\", \"10.0.0.13:9000\"]}
      /api: {servers: [\"10.0.0.11:9001\"], timeout: 60s}
  blog.example:
    paths:
      /: {servers: [\"10.0.0.20:8080\"]}
";

/// A reverse proxy that serves [`SHOP`] while its file says [`CHANGED`]: the file that is served is another one.
async fn changed(terminals: &Terminals) -> Process {
    let main =
        |routes| format!("proxy_address_http: 127.0.0.1:8080\nupstreams_conf: {routes}\nconfig_address: 127.0.0.1:3000\nmaster_key: k-1\n");
    write(terminals, "master.key", "k-1\n");
    write(terminals, "shop.yaml", SHOP);
    write(terminals, "upstreams.yaml", CHANGED);
    write(terminals, "main.yaml", &main("shop.yaml"));
    let edge = edge(terminals).await;
    write(terminals, "main.yaml", &main("upstreams.yaml"));
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_before_they_are_made() {
    let terminals = terminals().await;
    let _edge = changed(&terminals).await;
    let mut page = terminals.follow("docs/how-to.md", "Change routes with care").unwrap();
    page.run(0, &["blog.example"]).await.unwrap();
    page.run(0, &["would change: ", "blog.example"]).await.unwrap();
    let mut page = terminals.follow("docs/check.md", "What a reload would change: `-diff`").unwrap();
    page.run(0, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_issued_as_the_page_says() {
    let terminals = terminals().await;
    let _edge = changed(&terminals).await;
    terminals.follow("docs/authentication.md", "jwt").unwrap().run(0, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nginx_did_is_checked() {
    let terminals = terminals().await;
    write(
        &terminals,
        "main.yaml",
        "proxy_address_http: 127.0.0.1:8080\nproxy_address_tls: 127.0.0.1:8443\nproxy_certificates: certificates\nupstreams_conf: upstreams.yaml\n",
    );
    fs::copy(terminals.folder().join("examples/auth/users.htpasswd"), terminals.folder().join("users")).unwrap();
    fs::create_dir(terminals.folder().join("certificates")).unwrap();
    terminals.follow("docs/migration.md", "From nginx").unwrap().run(0, &[]).await.unwrap();
}
