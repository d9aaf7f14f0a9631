//! The fake agent itself: each behaviour the other tests rely on.

use std::time::{Duration, Instant};

use aralez_integration::wait::eventually;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, Instance, Sidecar, TRUST_DOMAIN, intention, upstream};

const SOON: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(150);

async fn get(agent: &FakeAgent, path: impl AsRef<str>) -> Response {
    get_with(&Client::new(), agent, path.as_ref()).await.unwrap()
}

async fn get_with(client: &Client, agent: &FakeAgent, path: &str) -> reqwest::Result<Response> {
    client.get(format!("http://{}{path}", agent.address())).send().await
}

/// Sends a call that the agent holds, and returns once it is held.
async fn held(agent: &FakeAgent, endpoint: Endpoint, name: &str, path: impl AsRef<str>) -> JoinHandle<reqwest::Result<Response>> {
    let before = agent.held(endpoint, name);
    let url = format!("http://{}{}", agent.address(), path.as_ref());
    let call = tokio::spawn(async move { Client::new().get(url).send().await });
    let arrived = eventually("a held call", SOON, async || {
        anyhow::ensure!(agent.held(endpoint, name) > before);
        Ok(())
    });
    arrived.await.unwrap();
    call
}

/// The answer to a call that was held.
async fn answer(call: JoinHandle<reqwest::Result<Response>>) -> Response {
    timeout(SOON, call).await.unwrap().unwrap().unwrap()
}

fn index(response: &Response) -> u64 {
    response.headers()["x-consul-index"].to_str().unwrap().parse().unwrap()
}

fn web() -> Sidecar {
    Sidecar {
        service: "web".into(),
        service_id: "web-1".into(),
        public_port: 21001,
        app_port: 8001,
        protocol: "http",
        upstreams: vec![upstream("api", 9191, "http")],
    }
}

#[tokio::test]
async fn a_registration_blocks_by_hash_until_it_changes() {
    let agent = FakeAgent::start().await;
    agent.register(&web());
    let path = "/v1/agent/service/web-1-sidecar-proxy";
    let first = get(&agent, path).await;
    let hash = first.headers()["x-consul-contenthash"].to_str().unwrap().to_owned();
    let first: Value = first.json().await.unwrap();
    assert_eq!(first["ContentHash"], hash);
    assert_eq!(first["Proxy"]["Upstreams"][0]["DestinationName"], "api");

    let call = held(&agent, Endpoint::Registration, "web-1-sidecar-proxy", format!("{path}?hash={hash}&wait=1m")).await;
    agent.edit_registration("web-1-sidecar-proxy", |service| service["Port"] = json!(7));
    let second: Value = answer(call).await.json().await.unwrap();
    assert_eq!(second["Port"], 7);
    assert_ne!(second["ContentHash"], hash);

    agent.deregister("web-1-sidecar-proxy");
    assert_eq!(get(&agent, path).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_index_blocks_until_a_change_or_the_end_of_the_wait() {
    let agent = FakeAgent::start().await;
    let path = "/v1/health/connect/api";
    let first = get(&agent, path).await;
    let at = index(&first);
    assert_eq!(first.json::<Value>().await.unwrap(), json!([]));

    let began = Instant::now();
    let unchanged = get(&agent, format!("{path}?index={at}&wait=100ms")).await;
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(index(&unchanged), at);

    let call = held(&agent, Endpoint::Health, "api", format!("{path}?index={at}&wait=1m")).await;
    agent.set_instances("other", vec![]);
    assert_eq!(agent.held(Endpoint::Health, "api"), 1, "woken by another service");
    agent.set_instances("api", vec![Instance::new("api-1", 21002)]);
    let second = answer(call).await;
    assert_eq!(index(&second), at + 1);
    let second: Value = second.json().await.unwrap();
    assert_eq!(second[0]["Service"]["Port"], 21002);
    assert_eq!(second[0]["Service"]["Proxy"]["DestinationServiceName"], "api");
}

#[tokio::test]
async fn a_rewound_index_answers_low_and_then_hides_changes_from_the_old_index() {
    let agent = FakeAgent::start().await;
    let path = "/v1/connect/intentions/match?by=destination&name=api";
    let at = index(&get(&agent, path).await);
    let call = held(&agent, Endpoint::Intentions, "api", format!("{path}&index={at}")).await;
    agent.rewind(Endpoint::Intentions, "api");
    assert_eq!(index(&answer(call).await), 2);

    agent.set_intentions("api", vec![intention("web", "api", "allow")]);
    // An index from before the rewind is held, although there is news.
    held(&agent, Endpoint::Intentions, "api", format!("{path}&index={at}")).await.abort();
    let seen: Value = get(&agent, format!("{path}&index=2")).await.json().await.unwrap();
    assert_eq!(seen["api"][0]["SourceName"], "web");
}

#[tokio::test]
async fn a_leaf_is_issued_once_and_again_on_demand() {
    let agent = FakeAgent::start().await;
    let path = "/v1/agent/connect/ca/leaf/web";
    let first: Value = get(&agent, path).await.json().await.unwrap();
    let uri = format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web");
    assert_eq!(first["ServiceURI"], uri);
    assert!(first["PrivateKeyPEM"].as_str().unwrap().starts_with("-----BEGIN EC PRIVATE KEY"));
    let again: Value = get(&agent, path).await.json().await.unwrap();
    assert_eq!(again["CertPEM"], first["CertPEM"]);
    agent.reissue_leaf("web");
    let renewed: Value = get(&agent, path).await.json().await.unwrap();
    assert_ne!(renewed["SerialNumber"], first["SerialNumber"]);

    let certificate = openssl::x509::X509::from_pem(first["CertPEM"].as_str().unwrap().as_bytes());
    let certificate = certificate.unwrap();
    assert_eq!(certificate.subject_name().entries().count(), 0);
    let names = certificate.subject_alt_names().unwrap();
    assert_eq!(names.iter().map(|name| name.uri().unwrap()).collect::<Vec<_>>(), [uri]);
}

#[tokio::test]
async fn a_new_root_is_listed_beside_the_old_one_and_bridged_in_new_leaves() {
    let agent = FakeAgent::start().await;
    let old = agent.signer();
    agent.add_root("root-2", true);
    let roots: Value = get(&agent, "/v1/agent/connect/ca/roots").await.json().await.unwrap();
    assert_eq!(roots["ActiveRootID"], "root-2");
    assert_eq!(roots["TrustDomain"], TRUST_DOMAIN);
    let active: Vec<_> = roots["Roots"].as_array().unwrap().iter().map(|r| &r["Active"]).collect();
    assert_eq!(active, [&json!(false), &json!(true)]);

    let leaf = agent.reissue_leaf("web");
    let chain = openssl::x509::X509::stack_from_pem(leaf.cert_pem.as_bytes()).unwrap();
    assert_eq!(chain.len(), 2, "leaf and bridge");
    let old = openssl::x509::X509::from_pem(old.root_pem().as_bytes()).unwrap();
    assert!(chain[1].verify(&old.public_key().unwrap()).unwrap());
    assert!(chain[0].verify(&chain[1].public_key().unwrap()).unwrap());

    agent.drop_old_roots();
    let roots: Value = get(&agent, "/v1/agent/connect/ca/roots").await.json().await.unwrap();
    assert_eq!(roots["Roots"].as_array().unwrap().len(), 1);
    agent.hide_roots(true);
    let roots: Value = get(&agent, "/v1/agent/connect/ca/roots").await.json().await.unwrap();
    assert_eq!(roots["Roots"], json!([]));
}

#[tokio::test]
async fn an_absent_mesh_entry_is_404_with_an_index_that_can_be_waited_on() {
    let agent = FakeAgent::start().await;
    let path = "/v1/config/mesh/mesh";
    let absent = get(&agent, path).await;
    assert_eq!(absent.status(), StatusCode::NOT_FOUND);
    let call = held(&agent, Endpoint::Mesh, "", format!("{path}?index={}", index(&absent))).await;
    agent.set_mesh(Some(json!({"Kind": "mesh"})));
    assert_eq!(answer(call).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_probe_tells_the_default_policy_as_consul_does() {
    let agent = FakeAgent::start().await;
    let probe = async || {
        let url = format!("http://{}/v1/agent/connect/authorize", agent.address());
        let response = Client::new().post(url).json(&json!({"Target": "web"})).send().await.unwrap();
        let header = response.headers()["x-consul-default-acl-policy"].to_str().unwrap().to_owned();
        (header, response.json::<Value>().await.unwrap())
    };
    agent.set_default_policy("deny", None);
    let (header, body) = probe().await;
    assert_eq!((header.as_str(), &body["Authorized"]), ("deny", &json!(true)));
    assert_eq!(body["Reason"], "Default behavior configured by ACLs");
    agent.set_default_policy("allow", Some("deny"));
    let (header, body) = probe().await;
    assert_eq!((header.as_str(), &body["Authorized"]), ("allow", &json!(false)));
    assert_eq!(body["Reason"], "Default intention policy");
}

#[tokio::test]
async fn a_chain_takes_the_overrides_of_its_body() {
    let agent = FakeAgent::start().await;
    let url = format!("http://{}/v1/discovery-chain/api", agent.address());
    let overrides = json!({"OverrideProtocol": "http", "OverrideConnectTimeout": "700ms"});
    let body = Client::new().post(url).json(&overrides).send().await.unwrap();
    let chain = body.json::<Value>().await.unwrap()["Chain"].take();
    assert_eq!(chain["Protocol"], "http");
    let node = &chain["Nodes"][chain["StartNode"].as_str().unwrap()];
    assert_eq!(node["Resolver"]["ConnectTimeout"], "700ms");
    assert!(chain["Targets"][node["Resolver"]["Target"].as_str().unwrap()]["SNI"].is_string());
}

#[tokio::test]
async fn a_token_is_required_and_recorded() {
    let agent = FakeAgent::start().await;
    agent.register(&web());
    agent.require_token(Some("right"));
    let ask = async |token: &str, path: &str| {
        let url = format!("http://{}{path}", agent.address());
        Client::new().get(url).header("X-Consul-Token", token).send().await.unwrap().status()
    };
    assert_eq!(ask("wrong", "/v1/agent/services").await, StatusCode::FORBIDDEN);
    assert_eq!(ask("right", "/v1/agent/services").await, StatusCode::OK);
    assert_eq!(ask("wrong", "/v1/agent/connect/ca/roots").await, StatusCode::OK);
    let tokens: Vec<_> = agent.calls_of(Endpoint::Services);
    assert_eq!(tokens.iter().map(|call| call.token()).collect::<Vec<_>>(), [Some("wrong"), Some("right")]);
}

#[tokio::test]
async fn each_fault_shows_on_the_wire_and_ends_when_healed() {
    let agent = FakeAgent::start().await;
    let path = "/v1/connect/intentions/match?by=destination&name=api";
    agent.set_intentions("api", vec![intention("web", "api", "allow")]);
    let healthy = get(&agent, path).await.bytes().await.unwrap();

    for status in [403, 404, 429, 500] {
        agent.fail(Endpoint::Intentions, Fault::Status(status));
        let response = get(&agent, path).await;
        assert_eq!((response.status().as_u16(), index(&response)), (status, 1));
    }
    agent.fail(Endpoint::Intentions, Fault::IndexZero);
    assert_eq!(index(&get(&agent, path).await), 0);
    agent.fail(Endpoint::Intentions, Fault::Reset);
    assert!(get_with(&Client::new(), &agent, path).await.is_err());
    for unreadable in [Fault::Garbage, Fault::Html, Fault::Truncated] {
        agent.fail(Endpoint::Intentions, unreadable);
        assert!(get(&agent, path).await.json::<Value>().await.is_err(), "{unreadable:?}");
    }
    for (distorted, pointer, expected) in [
        (Fault::WrongTypes, "/api/0/SourceName", json!(3)),
        (Fault::NullLists, "/api", Value::Null),
        (Fault::UnknownAction, "/api/0/Action", json!("audit")),
        (Fault::UnknownFields, "/api/0/NotYetInvented/Since", json!("9.9")),
    ] {
        agent.fail(Endpoint::Intentions, distorted);
        let body: Value = get(&agent, path).await.json().await.unwrap();
        assert_eq!(body.pointer(pointer), Some(&expected), "{distorted:?}");
    }
    agent.fail(Endpoint::Intentions, Fault::Churn);
    let at = index(&get(&agent, path).await);
    assert_eq!(index(&get(&agent, format!("{path}&index={at}")).await), at + 1);
    agent.fail(Endpoint::Intentions, Fault::Slow(BRIEF));
    let began = Instant::now();
    get(&agent, path).await;
    assert!(began.elapsed() >= BRIEF);
    agent.fail(Endpoint::Intentions, Fault::Endless);
    let mut endless = get(&agent, path).await;
    for _ in 0..3 {
        assert!(!endless.chunk().await.unwrap().unwrap().is_empty());
    }
    drop(endless);

    agent.heal(Endpoint::Intentions);
    assert_eq!(get(&agent, path).await.bytes().await.unwrap(), healthy);
}

#[tokio::test]
async fn a_hanging_call_is_reset_when_the_fault_ends() {
    let agent = FakeAgent::start().await;
    agent.fail(Endpoint::Roots, Fault::Hang);
    let url = format!("http://{}/v1/agent/connect/ca/roots", agent.address());
    let call = tokio::spawn(async move { Client::new().get(url).send().await });
    let hanging = eventually("a call to meet the fault", SOON, async || {
        anyhow::ensure!(agent.met(Endpoint::Roots) == 1 && agent.connections() == 1);
        Ok(())
    });
    hanging.await.unwrap();
    agent.heal(Endpoint::Roots);
    assert!(timeout(SOON, call).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn a_fault_reaches_a_call_that_blocks_already() {
    let agent = FakeAgent::start().await;
    let at = index(&get(&agent, "/v1/agent/connect/ca/roots").await);
    let call = held(&agent, Endpoint::Roots, "", format!("/v1/agent/connect/ca/roots?index={at}")).await;
    agent.fail(Endpoint::Roots, Fault::Status(500));
    assert_eq!(agent.met(Endpoint::Roots), 0);
    assert_eq!(answer(call).await.status().as_u16(), 500);
    assert_eq!(agent.met(Endpoint::Roots), 1);
}

#[tokio::test]
async fn a_killed_agent_refuses_and_a_revived_one_has_its_data() {
    let mut agent = FakeAgent::start().await;
    agent.register(&web());
    let at = index(&get(&agent, "/v1/agent/connect/ca/roots").await);
    let call = held(&agent, Endpoint::Roots, "", format!("/v1/agent/connect/ca/roots?index={at}")).await;
    agent.kill().await;
    assert!(timeout(SOON, call).await.unwrap().unwrap().is_err());
    assert!(get_with(&Client::new(), &agent, "/v1/agent/services").await.is_err());
    agent.revive().await;
    let services: Value = get(&agent, "/v1/agent/services").await.json().await.unwrap();
    assert!(services.get("web-1-sidecar-proxy").is_some());
}

#[tokio::test]
async fn it_serves_on_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let mut agent = FakeAgent::start().await;
    agent.listen_unix(&path);
    let client = Client::builder().unix_socket(path).build().unwrap();
    let response = client.get("http://localhost/v1/agent/connect/ca/roots").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(agent.peak_connections(), 1);
}
