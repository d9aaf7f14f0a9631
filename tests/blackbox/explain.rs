//! `aralez explain`: what it says is what a sidecar does, in the same words.

use std::process::Output;

use anyhow::ensure;
use aralez_integration::apps::http_echo;
use aralez_integration::clients;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, Instance, intention, upstream};
use crate::support::issuer::Issuer;
use crate::support::mesh::{EFFECT, Mesh, web};
use crate::support::sidecar::aralez;

/// Runs `aralez explain` and gives its exit code, what it printed, and its errors.
async fn explain(agent: &FakeAgent, arguments: &[&str]) -> (i32, String, String) {
    let mut command = aralez();
    command.arg("explain").args(arguments).env("CONSUL_HTTP_ADDR", agent.address());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = run.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The chain of `api` with these nodes, over the targets `api` and `spare`.
fn chain(start: &str, nodes: Value) -> Value {
    let target = |service: &str, subset: Value| {
        json!({"ID": format!("{service}.default.default.dc1"), "Service": service, "Namespace": "default", "Partition": "default",
            "Datacenter": "dc1", "MeshGateway": {}, "Subset": subset, "ConnectTimeout": "5s", "SNI": format!("{service}.sni"),
            "Name": format!("{service}.sni")})
    };
    let resolver = |service: &str, failover: Value| {
        let target = format!("{service}.default.default.dc1");
        json!({"Type": "resolver", "Name": target, "Resolver": {"ConnectTimeout": "5s", "Target": target, "Failover": failover}})
    };
    let mut all = json!({
        "resolver:api": resolver("api", json!({"Targets": ["spare.default.default.dc1"]})),
        "resolver:spare": resolver("spare", Value::Null),
    });
    all.as_object_mut().unwrap().extend(nodes.as_object().unwrap().clone());
    json!({"ServiceName": "api", "Namespace": "default", "Partition": "default", "Datacenter": "dc1", "Protocol": "http",
    "CustomizationHash": "", "StartNode": start, "Nodes": all, "Targets": {
        "api.default.default.dc1": target("api", json!({"Filter": "Service.Meta.v == 1", "OnlyPassing": true})),
        "spare.default.default.dc1": target("spare", json!({})),
    }})
}

/// An agent with `web`'s sidecar, whose upstream `api` has a router, a splitter, and an endpoint that is unwell.
async fn routed() -> FakeAgent {
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![upstream("api", free_port().unwrap(), "http"), upstream("db", free_port().unwrap(), "tcp")]));
    let split = |weight: f64, to: &str| json!({"Weight": weight, "NextNode": to});
    agent.set_compiled_chain(
        "api",
        chain(
            "router:api",
            json!({
                "router:api": {"Type": "router", "Name": "api", "Routes": [
                    {"NextNode": "resolver:spare", "Definition": {"Match": {"HTTP": {"PathPrefix": "/v2", "Methods": ["POST"]}}}},
                    {"NextNode": "splitter:api", "Definition": {"Match": {"HTTP": {"PathPrefix": "/v2",
                        "Header": [{"Name": "x-beta", "Exact": "yes"}]}}, "Destination": {"PrefixRewrite": "/new", "RequestTimeout": "3s",
                        "NumRetries": 2, "RetryOn": ["5xx"], "RequestHeaders": {"Set": {"x-by": "%REQ(host)%"}}}}},
                    {"NextNode": "resolver:spare", "Definition": {"Match": {"HTTP": {"PathPrefix": "/"}}}},
                ]},
                "splitter:api": {"Type": "splitter", "Name": "api", "Splits": [split(90.0, "resolver:api"), split(10.0, "resolver:spare")]},
            }),
        ),
    );
    agent.set_instances("api", vec![Instance { status: "warning", ..Instance::new("api-1", 4001) }]);
    agent.set_instances("spare", vec![Instance::new("spare-1", 4002), Instance { status: "critical", ..Instance::new("spare-2", 4003) }]);
    agent.set_instances("db", vec![Instance { status: "critical", ..Instance::new("db-1", 4004) }]);
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_explained_from_route_to_endpoint() {
    let agent = routed().await;
    let request = ["-sidecar-for", "web-1", "-upstream", "api", "-H", "X-Beta: yes", "GET", "/v2/x?q=1"];
    let (code, said, errors) = explain(&agent, &request).await;
    let expected = [
        r#"route 1 (path prefix "/v2", method POST): no match (method POST)"#,
        r#"route 2 (path prefix "/v2", header x-beta exact "yes"): match"#,
        "path rewritten to /new/x",
        "timeout 3s, idle timeout 300s",
        "retries: at most 2 on 5xx",
        "request header x-by set to %REQ(host)%",
        "leg api: 90% of the requests",
        r#"target api.default.default.dc1 (round robin, subset filter "Service.Meta.v == 1", passing instances only)"#,
        "node-1/api-1 127.0.0.1:4001 weight 1 critical; never chosen: a check does not pass, and the subset takes passing instances only",
        "failover spare.default.default.dc1 (round robin): serves now",
        "node-1/spare-1 127.0.0.1:4002 weight 1 passing",
        "node-1/spare-2 127.0.0.1:4003 weight 1 critical; never chosen: a check is critical",
        "leg spare: 10% of the requests",
    ];
    let mut rest = said.as_str();
    for words in expected {
        let at = rest.find(words).unwrap_or_else(|| panic!("no {words:?} (in its place) in\n{said}{errors}"));
        rest = &rest[at + words.len()..];
    }
    assert_eq!((code, errors.as_str()), (0, ""), "{said}");

    let (code, said, _) = explain(&agent, &["-sidecar-for", "web-1", "-upstream", "api", "-json", "GET", "/"]).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &said["taken"]["route"], &said["passed"][1]["failed"]),
        (0, &json!("default"), &json!(r#"path prefix "/v2""#)),
        "{said}"
    );

    // All upstreams, one of which nobody serves.
    let (code, said, _) = explain(&agent, &["-sidecar-for", "web-1"]).await;
    assert!(
        code == 1 && said.contains("upstream db@") && said.contains("no healthy upstream: 503") && said.contains("upstream api@"),
        "{said}"
    );
}

/// `api` lets `web` call all but `GET /admin`, and asks for a token under `/me`.
fn permissions() -> Value {
    let mut intention = intention("web", "api", "");
    intention.as_object_mut().unwrap().remove("Action");
    intention["Permissions"] = json!([
        {"Action": "deny", "HTTP": {"PathPrefix": "/admin", "Methods": ["GET"]}},
        {"Action": "allow", "HTTP": {"PathPrefix": "/me"}, "JWT": {"Providers": [{"Name": "okta"}]}},
        {"Action": "deny", "HTTP": {"PathPrefix": "/me"}},
        {"Action": "allow", "HTTP": {"PathPrefix": "/"}},
    ]);
    intention
}

/// An agent that knows the above, with the path in one form.
async fn guarded(issuer: &Issuer) -> FakeAgent {
    let agent = FakeAgent::start().await;
    agent.set_compiled_chain("api", chain("resolver:api", json!({})));
    agent.set_intentions("api", vec![permissions()]);
    agent.set_jwt_providers(vec![json!({"Kind": "jwt-provider", "Name": "okta", "Issuer": "okta", "ClockSkewSeconds": 30,
        "JSONWebKeySet": {"Local": {"JWKS": BASE64_STANDARD.encode(issuer.key_set())}}})]);
    agent
}

const FROM_WEB: [&str; 4] = ["-from", "web", "-to", "api"];

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_has_the_words_of_the_sidecars_log_and_metric() {
    let agent = guarded(&Issuer::new("one")).await;
    let mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    let (code, said, errors) = explain(&mesh.agent, &[&FROM_WEB[..], &["GET", "/x/../%61dmin"]].concat()).await;
    let verdict = r#"intention web -> api (precedence 9), permission 1: path prefix "/admin", method GET denies it"#;
    assert_eq!((code, errors.as_str()), (1, ""), "{said}");
    assert!(said.ends_with(&format!("  denied: {verdict}\n")), "{said}");
    assert!(said.contains("path normalised to /admin\n") && said.contains("default policy: allow\n"), "{said}");

    assert_eq!(clients::get(&mesh.entry, "/x/../%61dmin").await.unwrap().status, 403);
    mesh.api.logged(&format!("denied: {verdict}"), EFFECT).await;
    let label = format!("decider={verdict:?}");
    let counted = eventually(&label, EFFECT, async || {
        let metrics = mesh.api.admin("/metrics").await?.text();
        let decided = |line: &&str| line.starts_with("aralez_intention_decisions_total{") && line.contains(&label);
        ensure!(metrics.lines().any(|line| decided(&line)), "{metrics}");
        Ok(())
    });
    counted.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_explained_one_by_one_and_tokens_are_verified() {
    let issuer = Issuer::new("one");
    let agent = guarded(&issuer).await;
    let ask = async |arguments: &[&str]| explain(&agent, &[&FROM_WEB[..], arguments].concat()).await;
    let (code, said, _) = ask(&["POST", "/admin"]).await;
    let steps =
        [r#"permission 1: path prefix "/admin", method GET: no match (method GET)"#, r#"permission 4: path prefix "/": match, allow"#];
    assert!(code == 0 && steps.iter().all(|step| said.contains(step)), "{said}");
    assert!(said.contains("  allowed: intention web -> api (precedence 9), permission 4"), "{said}");

    let bearer = format!("authorization: Bearer {}", issuer.token(json!({})));
    let (code, said, _) = ask(&["-H", &bearer, "GET", "/me"]).await;
    assert!(code == 0 && said.contains("token of okta: it stands"), "{said}");
    let (code, said, _) = ask(&["GET", "/me"]).await;
    assert!(code == 1 && said.contains("token of okta: no token") && said.contains("no match (token of okta)"), "{said}");
    assert!(!said.contains(&bearer));

    let (code, said, _) = ask(&["GET", "/a%00b"]).await;
    assert_eq!((code, said.as_str()), (1, "refused: 400 bad request: the path has an escaped NUL\n"));
    let (code, said, _) = ask(&["GET", "/a#b"]).await;
    assert!(code == 1 && said.starts_with("refused: 400 "), "{said}");

    agent.set_default_policy("deny", None);
    let (code, said, _) = explain(&agent, &["-from", "shop", "-to", "api", "GET", "/"]).await;
    assert!(code == 1 && said.ends_with("denied: no intention names the caller and the default policy is deny\n"), "{said}");
    agent.fail(Endpoint::Authorize, Fault::Status(403));
    let (code, said, _) = explain(&agent, &["-from", "shop", "-to", "api", "GET", "/"]).await;
    let words = ["default policy: unknown", "were the default policy allow: allowed: ", "were the default policy deny: denied: "];
    assert!(code == 1 && words.iter().all(|words| said.contains(words)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_explained_is_said_in_one_line() {
    let mut agent = routed().await;
    for (arguments, named) in [
        (&["-from", "web", "GET", "/"][..], "--to"),
        (&["-from", "web", "-to", "api", "-sidecar-for", "web-1"], "sidecar-for"),
        (&["GET", "/"], "-sidecar-for"),
        (&["-sidecar-for", "web-1", "GET", "x"], "slash"),
        (&["-sidecar-for", "web-1", "-H", "nonsense"], "nonsense"),
    ] {
        let (code, said, errors) = explain(&agent, arguments).await;
        assert_eq!((code, said.as_str(), errors.lines().count()), (2, "", 1), "{arguments:?}: {errors}");
        assert!(errors.contains(named), "{arguments:?}: {errors}");
    }
    let (code, _, errors) = explain(&agent, &["-sidecar-for", "web-1", "-upstream", "cache"]).await;
    assert!(code == 1 && errors.contains("no usable upstream cache"), "{errors}");
    let (code, _, errors) = explain(&agent, &["-sidecar-for", "shop"]).await;
    assert!(code == 1 && errors.contains("No sidecar proxy registered for shop"), "{errors}");

    agent.fail(Endpoint::Intentions, Fault::Status(500));
    let (code, _, errors) = explain(&agent, &["-sidecar-for", "web-1", "-timeout-seconds", "1"]).await;
    assert!(code == 1 && errors.contains("web-1-sidecar-proxy: intentions"), "{errors}");
    let (code, _, errors) = explain(&agent, &FROM_WEB).await;
    assert!(code == 1 && errors.contains("cannot read the intentions towards api: the agent answered 500"), "{errors}");

    agent.kill().await;
    for arguments in [&["-sidecar-for", "web-1"][..], &FROM_WEB] {
        let (code, said, errors) = explain(&agent, arguments).await;
        assert_eq!((code, said.as_str()), (1, ""));
        assert!(errors.contains("cannot connect to the agent"), "{errors}");
    }
}
