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

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_and_what_it_leads_to() {
    let terminals = terminals().await;
    let mut page = terminals.follow("docs/quick-start.md", "With Consul").unwrap();
    let _agent = page.serve().await.unwrap();
    let [_app, _api, mut web] = [page.serve().await.unwrap(), page.serve().await.unwrap(), page.serve().await.unwrap()];
    page.run(0, &["200 OK", "Directory listing"]).await.unwrap();
    page.run(0, &["Created: web => api (deny)"]).await.unwrap();
    page.run(0, &["403 Forbidden"]).await.unwrap();
    page.run(1, &["denied: "]).await.unwrap();
    page.run(1, &["consul intention create -replace -allow web api"]).await.unwrap();
    terminals.run("consul intention create -replace -allow web api", 0).await.unwrap();

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
    assert!(web.exit(PATIENCE).await.unwrap().success());
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

/// Two versions of `api` on `n1`, one of them unwell, and what the mesh says of calls to it.
fn versions() -> serde_json::Value {
    let api = |version: u8, check: serde_json::Value| {
        let sidecar = json!({"port": 20999 + u16::from(version), "checks": [check]});
        json!({"id": format!("api-{version}"), "name": "api", "address": format!("10.0.0.{version}"), "port": 8080,
            "meta": {"version": version.to_string()}, "connect": {"sidecar_service": sidecar}})
    };
    let upstreams = json!([{"destination_name": "api", "local_bind_port": 9191}]);
    let web = json!({"id": "web-1", "name": "web", "port": 9090, "connect": {"sidecar_service": {"proxy": {"upstreams": upstreams}}}});
    let subset = |version: u8| json!({"Filter": format!("Service.Meta.version == {version}"), "OnlyPassing": version == 2});
    let beta = json!({"PathPrefix": "/v2/", "Header": [{"Name": "x-beta", "Exact": "yes"}]});
    let to_beta = json!({"ServiceSubset": "v2", "PrefixRewrite": "/", "RequestTimeout": "3s", "NumRetries": 2, "RetryOn": ["5xx"]});
    json!({
        "services": [web, api(1, json!({"alias_service": "api-1"})), api(2, json!({"name": "unwell", "ttl": "1h"}))],
        "config_entries": {"bootstrap": [
            {"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}},
            {"Kind": "service-resolver", "Name": "api", "DefaultSubset": "v1", "Subsets": {"v1": subset(1), "v2": subset(2)},
                "Failover": {"v2": {"ServiceSubset": "v1"}}},
            {"Kind": "service-router", "Name": "api", "Routes": [
                {"Match": {"HTTP": {"PathPrefix": "/admin", "Methods": ["POST"]}}, "Destination": {"ServiceSubset": "v1"}},
                {"Match": {"HTTP": beta}, "Destination": to_beta},
            ]},
            {"Kind": "service-intentions", "Name": "api", "Sources": [
                {"Name": "web", "Permissions": [{"Action": "deny", "HTTP": {"PathPrefix": "/admin", "Methods": ["GET"]}}]},
                {"Name": "*", "Action": "allow"},
            ]},
        ]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_explained_as_the_page_says() {
    let terminals = terminals().await;
    fs::write(terminals.folder().join("versions.json"), versions().to_string()).unwrap();
    let _agent = agent(&terminals, "-node n1 -config-file versions.json").await;
    terminals.follow("docs/explain.md", "Where a call goes: `-sidecar-for`").unwrap().run(0, &[]).await.unwrap();
    terminals.follow("docs/explain.md", "Who may call: `-from`, `-to`").unwrap().run(1, &[]).await.unwrap();
}
