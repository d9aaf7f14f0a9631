//! Pools whose servers Consul knows, against an agent of the test's own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{following::Bench, pool};
use crate::{
    config::agent::AgentConfig,
    control::{
        consul::testing::{Agent, Reply, Seen, config},
        ingress::pools::{PATIENCE, Settings},
    },
    model::{
        identity::ServiceName,
        ingress::{
            PoolSource,
            pool::{ConsulService, MeshService, Pool, Scheme},
        },
        secret::Secret,
    },
};

/// What the agent says of `web`.
#[derive(Clone)]
struct World(Arc<Mutex<(u64, Said)>>);

/// The instances, or a status and a text.
type Said = Result<Value, (u16, &'static str)>;

impl World {
    fn of(instances: Value) -> Self {
        Self(Arc::new(Mutex::new((1, Ok(instances)))))
    }

    fn set(&self, agent: &Agent, answer: Result<Value, (u16, &'static str)>) {
        let mut world = self.0.lock();
        *world = (world.0 + 1, answer);
        drop(world);
        agent.change();
    }

    async fn agent(&self, asked: Arc<Mutex<Vec<Seen>>>) -> Agent {
        let world = self.clone();
        Agent::start(move |seen| {
            let (index, answer) = world.0.lock().clone();
            if seen.line.contains("/v1/health/") && !seen.params.contains_key("index") {
                asked.lock().push(seen.clone());
            }
            match answer {
                Ok(_) if seen.params.get("index") == Some(&index.to_string()) => Reply::Held,
                Ok(instances) => Reply::Now(200, vec![("x-consul-index", index.to_string())], instances.to_string()),
                Err((status, text)) => Reply::Now(status, Vec::new(), text.to_owned()),
            }
        })
        .await
    }
}

/// An instance at this port, with the state of its one check.
fn instance(id: &str, port: u16, status: &str) -> Value {
    json!({"Node": {"Node": "n", "Address": "127.0.0.1"}, "Checks": [{"CheckID": "c", "Type": "http", "Status": status, "Output": "said so"}],
        "Service": {"ID": id, "Service": "web", "Address": "127.0.0.1", "Port": port, "Weights": {"Passing": 3, "Warning": 1}}})
}

fn service() -> ConsulService {
    ConsulService { name: "web".into(), tags: Vec::new(), datacenter: None, namespace: None, scheme: Some(Scheme::Http) }
}

fn of(service: ConsulService) -> Pool {
    Pool { health: None, source: PoolSource::Consul(service), ..pool("/", &[]) }
}

fn asking(agents: Vec<AgentConfig>) -> Bench {
    Bench::start(Settings { consul: agents, ..Settings::default() })
}

#[tokio::test]
async fn instances_come_with_weight_and_health_and_outlive_the_agent() {
    let (world, asked) =
        (World::of(json!([instance("a", 1, "passing"), instance("b", 2, "warning"), instance("c", 3, "critical")])), Arc::default());
    let agent = world.agent(Arc::clone(&asked)).await;
    let mut bench = asking(vec![AgentConfig { token: Some(Secret::new("the-token")), ..config(&agent.address) }]);
    let tagged = ConsulService { tags: vec!["blue".into(), "v2".into()], ..service() };
    bench.load(vec![of(tagged), Pool { health: None, ..pool("/static", &[&"127.0.0.1:9"]) }]).await;
    let seen = bench.now();
    let weights: BTreeMap<_, _> = seen.pools["/"].iter().map(|e| (e.id.to_string(), if e.is_healthy() { e.weight } else { 0 })).collect();
    assert_eq!(weights, BTreeMap::from([("n/a".to_owned(), 3), ("n/b".to_owned(), 1), ("n/c".to_owned(), 0)]));
    assert_eq!(seen.healthy("/static"), 1, "servers of a file stand beside them");
    let first = asked.lock()[0].clone();
    assert_eq!((first.line.as_str(), first.token.as_deref()), ("GET /v1/health/service/web", Some("the-token")));
    assert_eq!(first.params.get("tag").map(String::as_str), Some("v2"), "the last of several tags, as a map keeps them");
    world.set(&agent, Ok(json!([instance("a", 1, "critical"), instance("b", 2, "passing")])));
    bench.until("the change", |seen| seen.ids("/") == ["n/a", "n/b"] && !seen.pools["/"][0].is_healthy()).await;
    world.set(&agent, Err((403, "Permission denied")));
    bench.until("a problem", |seen| seen.complains("web: the instances cannot be read") && seen.complains("Permission denied")).await;
    drop(agent);
    assert_eq!(bench.now().healthy("/"), 1, "what was known stays");
}

#[tokio::test]
async fn a_datacenter_that_nobody_knows_is_a_clear_problem() {
    let world = World::of(json!([]));
    let agent = world.agent(Arc::default()).await;
    world.set(&agent, Err((500, "No path to datacenter")));
    let mut bench = asking(vec![config(&agent.address)]);
    bench.load(vec![of(ConsulService { datacenter: Some("dc9".into()), ..service() })]).await;
    bench.until("a problem", |seen| seen.complains("No path to datacenter")).await;
    assert_eq!(bench.now().healthy("/"), 0);
}

#[tokio::test]
async fn the_first_agent_that_answers_is_asked() {
    let dead = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let world = World::of(json!([instance("a", 1, "passing")]));
    let (one, two) = (world.agent(Arc::default()).await, world.agent(Arc::default()).await);
    let mut bench = asking(vec![config(&dead.to_string()), config(&one.address), config(&two.address)]);
    bench.load(vec![of(service())]).await;
    assert_eq!(bench.now().healthy("/"), 1);
    drop(one);
    world.set(&two, Ok(json!([instance("a", 1, "passing"), instance("b", 2, "passing")])));
    bench.until("news from the last agent", |seen| seen.healthy("/") == 2).await;
}

#[tokio::test]
async fn other_agents_are_asked_after_a_reload() {
    let (here, there) = (World::of(json!([instance("a", 1, "passing")])), World::of(json!([instance("b", 1, "passing")])));
    let (one, two) = (here.agent(Arc::default()).await, there.agent(Arc::default()).await);
    let mut bench = asking(vec![config(&one.address)]);
    bench.load(vec![of(service())]).await;
    assert_eq!(bench.now().ids("/"), ["n/a"]);
    bench.pools.set_sources(vec![config(&two.address)], None);
    bench.load(vec![of(service())]).await;
    assert_eq!(bench.now().ids("/"), ["n/b"]);
}

#[tokio::test]
async fn an_agent_that_does_not_answer_holds_a_load_back_for_a_moment_only() {
    let silent = Agent::start(|_| Reply::Held).await;
    let mut bench = asking(vec![config(&silent.address)]);
    let begun = tokio::time::Instant::now();
    bench.load(vec![of(service())]).await;
    assert!(begun.elapsed() < Duration::from_secs(4) && bench.now().healthy("/") == 0);
}

#[tokio::test]
async fn nobody_waits_for_a_mesh_whose_agents_are_away() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut bench = asking(vec![config(&dead.to_string())]);
    let service = MeshService { caller: ServiceName::local("edge"), service: ServiceName::local("web"), datacenter: None };
    let begun = tokio::time::Instant::now();
    bench.load(vec![Pool { source: PoolSource::Mesh(service), ..pool("/", &[]) }]).await;
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}
