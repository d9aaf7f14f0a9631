//! Who is not who the mesh expects gets nothing, and sends nothing.
//!
//! The mesh is rotated to a root of the test's own, so that every presented certificate is wrong in one thing only.

use anyhow::ensure;
use aralez_integration::apps::{self, App};
use aralez_integration::certs::{self, Ca, Identity, Leaf, RogueServer};
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::eventually;
use tokio::io::AsyncWriteExt;

use crate::scene::{PATIENCE, SOON, caller, tcp_refused};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A service behind its sidecar, and a CA that the mesh trusts.
struct Target {
    ca: Ca,
    service: Service,
    app: App,
    _sidecar: Sidecar,
    // Last, so that it outlives the sidecar that asks it.
    agent: Agent,
}

impl Target {
    async fn start(protocol: &str) -> Self {
        let agent = Agent::dev().await.unwrap();
        let ca = agent.rotate_ca().await.unwrap();
        // An HTTP app under either protocol: an answer shows what got through.
        let app = apps::http_echo("db").await.unwrap();
        let service = Service::new("db", &app.address).unwrap().protocol(protocol);
        agent.register(&service).await.unwrap();
        let sidecar = Sidecar::start(&agent, &service).await.unwrap();
        Self { agent, ca, service, app, _sidecar: sidecar }
    }

    async fn id(&self, service: &str) -> String {
        self.agent.spiffe_id(service).await.unwrap()
    }

    /// Plaintext that comes back for a request under this identity.
    async fn answer(&self, identity: Option<&Identity>) -> String {
        let received = certs::exchange(&self.service.public(), identity, REQUEST).await.unwrap();
        String::from_utf8_lossy(&received).into_owned()
    }
}

async fn strangers_are_refused(protocol: &str) {
    let target = Target::start(protocol).await;
    let (web, admin) = (target.id("web").await, target.id("admin").await);
    let friend = target.ca.issue(&Leaf::of(&web)).unwrap();
    let foreign_ca = Ca::new(&target.agent.trust_domain().await.unwrap()).unwrap();
    let foreign_domain = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web";
    let strangers = [
        ("a foreign CA", Some(foreign_ca.issue(&Leaf::of(&web)).unwrap())),
        ("no certificate", None),
        ("an expired certificate", Some(target.ca.issue(&Leaf { uris: vec![web.clone()], expired: true }).unwrap())),
        ("two URI SANs", Some(target.ca.issue(&Leaf { uris: vec![web.clone(), admin], expired: false }).unwrap())),
        ("a foreign trust domain", Some(target.ca.issue(&Leaf::of(foreign_domain)).unwrap())),
        ("no URI SAN", Some(target.ca.issue(&Leaf::default()).unwrap())),
        ("a URI that is no SPIFFE ID", Some(target.ca.issue(&Leaf::of("https://localhost/svc/web")).unwrap())),
    ];

    let answer = target.answer(Some(&friend)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let served = target.app.connections();
    for (who, identity) in &strangers {
        assert_eq!(target.answer(identity.as_ref()).await, "", "{who}");
    }
    assert_eq!(target.app.connections(), served, "a stranger reached the app");
    let answer = target.answer(Some(&friend)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_http() {
    strangers_are_refused("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_tcp() {
    strangers_are_refused("tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_service_gets_403_on_http() {
    let target = Target::start("http").await;
    let web = target.ca.issue(&Leaf::of(target.id("web").await)).unwrap();
    let other = target.ca.issue(&Leaf::of(target.id("other").await)).unwrap();
    target.agent.intention("web", "db", "deny").await.unwrap();

    eventually("403", SOON, async || {
        let answer = target.answer(Some(&web)).await;
        ensure!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        Ok(())
    })
    .await
    .unwrap();
    let answer = target.answer(Some(&other)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_service_is_closed_without_a_byte_on_tcp() {
    let target = Target::start("tcp").await;
    let web = target.ca.issue(&Leaf::of(target.id("web").await)).unwrap();
    let other = target.ca.issue(&Leaf::of(target.id("other").await)).unwrap();
    target.agent.intention("web", "db", "deny").await.unwrap();

    eventually("the end without a byte", SOON, async || {
        let answer = target.answer(Some(&web)).await;
        ensure!(answer.is_empty(), "{answer}");
        Ok(())
    })
    .await
    .unwrap();
    let answer = target.answer(Some(&other)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A server of the mesh that stands where `db` is registered, with the leaf of `identity`; returns it with the caller's upstream.
async fn impostor(protocol: &str, identity: &str) -> (Agent, RogueServer, Address, Sidecar) {
    let agent = Agent::dev().await.unwrap();
    let ca = agent.rotate_ca().await.unwrap();
    let nobody = Address::port(aralez_integration::ports::free_port().unwrap());
    let db = Service::new("db", &nobody).unwrap().protocol(protocol);
    let leaf = ca.issue(&Leaf::of(agent.spiffe_id(identity).await.unwrap())).unwrap();
    let server = RogueServer::start(db.sidecar_port, &leaf).await.unwrap();
    agent.register(&db).await.unwrap();
    agent.healthy("db", 1).await.unwrap();
    let web = caller(Upstream::new("db").unwrap().protocol(protocol));
    agent.register(&web).await.unwrap();
    let sidecar = Sidecar::start(&agent, &web).await.unwrap();
    (agent, server, web.upstreams[0].address(), sidecar)
}

/// The sidecar has spoken TLS to it, and has left.
async fn turned_down(server: &RogueServer) {
    eventually("the end of a TLS connection", PATIENCE, async || {
        ensure!(server.finished() > 0, "none has ended");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_another_service_http() {
    let (_agent, server, upstream, _sidecar) = impostor("http", "other").await;
    let answer = clients::post(&upstream, "/", "secret").await.unwrap();
    assert!(answer.status.is_server_error(), "{}", answer.status);
    turned_down(&server).await;
    assert_eq!(server.received(), b"");
}

/// Not even the preface and settings that HTTP/2 begins with.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_another_service_http2() {
    let (_agent, server, upstream, _sidecar) = impostor("http2", "other").await;
    let mut client = HttpClient::http2(&upstream).await.unwrap();
    for _ in 0..3 {
        let answer = client.post("/", "secret").await.unwrap();
        assert!(answer.status.is_server_error(), "{}", answer.status);
    }
    turned_down(&server).await;
    assert_eq!(server.received(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_another_service_tcp() {
    let (_agent, server, upstream, _sidecar) = impostor("tcp", "other").await;
    tcp_refused(&upstream).await.unwrap();
    turned_down(&server).await;
    assert_eq!(server.received(), b"");
}

/// The counter-check of the three above: under its own name the same server does receive.
#[tokio::test(flavor = "multi_thread")]
async fn the_expected_service_is_sent_to() {
    let (_agent, server, upstream, _sidecar) = impostor("tcp", "db").await;
    let mut stream = upstream.connect().await.unwrap();
    stream.write_all(b"secret").await.unwrap();
    eventually("what was sent", PATIENCE, async || {
        ensure!(server.received() == b"secret", "{:?}", server.received());
        Ok(())
    })
    .await
    .unwrap();
}
