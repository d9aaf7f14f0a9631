//! The embedded catalog through the real reconciler.

use std::sync::Arc;

use super::*;
use crate::{
    control::reconciler,
    model::{
        cluster::Trust,
        identity::TrustDomain,
        listener::{Listener, ListenerKey, Role},
    },
    snapshot::{self, Snapshot, Subscriber},
};

const MESH: &str = "
services:
  - {name: web, protocol: http, upstreams: [{destination: api, local_bind_port: 0}]}
  - {name: api, protocol: http}
intentions:
  - {source: web, destination: api, action: allow}
  - {source: '*', destination: '*', action: deny}
default_intention_policy: allow
";

struct Running {
    plan: Plan,
    snapshots: Subscriber,
    shutdown: CancellationToken,
    mesh: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn start(text: &str) -> Running {
    let mesh = Mesh::prepare(MeshFile::parse(text).unwrap()).unwrap();
    let (publisher, snapshots) = snapshot::channel();
    let (feed, reconciler) = reconciler::channel();
    let (shutdown, plan) = (CancellationToken::new(), mesh.plan().clone());
    tokio::spawn(reconciler.run(publisher, shutdown.clone()));
    Running { plan, snapshots, mesh: tokio::spawn(mesh.run(feed, shutdown.clone())), shutdown }
}

async fn next(snapshots: &mut Subscriber, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    loop {
        let snapshot = snapshots.next().await.unwrap();
        if wanted(&snapshot) {
            return snapshot;
        }
    }
}

fn key(sidecar: &str, name: &str) -> ListenerKey {
    ListenerKey { sidecar: sidecar.into(), name: name.into() }
}

fn epoch(listener: &Listener) -> u64 {
    listener.identity.as_ref().unwrap().epoch
}

#[tokio::test]
async fn a_mesh_compiles_without_a_problem_and_its_intentions_hold() {
    let mut running = start(MESH);
    let snapshot = next(&mut running.snapshots, |s| s.listeners.len() == 3).await;
    assert_eq!(snapshot.problems, []);
    let Role::Upstream(upstream) = &snapshot.listeners[&key("web-sidecar-proxy", "upstream:api")].role else { panic!() };
    let cluster = &upstream.clusters[0];
    let Trust::Mesh { sni, expected } = &cluster.trust else { panic!() };
    assert_eq!(&**sni, "api.default.dc1.internal.dev.aralez");
    assert_eq!(expected.iter().map(ToString::to_string).collect::<Vec<_>>(), ["spiffe://dev.aralez/ns/default/dc/dc1/svc/api"]);
    let api = running.plan.services.iter().find(|s| s.name == "api").unwrap();
    assert_eq!(cluster.endpoints[0].address.to_string(), api.sidecar.to_string());

    let Role::Inbound(inbound) = &snapshot.listeners[&key("api-sidecar-proxy", "public")].role else { panic!() };
    assert!(inbound.intentions.authorize(&ca::id("web").unwrap()).is_ok());
    assert!(inbound.intentions.authorize(&ca::id("other").unwrap()).is_err());
    assert_eq!(
        snapshot.listeners[&key("api-sidecar-proxy", "public")].identity.as_ref().unwrap().roots.trust_domain,
        TrustDomain::parse("dev.aralez").unwrap()
    );

    running.shutdown.cancel();
    running.mesh.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn leaves_are_renewed_long_before_they_expire() {
    let mut running = start("services: [{name: web}]");
    let key = key("web-sidecar-proxy", "public");
    let first = next(&mut running.snapshots, |s| s.listeners.contains_key(&key)).await.listeners[&key].identity.clone().unwrap();
    let begin = tokio::time::Instant::now();
    let second = next(&mut running.snapshots, |s| epoch(&s.listeners[&key]) != first.epoch).await.listeners[&key].identity.clone().unwrap();
    assert!(begin.elapsed() < LEAF_VALIDITY * 3 / 4, "{:?}", begin.elapsed());
    assert_ne!(first.leaf.serial, second.leaf.serial);
    assert_eq!(first.roots, second.roots);
    running.shutdown.cancel();
}

#[tokio::test]
async fn a_demo_app_answers_and_says_what_it_could_not_reach() {
    let running = start(MESH);
    let web = &running.plan.services[0];
    // No data plane runs here: nobody serves the upstream's port.
    let mut stream = tokio::net::TcpStream::connect(web.app).await.unwrap();
    let xfcc = "X-Forwarded-Client-Cert: By=a;URI=spiffe://dev.aralez/ns/default/dc/dc1/svc/caller";
    let request = format!("GET /any/path HTTP/1.1\r\nHost: web\r\n{xfcc}\r\nConnection: close\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    let said: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(said["service"], "web");
    assert_eq!(said["caller"], "spiffe://dev.aralez/ns/default/dc/dc1/svc/caller");
    assert!(said["upstreams"]["api"]["error"].is_string(), "{said}");
    running.shutdown.cancel();
    running.mesh.await.unwrap().unwrap();
}
