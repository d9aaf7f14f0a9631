//! The source as a whole, from an agent's answers to published snapshots.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};

use super::{
    testing::{Agent, Reply, Seen, config},
    *,
};
use crate::{
    control::{
        reconciler,
        testing::{Pems, TRUST_DOMAIN, pems},
    },
    model::{
        jwt::{Provider, Unverified},
        listener::Role,
    },
    snapshot::{self, Snapshot, Subscriber},
};

/// What the agent knows; every change counts as one of everything.
struct World {
    version: u64,
    pems: Pems,
    registrations: Vec<Value>,
    instances: Value,
    intentions: Value,
    providers: Value,
}

impl World {
    fn answer(&self, question: &Seen) -> Reply {
        let version = self.version.to_string();
        let asked = question.params.get("index").or(question.params.get("hash"));
        if asked == Some(&version) {
            return Reply::Held;
        }
        let headers = vec![("x-consul-index", version.clone()), ("x-consul-contenthash", version)];
        let found = |body: Value| Reply::Now(200, headers.clone(), body.to_string());
        match question.line.as_str() {
            "GET /v1/agent/services" => found(
                self.registrations
                    .iter()
                    .map(|r| (r["ID"].as_str().unwrap().to_owned(), r.clone()))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            ),
            "GET /v1/agent/service/web-1-sidecar-proxy" => match self.registrations.first() {
                Some(registration) => found(registration.clone()),
                None => Reply::Now(404, Vec::new(), "unknown service ID: web-1-sidecar-proxy".to_owned()),
            },
            "GET /v1/agent/connect/ca/roots" => found(json!({"TrustDomain": TRUST_DOMAIN, "Roots": [{"RootCert": self.pems.root}]})),
            "GET /v1/agent/connect/ca/leaf/web" => found(json!({"CertPEM": self.pems.leaf, "PrivateKeyPEM": self.pems.key})),
            "GET /v1/connect/intentions/match" => found(json!({"web": self.intentions})),
            "GET /v1/config/jwt-provider" if self.providers.is_null() => Reply::Now(403, Vec::new(), "Permission denied".to_owned()),
            "GET /v1/config/jwt-provider" => found(self.providers.clone()),
            "POST /v1/agent/connect/authorize" => found(json!({"Authorized": false, "Reason": "Default intention policy"})),
            "GET /v1/config/mesh/mesh" | "GET /v1/config/proxy-defaults/global" => {
                Reply::Now(404, headers, "Config entry not found".to_owned())
            }
            "POST /v1/discovery-chain/api" => found(json!({"Chain": {"Protocol": "tcp", "StartNode": "resolver:api",
                "Nodes": {"resolver:api": {"Type": "resolver", "Resolver": {"Target": "api.dc1"}}},
                "Targets": {"api.dc1": {"ID": "api.dc1", "Service": "api", "Datacenter": "dc1", "SNI": "api.sni"}}}})),
            "GET /v1/health/connect/api" => found(self.instances.clone()),
            _ => Reply::Now(403, Vec::new(), "Permission denied".to_owned()),
        }
    }
}

fn sidecar(id: &str, upstreams: Value) -> Value {
    json!({"ID": id, "Kind": "connect-proxy", "Port": 21000, "Datacenter": "dc1", "Proxy": {
        "DestinationServiceName": "web", "DestinationServiceID": "web-1", "LocalServicePort": 8080, "Upstreams": upstreams}})
}

/// The source at work on a world.
struct Bench {
    world: Arc<Mutex<World>>,
    agent: Agent,
    snapshots: Subscriber,
    watches: Arc<Watches>,
    shutdown: CancellationToken,
    source: JoinHandle<Result<(), RunError>>,
}

impl Bench {
    async fn start(registrations: Vec<Value>) -> Self {
        let world =
            World { version: 1, pems: pems("web"), registrations, instances: json!([]), intentions: json!([]), providers: json!([]) };
        let world = Arc::new(Mutex::new(world));
        let known = world.clone();
        let agent = Agent::start(move |question| known.lock().answer(question)).await;
        let (publisher, snapshots) = snapshot::channel();
        let (feed, reconciler) = reconciler::channel();
        let (watches, shutdown) = (Arc::new(Watches::default()), CancellationToken::new());
        tokio::spawn(reconciler.run(publisher, shutdown.clone()));
        let client = Client::new(config(&agent.address)).unwrap();
        let selector = ProxySelector::SidecarFor("WEB-1".to_owned());
        let source = tokio::spawn(run(client, selector, None, feed, watches.clone(), shutdown.clone()));
        Self { world, agent, snapshots, watches, shutdown, source }
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.lock();
        world.version += 1;
        change(&mut world);
        drop(world);
        self.agent.change();
    }

    /// The first snapshot of which `holds` is true.
    async fn snapshot(&mut self, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let look = async {
            loop {
                let snapshot = self.snapshots.next().await.unwrap();
                if holds(&snapshot) {
                    return snapshot;
                }
            }
        };
        timeout(Duration::from_secs(20), look).await.unwrap()
    }

    /// Waits until the watches are these.
    async fn watching(&self, names: &[&str]) {
        let look = async {
            while self.watches.snapshot().iter().map(|w| w.name.clone()).collect::<Vec<_>>() != names {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), look).await.unwrap();
    }
}

fn endpoints(snapshot: &Snapshot) -> usize {
    let upstreams = snapshot.listeners.values().filter_map(|l| if let Role::Upstream(u) = &l.role { Some(u) } else { None });
    upstreams.flat_map(|u| &u.clusters).map(|c| c.endpoints.len()).sum()
}

const ALONE: [&str; 6] = ["default intention policy", "intentions web", "leaf web", "mesh entry", "registration", "roots"];

#[tokio::test]
async fn watches_come_and_go_with_the_registration_and_none_is_left_behind() {
    let mut bench = Bench::start(vec![sidecar("web-1-sidecar-proxy", json!([]))]).await;
    bench.snapshot(|s| s.listeners.len() == 1).await;
    bench.watching(&ALONE).await;

    let upstream = json!([{"DestinationName": "api", "LocalBindPort": 9191}]);
    bench.change(|world| world.registrations = vec![sidecar("web-1-sidecar-proxy", upstream)]);
    bench.snapshot(|s| s.listeners.len() == 2).await;
    let mut all = [ALONE.as_slice(), &["chain api@127.0.0.1:9191", "endpoints api dc1"]].concat();
    all.sort_unstable();
    bench.watching(&all).await;

    let instance = json!([{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": {"ID": "api-1", "Port": 21001}, "Checks": []}]);
    bench.change(|world| world.instances = instance);
    bench.snapshot(|s| endpoints(s) == 1).await;

    bench.change(|world| world.registrations.clear());
    bench.snapshot(|s| s.listeners.is_empty()).await;
    bench.watching(&["registration"]).await;

    bench.change(|world| world.registrations = vec![sidecar("web-1-sidecar-proxy", json!([]))]);
    bench.snapshot(|s| s.listeners.len() == 1).await;
    bench.watching(&ALONE).await;

    bench.shutdown.cancel();
    assert!(bench.source.await.unwrap().is_ok());
    assert_eq!(bench.watches.snapshot(), []);
}

#[tokio::test]
async fn an_upstream_that_the_agent_refuses_holds_nothing_back() {
    let upstreams = json!([{"DestinationName": "secret", "LocalBindPort": 9191}, {"DestinationName": "api", "LocalBindPort": 9192}]);
    let mut bench = Bench::start(vec![sidecar("web-1-sidecar-proxy", upstreams)]).await;
    let snapshot = bench.snapshot(|s| s.listeners.len() == 2).await;
    assert!(
        snapshot.problems.iter().any(|p| p.path == "upstream secret@127.0.0.1:9191" && p.why.contains("403")),
        "{:?}",
        snapshot.problems
    );
    assert!(bench.watches.snapshot().iter().any(|w| w.name.starts_with("chain secret@") && w.failures > 0));
}

#[tokio::test]
async fn a_proxy_is_waited_for() {
    let mut bench = Bench::start(Vec::new()).await;
    bench.watching(&["registration"]).await;
    bench.change(|world| world.registrations = vec![sidecar("web-1-sidecar-proxy", json!([]))]);
    bench.snapshot(|s| s.listeners.len() == 1).await;
}

#[tokio::test]
async fn several_proxies_of_one_service_are_an_error_that_lists_them() {
    let proxies = ["web-1-sidecar-proxy", "second-proxy"].map(|id| sidecar(id, json!([])));
    let bench = Bench::start(proxies.into()).await;
    let error = bench.source.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("WEB-1") && error.contains("second-proxy, web-1-sidecar-proxy"), "{error}");
}

/// Who issues tokens of `okta`, as the listener knows it.
fn provider(snapshot: &Snapshot) -> Option<Arc<Provider>> {
    let listener = snapshot.listeners.values().find_map(|l| if let Role::Inbound(inbound) = &l.role { Some(inbound) } else { None })?;
    listener.providers.get("okta").cloned()
}

/// The bench with an intention that asks for a token of `okta`.
async fn asking_for_tokens(providers: Value) -> Bench {
    let bench = Bench::start(Vec::new()).await;
    bench.change(|world| {
        let jwt = json!({"Providers": [{"Name": "okta"}]});
        world.intentions = json!([{"SourceName": "api", "DestinationName": "web", "Precedence": 9, "Action": "allow", "JWT": jwt}]);
        world.providers = providers;
        world.registrations = vec![sidecar("web-1-sidecar-proxy", json!([]))];
    });
    bench
}

/// A key set with one key of that id.
fn key_set(id: &str) -> String {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    json!({"keys": [{"kid": id, "kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
}

/// Whether the provider's keys have a key of that id.
fn knows(provider: Option<Arc<Provider>>, id: &str) -> bool {
    let keys = provider.and_then(|provider| provider.keys.clone().ok());
    keys.is_some_and(|keys| keys.verify("EdDSA", Some(id), b"", b"") == Err(Unverified::Signature))
}

/// A key server, and what it answers: `None` is 500.
async fn key_server(set: Option<String>) -> (Agent, Arc<Mutex<Option<String>>>) {
    let answer = Arc::new(Mutex::new(set));
    let said = answer.clone();
    let server = Agent::start(move |_| match &*said.lock() {
        Some(set) => Reply::Now(200, Vec::new(), set.clone()),
        None => Reply::Now(500, Vec::new(), String::new()),
    });
    (server.await, answer)
}

fn remote(server: &Agent, seconds: u64) -> Value {
    let remote = json!({"URI": format!("http://{}/keys", server.address), "CacheDuration": seconds * 1_000_000_000});
    json!([{"Name": "okta", "Issuer": "okta", "JSONWebKeySet": {"Remote": remote}}])
}

#[tokio::test]
async fn token_issuers_are_watched_only_while_an_intention_names_them() {
    let (server, _) = key_server(Some(key_set("one"))).await;
    let mut bench = asking_for_tokens(remote(&server, 300)).await;
    bench.snapshot(|s| knows(provider(s), "one")).await;
    let keys = format!("keys http://{}/keys", server.address);
    let mut all = [ALONE.as_slice(), &["jwt providers", &keys]].concat();
    all.sort_unstable();
    bench.watching(&all).await;
    bench.change(|world| world.intentions = json!([]));
    bench.snapshot(|s| !s.listeners.is_empty() && provider(s).is_none()).await;
    bench.watching(&ALONE).await;
}

#[tokio::test]
async fn a_key_server_that_is_down_holds_nothing_back_and_is_asked_again() {
    let (server, answer) = key_server(None).await;
    let mut bench = asking_for_tokens(remote(&server, 300)).await;
    let snapshot = bench.snapshot(|s| !s.listeners.is_empty()).await;
    assert!(provider(&snapshot).unwrap().keys.as_ref().unwrap_err().contains("it answered 500"));
    assert!(snapshot.problems.iter().any(|p| p.path == "jwt provider okta" && p.why.contains("500")), "{:?}", snapshot.problems);
    *answer.lock() = Some(key_set("one"));
    let snapshot = bench.snapshot(|s| knows(provider(s), "one")).await;
    assert!(!snapshot.problems.iter().any(|p| p.path == "jwt provider okta"));
}

#[tokio::test]
async fn rotated_keys_are_found_in_time_and_an_outage_keeps_the_last_ones() {
    let (server, answer) = key_server(Some(key_set("one"))).await;
    let mut bench = asking_for_tokens(remote(&server, 1)).await;
    bench.snapshot(|s| knows(provider(s), "one")).await;
    *answer.lock() = None;
    let failing = async {
        while !bench.watches.snapshot().iter().any(|w| w.name.starts_with("keys ") && w.failures > 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), failing).await.unwrap();
    assert!(knows(provider(&bench.snapshots.current()), "one"));
    *answer.lock() = Some(key_set("two"));
    let snapshot = bench.snapshot(|s| knows(provider(s), "two")).await;
    assert!(!knows(provider(&snapshot), "one"));
}

#[tokio::test]
async fn a_token_that_no_key_fits_makes_the_keys_be_fetched_early() {
    let (server, answer) = key_server(Some(key_set("one"))).await;
    let mut bench = asking_for_tokens(remote(&server, 3600)).await;
    bench.snapshot(|s| knows(provider(s), "one")).await;
    *answer.lock() = Some(key_set("two"));
    assert!(!knows(provider(&bench.snapshots.current()), "two"));
    bench.snapshot(|s| knows(provider(s), "two")).await;
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_it_changes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key_set("one")).unwrap();
    let providers = json!([{"Name": "okta", "Issuer": "okta", "JSONWebKeySet": {"Local": {"Filename": file.path()}}}]);
    let mut bench = asking_for_tokens(providers).await;
    bench.snapshot(|s| knows(provider(s), "one")).await;
    std::fs::write(file.path(), key_set("two")).unwrap();
    bench.snapshot(|s| knows(provider(s), "two")).await;
}

#[tokio::test]
async fn issuers_that_are_absent_or_may_not_be_read_hold_nothing_back() {
    for (providers, why) in [(json!([{"Name": "auth0"}]), "no such config entry"), (Value::Null, "403")] {
        let mut bench = asking_for_tokens(providers).await;
        let snapshot = bench.snapshot(|s| !s.listeners.is_empty()).await;
        assert!(provider(&snapshot).is_none());
        assert!(snapshot.problems.iter().any(|p| p.path == "jwt provider okta" && p.why.contains(why)), "{:?}", snapshot.problems);
    }
}
