//! `aralez check -sidecar-for`: every fault of an agent that a sidecar would meet, each with what, why, and what to do.

use std::process::Output;
use std::time::Duration;

use aralez_integration::ports::free_port;
use serde_json::{Value, json};

use crate::support::ca::LeafRequest;
use crate::support::fake_agent::{ChainSpec, Endpoint, FakeAgent, Fault, Instance, Sidecar, intention, upstream};
use crate::support::mesh::web;
use crate::support::sidecar::aralez;

/// Runs `aralez check` and gives its exit code, what it printed, and its errors.
async fn check(agent: &FakeAgent, arguments: &[&str]) -> (i32, String, String) {
    let mut command = aralez();
    command.arg("check").args(arguments).env("CONSUL_HTTP_ADDR", agent.address());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = run.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// `web`'s sidecar.
const WEB: [&str; 2] = ["-sidecar-for", "web-1"];

/// A sidecar of `web` with an upstream `api`, and an agent where nothing is wrong with it.
async fn sound() -> (FakeAgent, Sidecar) {
    let agent = FakeAgent::start().await;
    let sidecar = Sidecar { protocol: "tcp", ..web(vec![upstream("api", free_port().unwrap(), "tcp")]) };
    agent.register(&sidecar);
    agent.set_instances("api", vec![Instance::new("api-1", 4001), Instance { status: "critical", ..Instance::new("api-2", 4002) }]);
    agent.set_default_policy("deny", Some("deny"));
    agent.set_intentions("api", vec![intention("web", "api", "allow")]);
    agent.set_intentions("web", vec![intention("shop", "web", "allow")]);
    (agent, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fine_is_told_and_0() {
    let (agent, _) = sound().await;
    let (code, told, errors) = check(&agent, &WEB).await;
    assert_eq!((code, errors.as_str()), (0, ""), "{told}");
    let facts = [
        "proxy web-1-sidecar-proxy of web (tcp): listens at ",
        "leaf of spiffe://",
        "intentions of web: shop -> web (precedence 9); other callers are denied",
        "target api.default.default.dc1: 1 of 2 instances healthy",
        "web may call api: intention web -> api (precedence 9) allows it",
    ];
    assert!(facts.iter().all(|fact| told.contains(fact)), "{told}");
    let (code, told, errors) = check(&agent, &["-proxy-id", "web-1-sidecar-proxy", "-format", "json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, errors.as_str(), &told["findings"]), (0, "", &json!([])));
    assert_eq!(told["facts"].as_array().unwrap().len(), facts.len());
}

/// A fault, and the words that the check has for it.
type Case<'a> = (&'a str, &'a dyn Fn(&FakeAgent), i32, &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_found_with_its_reason_and_advice() {
    let refuse = |endpoint| move |agent: &FakeAgent| agent.fail(endpoint, Fault::Status(403));
    let edit = |key: &'static str, value: Value| {
        move |agent: &FakeAgent| agent.edit_registration("web-1-sidecar-proxy", |service| service["Proxy"]["Config"][key] = value.clone())
    };
    let permission = || {
        let mut wire = intention("web", "api", "");
        wire.as_object_mut().unwrap().remove("Action");
        wire["Permissions"] = json!([{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]);
        wire
    };
    let extension = |required: bool| {
        move |agent: &FakeAgent| {
            let entry = json!({"Kind": "service-defaults", "Name": "web", "MutualTLSMode": "permissive",
                "EnvoyExtensions": [{"Name": "builtin/ext-authz", "Required": required}]});
            agent.set_defaults(Endpoint::ServiceDefaults, "web", entry);
        }
    };
    let everywhere = |agent: &FakeAgent| {
        let entry = json!({"Kind": "proxy-defaults", "Name": "global", "EnvoyExtensions": [{"Name": "builtin/lua"}]});
        agent.set_defaults(Endpoint::ProxyDefaults, "", entry);
    };
    let canary = |agent: &FakeAgent| {
        let id = |service: &str| format!("{service}.default.default.dc1");
        let target = |service: &str| {
            json!({"ID": id(service), "Service": service, "Namespace": "default", "Partition": "default", "Datacenter": "dc1",
            "SNI": format!("{service}.sni"), "Name": format!("{service}.sni")})
        };
        let node =
            |service: &str| json!({"Type": "resolver", "Name": id(service), "Resolver": {"ConnectTimeout": "5s", "Target": id(service)}});
        let split = |weight: u8, service: &str| json!({"Weight": weight, "NextNode": format!("resolver:{}", id(service))});
        let chain = json!({
            "ServiceName": "api", "Namespace": "default", "Partition": "default", "Datacenter": "dc1", "Protocol": "http",
            "StartNode": "splitter:api.default.default",
            "Nodes": {
                "splitter:api.default.default": {"Type": "splitter", "Name": "api.default.default", "Splits": [split(100, "api"), split(0, "spare")]},
                "resolver:api.default.default.dc1": node("api"),
                "resolver:spare.default.default.dc1": node("spare"),
            },
            "Targets": {"api.default.default.dc1": target("api"), "spare.default.default.dc1": target("spare")},
        });
        agent.set_compiled_chain("api", chain);
    };
    let cases: [Case<'_>; 22] = [
        (
            "extension",
            &extension(false),
            0,
            &["warning: service-defaults web, EnvoyExtensions builtin/ext-authz: it has no effect", "MutualTLSMode permissive"],
        ),
        ("required extension", &extension(true), 1, &["service-defaults web, EnvoyExtensions builtin/ext-authz: it is required"]),
        ("extension of all", &everywhere, 0, &["warning: proxy-defaults, EnvoyExtensions builtin/lua: "]),
        (
            "closed by intention",
            &|agent| agent.set_intentions("web", vec![intention("*", "web", "deny")]),
            0,
            &["warning: intentions of web: its intentions deny all that they name", "nobody may call it"],
        ),
        ("canary", &canary, 0, &["no instance of spare is registered; nothing is sent there now"]),
        ("leaf refused", &refuse(Endpoint::Leaf), 1, &["leaf: the agent answered 403", "service \"web\" { policy = \"write\" }"]),
        ("chain refused", &refuse(Endpoint::Chain), 1, &["upstream api@", "403", "service \"api\" { policy = \"read\" }"]),
        ("instances refused", &refuse(Endpoint::Health), 1, &["target api.default.default.dc1", "node_prefix \"\" { policy = \"read\" }"]),
        ("intentions refused", &refuse(Endpoint::Intentions), 1, &["intentions of web: ", "upstream api@"]),
        ("probe refused", &refuse(Endpoint::Authorize), 0, &["warning: default intention policy", "-default-intention-policy"]),
        ("no roots", &|agent| agent.hide_roots(true), 1, &["roots: ", "connect { enabled = true }"]),
        (
            "denied",
            &|agent| agent.set_intentions("api", vec![intention("*", "api", "deny")]),
            1,
            &["web may not call api: intention * -> api (precedence 8) denies it", "consul intention create -replace -allow web api"],
        ),
        ("not named", &|agent| agent.set_intentions("api", vec![]), 1, &["no intention names the caller and the default policy is deny"]),
        ("permissions on tcp", &|agent| agent.set_intentions("api", vec![permission()]), 1, &["the service's protocol is tcp"]),
        ("nobody may call", &|agent| agent.set_intentions("web", vec![]), 0, &["warning: intentions of web: ", "nobody may call it"]),
        (
            "unwell",
            &|agent| agent.set_instances("api", vec![Instance { status: "critical", ..Instance::new("api-1", 4001) }]),
            1,
            &["none of its 1 instances is healthy"],
        ),
        ("nobody", &|agent| agent.set_instances("api", vec![]), 1, &["no instance of api is registered"]),
        (
            "no sidecar",
            &|agent| {
                agent.set_instances("api", vec![]);
                agent.set_bare_instances("api", vec![Instance::new("api-1", 4001)]);
            },
            1,
            &["the one instance of api has no sidecar", "sidecar_service"],
        ),
        (
            "failover",
            &|agent| {
                agent.set_chain("api", ChainSpec { failover: vec!["spare".to_owned()], ..ChainSpec::default_for("api") });
                agent.set_intentions("spare", vec![intention("web", "spare", "allow")]);
            },
            0,
            &["warning: ", "target spare.default.default.dc1: no instance of spare is registered; another target of its route serves"],
        ),
        ("ignored", &edit("envoy_tracing_json", json!("{}")), 0, &["warning: Proxy.Config.envoy_tracing_json: "]),
        (
            "protocol",
            &edit("protocol", json!("http")),
            0,
            &["warning: protocol: the sidecar is registered with protocol http", "service-defaults web"],
        ),
        ("unreadable", &edit("local_connect_timeout_ms", json!("soon")), 1, &["Proxy.Config.local_connect_timeout_ms: "]),
    ];
    for (name, fault, expected, words) in cases {
        let (agent, _) = sound().await;
        fault(&agent);
        let (code, told, errors) = check(&agent, &WEB).await;
        assert_eq!(code, expected, "{name}: {told}{errors}");
        assert!(words.iter().all(|words| errors.contains(words)), "{name}: {words:?} in\n{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_come_at_once_and_as_json() {
    let (agent, sidecar) = sound().await;
    agent.fail(Endpoint::Leaf, Fault::Status(403));
    agent.set_instances("api", vec![]);
    agent.set_intentions("api", vec![]);
    agent.edit_registration(&sidecar.proxy_id(), |service| service["Proxy"]["Upstreams"][0]["Config"]["protocol"] = json!("http"));
    let (code, told, errors) = check(&agent, &["-sidecar-for", "web-1", "-format=json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    let findings = told["findings"].as_array().unwrap();
    let paths: Vec<&str> = findings.iter().map(|finding| finding["path"].as_str().unwrap().split('@').next().unwrap()).collect();
    assert_eq!((code, errors.as_str(), paths.as_slice()), (1, "", ["leaf", "upstream api", "upstream api", "upstream api"].as_slice()));
    assert_eq!(findings[1]["severity"], "warning", "{findings:?}");
    for finding in findings {
        assert!(
            finding["why"].as_str().is_some_and(|why| !why.is_empty()) && finding["advice"].as_str().is_some_and(|text| !text.is_empty())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_was_not_renewed_is_told() {
    let (agent, _) = sound().await;
    let signer = agent.signer();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    for (age, expected, words) in [(73, 1, "leaf: it has ended at "), (71, 0, "warning: leaf: it ends at ")] {
        let request = LeafRequest { backdated: hours(age), lifetime: hours(72), ..LeafRequest::new(signer.service_uri("web"), 77) };
        agent.set_leaf("web", signer.issue(&request, ""));
        let (code, told, errors) = check(&agent, &WEB).await;
        assert!(code == expected && errors.starts_with(words), "{words}: {told}{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_know_the_sidecar_is_told_in_one_line() {
    let (mut agent, sidecar) = sound().await;
    let told = async |agent: &FakeAgent, arguments: &[&str], words: &[&str]| {
        let (code, told, errors) = check(agent, arguments).await;
        assert_eq!((code, told.as_str(), errors.lines().count()), (1, "", 1), "{arguments:?}: {errors}");
        assert!(words.iter().all(|words| errors.contains(words)), "{arguments:?}: {errors}");
    };
    told(&agent, &["-sidecar-for", "shop-1"], &["No sidecar proxy registered for shop-1", "service \"shop-1\" { policy = \"read\" }"])
        .await;
    told(&agent, &["-proxy-id", "shop"], &["shop is not registered at this agent"]).await;
    agent.set_registration("web-2-sidecar-proxy", sidecar.to_json());
    agent.edit_registration("web-2-sidecar-proxy", |service| service["ID"] = json!("web-2-sidecar-proxy"));
    told(&agent, &WEB, &["more than one sidecar proxy", "choose one with -proxy-id"]).await;
    agent.edit_registration("web-2-sidecar-proxy", |service| service["Kind"] = json!("mesh-gateway"));
    told(&agent, &["-proxy-id", "web-2-sidecar-proxy"], &["its Kind is \"mesh-gateway\", not connect-proxy"]).await;
    agent.fail(Endpoint::Services, Fault::Hang);
    told(&agent, &["-sidecar-for", "web-1", "-timeout-seconds", "1"], &["did not answer everything within 1s"]).await;
    agent.kill().await;
    told(&agent, &WEB, &["cannot connect to the agent", "CONSUL_HTTP_ADDR"]).await;
}
