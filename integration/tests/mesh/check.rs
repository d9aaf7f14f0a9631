//! `aralez check -sidecar-for` against a real agent: the right that a token lacks is named, and so is what keeps a call from passing.

use std::process::{Command, Output};

use aralez_integration::apps;
use aralez_integration::components;
use aralez_integration::consul::{Agent, Options};
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use serde_json::json;

use crate::scene::{caller, unique};

/// Runs the check and gives its exit code, what it printed, and its errors.
async fn check(agent: &Agent, proxy: &str, token: Option<&str>) -> (i32, String, String) {
    let mut command = Command::new(components::aralez().unwrap());
    command.args(["check", "-proxy-id", proxy]).env("CONSUL_HTTP_ADDR", agent.http_addr());
    if let Some(token) = token {
        command.env("CONSUL_HTTP_TOKEN", token);
    }
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = run.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A token with these rules.
async fn token(agent: &Agent, rules: &str) -> String {
    let policy = agent.put("/v1/acl/policy", &json!({"Name": unique("rules"), "Rules": rules})).await.unwrap();
    let token = agent.put("/v1/acl/token", &json!({"Policies": [{"ID": policy["ID"]}]})).await.unwrap();
    token["SecretID"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_that_a_token_lacks_is_named() {
    let agent = Agent::start(Options::acl()).await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let db = Service::new("db", &app.address).unwrap();
    let web = caller(Upstream::new("db").unwrap());
    agent.register(&db).await.unwrap();
    agent.register(&web).await.unwrap();
    let proxy = web.proxy_id();
    let name = &web.name;

    let own = agent.service_token(name).await.unwrap();
    let (code, told, errors) = check(&agent, &proxy, Some(&own)).await;
    assert_eq!(code, 1, "{told}{errors}");
    for words in [
        &format!("{name} may not call db: no intention names the caller and the default policy is deny"),
        &format!("consul intention create -replace -allow {name} db"),
        "none of its 1 instances is healthy",
    ] {
        assert!(errors.contains(words), "{words:?} in\n{errors}");
    }
    let read = format!("service \"{name}\" {{ policy = \"read\" }} service \"{proxy}\" {{ policy = \"read\" }}");
    for (rules, lacks) in [
        (read.clone(), "service \"db\" { policy = \"read\" }".to_owned()),
        (format!("{read} service \"db\" {{ policy = \"read\" }}"), "node_prefix \"\" { policy = \"read\" }".to_owned()),
        (
            format!("{read} service \"db\" {{ policy = \"read\" }} node_prefix \"\" {{ policy = \"read\" }}"),
            "service \"db-sidecar-proxy\" { policy = \"read\" }".to_owned(),
        ),
        (read.clone(), format!("service \"{name}\" {{ policy = \"write\" }}")),
        (String::new(), "service_prefix \"\" { policy = \"read\" }".to_owned()),
    ] {
        let (code, told, errors) = check(&agent, &proxy, Some(&token(&agent, &rules).await)).await;
        assert!(code == 1 && errors.contains(&lacks), "{rules} lacks {lacks}: {told}{errors}");
    }
    let (code, _, errors) = check(&agent, &proxy, Some("11111111-2222-3333-4444-555555555555")).await;
    assert!(code == 1 && errors.contains("the agent does not know the token"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_call_from_passing_is_named_until_it_is_mended() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap();
    let bare = unique("bare");
    agent.put("/v1/agent/service/register", &json!({"Name": bare, "Port": 1})).await.unwrap();
    agent.config_entry(json!({"Kind": "service-defaults", "Name": db.name, "Protocol": "http"})).await.unwrap();
    let web = caller(Upstream::new(&db.name).unwrap().protocol("tcp"));
    let (query, absent) = (unique("query"), unique("absent"));
    agent.post("/v1/query", &json!({"Name": query, "Service": {"Service": db.name}})).await.unwrap();
    let queried = [&query, &absent].map(|name| Upstream::new(name).unwrap().prepared_query());
    let both = Service { upstreams: [&web.upstreams[..], &[Upstream::new(&bare).unwrap()], &queried].concat(), ..web.clone() };
    let lua = json!({"Name": "builtin/lua", "Arguments": {"ProxyType": "connect-proxy", "Listener": "inbound", "Script": "-- nothing"}});
    let defaults = |extensions: &[serde_json::Value]| json!({"Kind": "service-defaults", "Name": web.name, "EnvoyExtensions": extensions});
    agent.config_entry(defaults(&[lua])).await.unwrap();
    agent.register(&db).await.unwrap();
    agent.register(&both).await.unwrap();
    let _db = Sidecar::start(&agent, &db).await.unwrap();
    agent.healthy(&db.name, 1).await.unwrap();
    agent.intention(&web.name, &db.name, "deny").await.unwrap();
    let (code, told, errors) = check(&agent, &web.proxy_id(), None).await;
    assert_eq!(code, 1, "{told}{errors}");
    for words in [
        &format!("the upstream has protocol tcp, the config entries of {} say http", db.name),
        &format!("{} may not call {}: intention {0} -> {1} (precedence 9) denies it", web.name, db.name),
        &format!("the one instance of {bare} has no sidecar"),
        &format!("warning: service-defaults {}, EnvoyExtensions builtin/lua: it has no effect", web.name),
        "create a prepared query of this name",
    ] {
        assert!(errors.contains(words), "{words:?} in\n{errors}");
    }

    let denied = errors.lines().filter(|line| line.contains(&query) && line.contains("denies it")).count();
    assert_eq!(denied, 1, "{errors}");

    agent.config_entry(defaults(&[])).await.unwrap();
    agent.intention(&web.name, &db.name, "allow").await.unwrap();
    let mended = Service { upstreams: vec![Upstream { config: serde_json::Map::new(), ..web.upstreams[0].clone() }], ..web };
    agent.register(&mended).await.unwrap();
    let (code, told, errors) = check(&agent, &mended.proxy_id(), None).await;
    assert_eq!((code, errors.as_str()), (0, ""), "{told}");
    assert!(told.contains("1 of 1 instances healthy") && told.contains("allows it"), "{told}");
}
