//! The data plane alone: snapshots made by hand, real sockets, a real app.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use openssl::{pkey::PKey, ssl::SslConnector, x509::X509};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::{POOL, listeners::Listeners, live::Workshop, plane, serve::Patience};
use crate::{
    model::{
        access_log::AccessLog,
        cluster::{Cluster, Endpoint, Health, Trust},
        credentials::Identity,
        identity::ServiceName,
        intention::{DefaultPolicy, Intentions},
        listener::*,
        mesh::TlsBounds,
        path::Normalization,
        route::RouteTable,
        testing::{Ca, cluster, id},
    },
    snapshot::{Publisher, Snapshot, channel},
    telemetry::Telemetry,
};

mod dialing;
mod edge;
mod ingress;
mod patience;
mod secure;

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn endpoint(address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint { id: address.to_string().into(), address: Address::Tcp(address), weight: 1, health: Health::Passing, dial: None })
}

/// Two sidecars in one process: `web` calls `api` through its upstream listener.
struct Mesh {
    ca: Ca,
    web: Arc<Identity>,
    api: Arc<Identity>,
    protocol: Protocol,
    upstream: SocketAddr,
    public: SocketAddr,
    app: SocketAddr,
    policy: DefaultPolicy,
    expected: &'static str,
    publisher: Publisher,
    shutdown: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
    generation: u64,
}

impl Mesh {
    async fn start(protocol: Protocol, app: SocketAddr) -> Self {
        Self::expecting("api", protocol, app).await
    }

    async fn expecting(expected: &'static str, protocol: Protocol, app: SocketAddr) -> Self {
        Self::with(expected, protocol, app, Patience::default()).await
    }

    async fn with(expected: &'static str, protocol: Protocol, app: SocketAddr, patience: Patience) -> Self {
        let ca = Ca::new();
        let (web, api) = (Arc::new(ca.identity("web")), Arc::new(ca.identity("api")));
        let (publisher, subscriber) = channel();
        let telemetry = Arc::new(Telemetry::start().unwrap());
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(roots.path(), ca.root_pem()).unwrap();
        let plane = Arc::new(plane(1, POOL, roots.path().to_str().unwrap().to_owned(), telemetry.clone(), patience));
        let shutdown = CancellationToken::new();
        let listeners = Listeners::new(plane, Workshop::new(telemetry), Arc::default(), Arc::default());
        let running = tokio::spawn(listeners.run(subscriber, shutdown.clone(), Duration::from_secs(5)));
        let mut mesh = Self {
            ca,
            web,
            api,
            protocol,
            upstream: free_port(),
            public: free_port(),
            app,
            policy: DefaultPolicy::Allow,
            expected,
            publisher,
            shutdown,
            running: Some(running),
            generation: 0,
        };
        mesh.publish();
        for address in [mesh.upstream, mesh.public] {
            while TcpStream::connect(address).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
        mesh
    }

    fn publish(&mut self) {
        let listener = |name: &str, service: &str, address, identity: &Arc<Identity>, role| {
            let key = ListenerKey { sidecar: format!("{service}-sidecar-proxy").into(), name: name.into() };
            let listener = Listener {
                key: key.clone(),
                service: ServiceName::local(service),
                bind: Bind { address: Address::Tcp(address), mode: None },
                protocol: self.protocol,
                identity: Some(identity.clone()),
                tls: TlsBounds::default(),
                access_log: Arc::new(AccessLog::default()),
                tracing: None,
                role,
            };
            (key, Arc::new(listener))
        };
        let inbound = Role::Inbound(Inbound {
            intentions: Arc::new(Intentions::new(self.api.roots.trust_domain.clone(), self.policy, self.protocol, Vec::new())),
            providers: Arc::default(),
            app: endpoint(self.app),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Some(Duration::from_secs(15)),
            idle_timeout: None,
            max_connections: None,
            normalization: Normalization::default(),
            xfcc: Xfcc::AppendForward,
        });
        let trust = Trust::Mesh { sni: "api.default.dc1.internal.test".into(), expected: Arc::new([id(self.expected)]) };
        let cluster = cluster("api", trust, [endpoint(free_port()), endpoint(self.public)]);
        let cluster = Arc::new(Cluster { protocol: self.protocol, ..cluster });
        let routes = Arc::new(RouteTable::direct(1, Some(Duration::from_secs(15))));
        let upstream = Role::Upstream(Upstream { destination: ServiceName::local("api"), routes, clusters: vec![cluster] });
        self.generation += 1;
        let listeners = BTreeMap::from([
            listener("public", "api", self.public, &self.api, inbound),
            listener("upstream:api", "web", self.upstream, &self.web, upstream),
        ]);
        self.publisher.publish(Snapshot { generation: self.generation, listeners, ..Snapshot::default() });
    }

    async fn get(&self) -> String {
        let mut client = TcpStream::connect(self.upstream).await.unwrap();
        client.write_all(b"GET /x HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.running.take().unwrap().await.unwrap();
    }
}

/// An app that answers each request with its head as the body, and closes.
async fn http_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match client.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", head.len());
                client.write_all(answer.as_bytes()).await.unwrap();
                client.write_all(&head).await.unwrap();
            });
        }
    });
    address
}

/// An app that sends back what it gets.
async fn echo_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = client.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_goes_through_both_sides_past_a_dead_endpoint_and_names_the_caller() {
    let mesh = Mesh::start(Protocol::Http, http_app().await).await;
    for _ in 0..4 {
        let answer = mesh.get().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(&format!("URI={}", id("web"))) && answer.contains(&format!("By={}", id("api"))), "{answer}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_deny_is_a_403_and_a_new_allow_opens_again() {
    let mut mesh = Mesh::start(Protocol::Http, http_app().await).await;
    mesh.policy = DefaultPolicy::Deny;
    mesh.publish();
    while !mesh.get().await.starts_with("HTTP/1.1 403") {}
    assert!(mesh.get().await.ends_with("\r\n\r\nRBAC: access denied"));
    mesh.policy = DefaultPolicy::Allow;
    mesh.publish();
    while !mesh.get().await.starts_with("HTTP/1.1 200") {}
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_name_gets_no_byte() {
    for protocol in [Protocol::Http, Protocol::Http2, Protocol::Tcp] {
        let (app, mut asked) = tokio::sync::mpsc::channel(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok(connection) = listener.accept().await {
                let _ = app.send(connection).await;
            }
        });
        let mesh = Mesh::expecting("other", protocol, address).await;
        let answer = tokio::time::timeout(Duration::from_secs(10), mesh.get()).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 503"), "{protocol:?}: {answer}");
        assert!(asked.try_recv().is_err(), "{protocol:?}: the app was reached");
        mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_keeps_half_open_sides_and_a_deny_closes_a_live_tunnel() {
    let mut mesh = Mesh::start(Protocol::Tcp, echo_app().await).await;
    let mut client = TcpStream::connect(mesh.upstream).await.unwrap();
    client.write_all(b"one").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "one");

    let mut client = TcpStream::connect(mesh.upstream).await.unwrap();
    client.write_all(b"two").await.unwrap();
    let mut echoed = [0; 3];
    client.read_exact(&mut echoed).await.unwrap();
    mesh.policy = DefaultPolicy::Deny;
    mesh.publish();
    let end = tokio::time::timeout(Duration::from_secs(2), client.read(&mut echoed)).await.expect("closed within two seconds");
    assert!(matches!(end, Ok(0) | Err(_)));
    mesh.stop().await;
}

type Peer = pingora_core::protocols::tls::SslStream<TcpStream>;

/// Connects to the public listener of `api` with a certificate made by `ca` that carries `uris`.
async fn peer(mesh: &Mesh, ca: &Ca, uris: &[&str]) -> std::io::Result<Peer> {
    let (certificate, key) = ca.leaf_pem(uris);
    let mut connector = SslConnector::builder(openssl::ssl::SslMethod::tls_client()).unwrap();
    connector.set_verify(openssl::ssl::SslVerifyMode::NONE);
    connector.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
    connector.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
    let session = connector.build().configure().unwrap().verify_hostname(false).into_ssl("api").unwrap();
    let socket = TcpStream::connect(mesh.public).await?;
    let mut stream = Peer::new(session, socket).unwrap();
    stream.connect().await.map_err(std::io::Error::other)?;
    Ok(stream)
}

/// A request to the public listener of `api` with such a certificate.
async fn handshake(mesh: &Mesh, ca: &Ca, uris: &[&str]) -> std::io::Result<String> {
    let mut stream = peer(mesh, ca, uris).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_identity_of_our_trust_domain_may_knock() {
    let mesh = Mesh::start(Protocol::Http, http_app().await).await;
    let web = id("web").to_string();
    assert!(handshake(&mesh, &mesh.ca, &[&web]).await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(handshake(&mesh, &Ca::new(), &[&web]).await.is_err(), "a foreign CA");
    assert!(handshake(&mesh, &mesh.ca, &[&web, &id("db").to_string()]).await.is_err(), "two names");
    assert!(handshake(&mesh, &mesh.ca, &["spiffe://evil.consul/ns/default/dc/dc1/svc/web"]).await.is_err(), "a foreign trust domain");
    assert!(handshake(&mesh, &mesh.ca, &["https://web"]).await.is_err(), "no SPIFFE ID");
    mesh.stop().await;
}
