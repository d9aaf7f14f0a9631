//! Whom a connection may be used for again, and that none is resumed.

use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::ssl::{SslMethod, SslSessionCacheMode, SslVerifyMode, SslVersion};
use pingora_core::upstreams::peer::Peer as _;

use super::*;
use crate::proxy::live::Side;

fn upstream(identity: &Arc<Identity>, sni: &str, expected: &'static str) -> Arc<Listener> {
    let trust = Trust::Mesh { sni: sni.into(), expected: Arc::new([id(expected)]) };
    let cluster = Arc::new(cluster("api", trust, [endpoint(SocketAddr::from(([127, 0, 0, 1], 1)))]));
    let routes = Arc::new(RouteTable::direct(1, None));
    Arc::new(Listener {
        key: ListenerKey { sidecar: "web-sidecar-proxy".into(), name: "upstream:api".into() },
        service: ServiceName::local("web"),
        bind: Bind { address: Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), mode: None },
        protocol: Protocol::Http,
        identity: Some(identity.clone()),
        tls: TlsBounds::default(),
        access_log: Arc::new(AccessLog::default()),
        tracing: None,
        role: Role::Upstream(Upstream { destination: ServiceName::local("api"), routes, clusters: vec![cluster] }),
    })
}

/// By what Pingora's pool tells connections to the endpoint apart.
fn reuse(workshop: &mut Workshop, listener: &Arc<Listener>) -> Result<u64, String> {
    let live = workshop.make(listener, None)?;
    let Side::Upstream(clusters) = &live.side else { panic!("no upstream") };
    let cluster = clusters[0].clone();
    Ok(cluster.peer(0, &cluster.cluster.endpoints[0]).unwrap().reuse_hash())
}

#[tokio::test]
async fn another_leaf_or_expectation_never_uses_an_old_connection() {
    let ca = Ca::new();
    let [first, second] = [Arc::new(ca.identity("web")), Arc::new(ca.identity("web"))];
    let mut workshop = Workshop::new(Arc::new(Telemetry::start().unwrap()));
    let mut hash = |listener: Arc<Listener>| reuse(&mut workshop, &listener).unwrap();
    let before = hash(upstream(&first, "api.test", "api"));
    assert_eq!(hash(upstream(&first, "api.test", "api")), before);
    assert_ne!(hash(upstream(&second, "api.test", "api")), before, "another leaf or other roots");
    assert_ne!(hash(upstream(&first, "api.test", "other")), before, "another server expected");
    assert_ne!(hash(upstream(&first, "other.test", "api")), before, "another name asked for");
}

#[tokio::test]
async fn a_server_without_name_is_never_dialled() {
    let mut workshop = Workshop::new(Arc::new(Telemetry::start().unwrap()));
    let refused = reuse(&mut workshop, &upstream(&Arc::new(Ca::new().identity("web")), "", "api"));
    assert!(refused.is_err_and(|why| why.contains("no server name")), "an empty name would switch verification off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_offered_for_resumption() {
    let mesh = Mesh::start(Protocol::Http, http_app().await).await;
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (certificate, key) = mesh.ca.leaf_pem(&[&id("web").to_string()]);
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_max_proto_version(Some(version)).unwrap();
        connector.set_certificate(&X509::from_pem(certificate.as_bytes()).unwrap()).unwrap();
        connector.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
        let offered = Arc::new(AtomicUsize::new(0));
        let count = offered.clone();
        connector.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        connector.set_new_session_callback(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let session = connector.build().configure().unwrap().verify_hostname(false).into_ssl("api").unwrap();
        let mut stream = Peer::new(session, TcpStream::connect(mesh.public).await.unwrap()).unwrap();
        stream.connect().await.unwrap();
        // A ticket would come before the answer.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let kept = stream.ssl().session().is_some_and(|session| version == SslVersion::TLS1_2 && !session.id().is_empty());
        assert_eq!((offered.load(Ordering::Relaxed), kept), (0, false), "{version:?}");
    }
    mesh.stop().await;
}
