//! Ingress listeners with TLS, towards clients and towards servers.

use std::sync::Mutex;

use aralez_integration::{
    ssllabs::rate,
    sslyze,
    web_pki::{Pair, WebCa, ec_key},
};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode, SslVersion};

use super::{
    edge::{self, Edge, Setup},
    *,
};
use crate::model::{
    credentials::certificates,
    ingress::{
        Action, CertificatePair, Certificates, ClientAddress, ClientAuth, Filters, Hosts, IngressRoute, IngressTls, Paths, ProxyProtocol,
        Routing, TlsGrade,
        filters::Redirect,
        pool::{ProxyHeader, Scheme, ServerTls},
    },
    route::{HeaderEdits, Leg, Route},
    secret::Secret,
};

mod early;
mod pool;
mod proxied;
mod upstream;

/// The pair of a name.
fn pair(ca: &WebCa, name: &str, names: &[&str]) -> Arc<CertificatePair> {
    let Pair { crt, key } = ca.issue(names);
    Arc::new(CertificatePair {
        name: name.into(),
        chain: certificates("test", &crt).unwrap(),
        key: Secret::new(key),
        names: names.iter().map(|name| (*name).into()).collect(),
        not_before: 0,
        not_after: i64::MAX,
        ocsp: None,
    })
}

/// All hosts lead to one server, `/moved` elsewhere.
fn to(server: Arc<Endpoint>, tls: ServerTls, proxy_header: Option<ProxyHeader>) -> Setup {
    let leg = Leg { name: "app".into(), weight: 1, headers: HeaderEdits::default(), clusters: vec![0] };
    let route = |action| IngressRoute {
        route: Route { name: "edge".into(), ..Route::to(vec![leg.clone()]) },
        further: Vec::new(),
        action,
        filters: Arc::new(Filters::default()),
    };
    let moved = Action::Redirect(Redirect { to: "https://other.test".into(), status: 308, exact: false });
    let (mut hosts, mut paths) = (Hosts::default(), Paths::default());
    paths.insert("/", 0);
    paths.insert("/moved", 1);
    hosts.insert("*.test", paths.clone());
    hosts.insert("127.0.0.1", paths);
    let routing = Arc::new(Routing { hosts, routes: vec![route(Action::Forward), route(moved)], pools: Vec::new() });
    Setup { routing, cluster: edge::servers(server, tls, proxy_header), client: ClientAddress::default(), tls: None, pool: POOL }
}

/// To an app that speaks HTTP/1, shown with these certificates.
fn secured(app: SocketAddr, grade: TlsGrade, pairs: Vec<Arc<CertificatePair>>) -> Setup {
    let certificates = Arc::new(Certificates { pairs, default: None });
    let hsts = Some(Duration::from_secs(63_072_000)).filter(|_| grade != TlsGrade::Medium);
    let tls = Some(IngressTls { grade, certificates, client_auth: None, hsts });
    Setup { tls, ..to(edge::server(app, "app", Scheme::Http), ServerTls::default(), None) }
}

impl Edge {
    /// What comes back for these bytes until the end, in clear.
    async fn plain(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    /// A TLS connection that asks for a name; with a certificate and key, PEM, if there is one.
    async fn connect(&self, name: &str, identity: Option<&Pair>) -> Peer {
        let stream = TcpStream::connect(self.https).await.unwrap();
        tls_over(stream, name, identity).await
    }

    async fn tls(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect("a.test", None).await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }
}

/// The same, but bodies may be no longer than `limit`.
fn limited(mut setup: Setup, limit: Option<u64>) -> Setup {
    for route in &mut Arc::make_mut(&mut setup.routing).routes {
        Arc::make_mut(&mut route.filters).body_limit = limit;
    }
    setup
}

async fn tls_over(stream: TcpStream, name: &str, identity: Option<&Pair>) -> Peer {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    if let Some(Pair { crt, key }) = identity {
        context.set_certificate(&X509::from_pem(crt.as_bytes()).unwrap()).unwrap();
        context.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
    }
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_hostname(name).unwrap();
    let mut stream = Peer::new(ssl, stream).unwrap();
    stream.connect().await.unwrap();
    stream
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hsts_is_on_every_answer_over_tls_and_on_none_in_clear() {
    const FIELD: &str = "strict-transport-security: max-age=63072000\r\n";
    let ca = WebCa::new();
    let edge = Edge::start(&secured(http_app().await, TlsGrade::High, vec![pair(&ca, "a", &["a.test"])])).await;
    let nobody = b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n".to_vec();
    let grpc =
        [&b"POST / HTTP/1.1\r\nHost: nobody\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"[..]]
            .concat();
    let long = get("/", &format!("x: {}\r\n", "x".repeat(70_000)));
    for (bytes, status) in [
        (get("/", ""), "200"),
        (get("/moved", ""), "308"),
        (nobody, "404"),
        (grpc, "200"),
        (get("/%00", ""), "400"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), "400"),
        (long, "431"),
    ] {
        let shown = bytes.iter().take(60).map(|b| char::from(*b)).collect::<String>();
        let (tls, plain) = (edge.tls(&bytes).await, edge.plain(&bytes).await);
        for answer in [&tls, &plain] {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        }
        let head = tls.split("\r\n\r\n").next().unwrap().to_ascii_lowercase() + "\r\n";
        assert_eq!(head.matches(FIELD).count(), 1, "{shown}: {head}");
        assert!(!plain.to_ascii_lowercase().contains("strict-transport-security"), "{shown}: {plain}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_to_the_server_and_a_forged_one_is_not() {
    let (ca, clients) = (WebCa::new(), WebCa::new());
    let mut setup = secured(http_app().await, TlsGrade::High, vec![pair(&ca, "a", &["a.test"])]);
    let roots = certificates("test", &clients.root_pem()).unwrap();
    setup.tls.as_mut().unwrap().client_auth = Some(ClientAuth { roots, required: false });
    let edge = Edge::start(&setup).await;
    let identity = clients.issue_named("alice", &["alice.test"], ec_key(), 90);
    for (identity, expected) in [(Some(&identity), Some("Subject=\"CN=alice\";DNS=alice.test")), (None, None)] {
        let mut stream = edge.connect("a.test", identity).await;
        stream.write_all(&get("/", "X-Forwarded-Client-Cert: Hash=forged\r\n")).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("forged"), "{answer}");
        let told = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("x-forwarded-client-cert:"));
        assert_eq!(told.is_some(), expected.is_some(), "{answer}");
        assert!(told.is_none_or(|told| told.ends_with(expected.unwrap()) && told.contains("Hash=")), "{answer}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_certificate_is_for_new_connections_and_open_ones_live_on() {
    let ca = WebCa::new();
    let app = http_app().await;
    let with = |pairs| secured(app, TlsGrade::High, pairs);
    let (old, new, other) = (pair(&ca, "a", &["a.test"]), pair(&ca, "a", &["a.test"]), pair(&ca, "b", &["b.test"]));
    let mut edge = Edge::start(&with(vec![old.clone(), other.clone()])).await;
    let shown = |stream: &Peer| stream.ssl().peer_certificate().unwrap().to_der().unwrap();
    let mut open = edge.connect("a.test", None).await;
    assert_eq!(shown(&open), old.chain[0].der());
    edge.publish(&with(vec![new.clone(), other.clone()])).await;
    assert_eq!(shown(&edge.connect("A.Test.", None).await), new.chain[0].der());
    assert_eq!(shown(&edge.connect("b.test", None).await), other.chain[0].der());
    edge.publish(&with(vec![other.clone()])).await;
    assert_eq!(shown(&edge.connect("a.test", None).await), other.chain[0].der(), "a removed name gets the default");
    open.write_all(&get("/", "")).await.unwrap();
    let mut answer = String::new();
    let _ = open.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "the open connection goes on: {answer}");
    edge.stop().await;
}

/// The grades as a scanner of another make sees them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslyze_rates_high_a_plus_medium_a_and_unsafe_b() {
    let ca = WebCa::new();
    let rsa = openssl::rsa::Rsa::generate(2048).unwrap();
    let Pair { crt, key } = ca.issue_named("", &["a.test"], PKey::from_rsa(rsa).unwrap(), 90);
    let rsa = CertificatePair {
        chain: certificates("test", &crt).unwrap(),
        key: Secret::new(key),
        ..CertificatePair::clone(&pair(&ca, "rsa", &["a.test"]))
    };
    let pairs = vec![pair(&ca, "ec", &["a.test", "b.test"]), Arc::new(rsa)];
    let root = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(root.path(), ca.root_pem()).unwrap();
    let app = http_app().await;
    for (grade, expected) in [(TlsGrade::High, "A+"), (TlsGrade::Medium, "A"), (TlsGrade::Unsafe, "B")] {
        let edge = Edge::start(&secured(app, grade, pairs.clone())).await;
        for name in ["a.test", "b.test", "unknown.test"] {
            let mut scan = sslyze::scan(edge.https, name, root.path()).await.unwrap();
            if name == "unknown.test" {
                // Nobody's name is in the certificate: everything else must be the same.
                assert!(!scan.findings.is_trusted);
                scan.findings.is_trusted = true;
            }
            let rating = rate(&scan.findings);
            println!("{grade:?} as {name}: {rating}; {} suites, weaknesses {:?}", scan.findings.suites.len(), scan.weaknesses);
            assert_eq!(rating.grade, expected, "{grade:?} as {name}: {rating}");
            assert_eq!(scan.weaknesses, Vec::<String>::new(), "{grade:?} as {name}");
            assert!(scan.resumes_by_ticket, "{grade:?}");
        }
        edge.stop().await;
    }
}
