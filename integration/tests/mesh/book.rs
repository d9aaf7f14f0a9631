//! The commands of the book that speak of a Consul agent, run as they stand with a real one.

use std::fs;

use aralez_integration::{book::Terminals, components, process::Process};
use serde_json::json;

use crate::scene::PATIENCE;

async fn terminals() -> Terminals {
    let (aralez, consul) = (components::aralez().unwrap(), components::consul().unwrap());
    Terminals::open(&[("aralez", aralez.as_path()), ("consul", consul.as_path())]).await.unwrap()
}

/// Starts an agent with these arguments and waits until it has a leader and a Connect CA.
async fn agent(terminals: &Terminals, arguments: &str) -> Process {
    let agent = terminals.serve(&format!("consul agent -dev {arguments}")).unwrap();
    terminals.run("curl --fail 127.0.0.1:8500/v1/connect/ca/roots", 0).await.unwrap();
    agent
}

/// The agent, the app and both sidecars of the quick start; both are ready.
struct Mesh {
    _agent: Process,
    _app: Process,
    _api: Process,
    web: Process,
}

/// Starts what the quick start says.
async fn mesh(terminals: &Terminals) -> Mesh {
    let mut page = terminals.follow("docs/quick-start.md", "With Consul").unwrap();
    let agent = page.serve().await.unwrap();
    let [app, api, web] = [page.serve().await.unwrap(), page.serve().await.unwrap(), page.serve().await.unwrap()];
    page.run(0, &["200 OK", "Directory listing"]).await.unwrap();
    page.run(0, &["Created: web => api (deny)"]).await.unwrap();
    page.run(0, &["403 Forbidden"]).await.unwrap();
    page.run(1, &["denied: "]).await.unwrap();
    page.run(1, &["consul intention create -replace -allow web api"]).await.unwrap();
    terminals.run("consul intention create -replace -allow web api", 0).await.unwrap();
    Mesh { _agent: agent, _app: app, _api: api, web }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_and_what_it_leads_to() {
    let terminals = terminals().await;
    let mut mesh = mesh(&terminals).await;

    let mut page = terminals.follow("docs/how-to.md", "Find what is missing before it is missed").unwrap();
    page.run(0, &["web may call api"]).await.unwrap();
    page.run(0, &["\"findings\": []"]).await.unwrap();
    let mut page = terminals.follow("docs/how-to.md", "Deny a call, and see why it is denied").unwrap();
    page.run(0, &[]).await.unwrap();
    page.run(1, &["denied: intention web -> api (precedence 9) denies it"]).await.unwrap();
    terminals.run("consul intention create -replace -allow web api", 0).await.unwrap();

    let mut page = terminals.follow("docs/how-to.md", "Send one call in ten to a new version").unwrap();
    for (name, entry) in ["resolver.json", "splitter.json"].iter().zip(page.all("json")) {
        fs::write(terminals.folder().join(name), entry).unwrap();
    }
    page.run(0, &[]).await.unwrap();
    page.run(0, &[]).await.unwrap();
    // No instance says its version.
    page.run(1, &["90% of the requests", "10% of the requests"]).await.unwrap();

    let mut page = terminals.follow("docs/how-to.md", "Drain").unwrap();
    page.run(0, &[]).await.unwrap();
    assert!(mesh.web.exit(PATIENCE).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn aralez_takes_the_place_of_envoy_and_of_the_built_in_proxy() {
    let terminals = terminals().await;
    let _agent = agent(&terminals, "-config-dir consul/services").await;
    let _app = terminals.serve("python3 -m http.server --bind 127.0.0.1 9091").unwrap();
    // Before it, the other end is Consul's own proxy.
    let _api = terminals.serve("consul connect proxy -sidecar-for api").unwrap();
    let mut page = terminals.follow("docs/migration.md", "From Envoy sidecars (`consul connect envoy`)").unwrap();
    page.run(0, &["web may call api"]).await.unwrap();
    let mut page = terminals.follow("docs/migration.md", "From Consul's built-in proxy (`consul connect proxy`)").unwrap();
    let _web = page.serve().await.unwrap();
    terminals.run("curl --fail http://127.0.0.1:9191/", 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sticky_cookie_is_set_as_the_page_says() {
    let terminals = terminals().await;
    let upstreams = terminals.follow("docs/balancing.md", "Sticky sessions").unwrap();
    let service = format!(
        "service {{\n name = \"web\"\n connect {{\n sidecar_service {{\n proxy {{\n{}}}\n}}\n}}\n}}\n",
        upstreams.block("hcl").unwrap()
    );
    fs::write(terminals.folder().join("web.hcl"), service).unwrap();
    let shop = "service {\n name = \"shop\"\n port = 9091\n connect {\n sidecar_service {}\n }\n}\n";
    let defaults = "config_entries {\n bootstrap = [{ kind = \"proxy-defaults\", name = \"global\", config { protocol = \"http\" } }]\n}\n";
    fs::write(terminals.folder().join("shop.hcl"), format!("{shop}{defaults}")).unwrap();
    let _agent = agent(&terminals, "-config-file web.hcl -config-file shop.hcl").await;
    let _app = terminals.serve("python3 -m http.server --bind 127.0.0.1 9091").unwrap();
    let _shop = terminals.serve("aralez connect -sidecar-for shop -admin-bind 127.0.0.1:19001").unwrap();
    let _web = terminals.serve("aralez connect -sidecar-for web").unwrap();
    let answer = terminals.run("curl --fail -i http://127.0.0.1:9191/", 0).await.unwrap();
    assert!(answer.to_lowercase().contains("set-cookie: shop-session="), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_told_as_the_page_says() {
    const MANAGEMENT: &str = "6c1d4a52-6f43-4c1c-9d6e-2d9a4f0b8f11";
    let terminals = terminals().await;
    let acl =
        json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"initial_management": MANAGEMENT, "agent": MANAGEMENT}}});
    fs::write(terminals.folder().join("acl.json"), acl.to_string()).unwrap();
    let _agent = agent(&terminals, "-config-dir consul/services -config-file acl.json").await;
    let rules = r#"service "web" { policy = "write" } service "web-sidecar-proxy" { policy = "write" } node_prefix "" { policy = "read" }"#;
    fs::write(terminals.folder().join("rules.hcl"), rules).unwrap();
    let managed = format!("export CONSUL_HTTP_TOKEN={MANAGEMENT};");
    terminals.run(&format!("{managed} consul acl policy create -name web -rules @rules.hcl"), 0).await.unwrap();
    let token = "consul acl token create -policy-name web -format json | sed -n 's/.*\"SecretID\": \"\\(.*\\)\".*/\\1/p' > web.token";
    terminals.run(&format!("{managed} {token}"), 0).await.unwrap();
    terminals.follow("docs/check.md", "A sidecar: `-sidecar-for`, `-proxy-id`").unwrap().run(1, &[]).await.unwrap();
}
