//! What happens to a request on its way: header fields, framing, versions, slow clients.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::http_echo;
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::{eventually, steadily};
use bytes::Bytes;
use http::{Method, Request};
use openssl::x509::X509;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::ca::{Leaf, LeafRequest};
use crate::support::fake_agent::{FakeAgent, Instance, intention, upstream};
use crate::support::mesh::{EFFECT, Mesh, web};
use crate::support::raw::{exchange, read_until, status};
use crate::support::sidecar::Launch;
use crate::support::tls::{Client, HttpServer};

const DUMP: &str = "/debug?env=dump";
const XFCC: &str = "x-forwarded-client-cert";

/// All values of a header field in a dump of the echo app.
fn dumped<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
    let fields = dump.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// Asserts that `element` describes the connection of `client` to `server`, in Consul's order of keys.
fn assert_xfcc_element(element: &str, client: &Leaf, server: &str) {
    let parts: Vec<(&str, &str)> = element.split(';').map(|part| part.split_once('=').unwrap()).collect();
    let keys: Vec<&str> = parts.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["By", "Hash", "Cert", "Chain", "Subject", "URI"], "{element}");
    let value = |wanted: &str| parts.iter().find(|(key, _)| *key == wanted).unwrap().1.trim_matches('"');
    let decoded = |wanted: &str| percent_decode_str(value(wanted)).decode_utf8().unwrap().into_owned();
    let der = X509::from_pem(client.cert_pem.as_bytes()).unwrap().to_der().unwrap();
    let hash: String = openssl::sha::sha256(&der).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(value("By"), server);
    assert_eq!(value("Hash"), hash);
    assert_eq!(decoded("Cert"), client.cert_pem);
    assert_eq!(decoded("Chain"), client.cert_pem);
    assert_eq!(value("Subject"), "");
    assert_eq!(value("URI"), client.uri);
}

#[tokio::test(flavor = "multi_thread")]
async fn xfcc_describes_the_peer_and_never_what_the_app_forged() {
    let mesh = Mesh::start("http").await;
    let server = mesh.agent.signer().service_uri("api");
    let forged = "By=spiffe://x/a;URI=spiffe://x/root";
    let mut request = clients::request(Method::GET, DUMP, "").unwrap();
    request.headers_mut().append(XFCC, forged.parse().unwrap());
    request.headers_mut().append(XFCC, forged.parse().unwrap());
    let dump = clients::once(&mesh.entry, request).await.unwrap().text();
    let fields = dumped(&dump, XFCC);
    assert_eq!(fields.len(), 1, "{fields:?}");
    assert_xfcc_element(fields[0], &mesh.agent.leaf("web").unwrap(), &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn xfcc_is_appended_to_a_peers_own() {
    let mesh = Mesh::start("http").await;
    let server = mesh.agent.signer().service_uri("api");
    let probe = mesh.agent.reissue_leaf("probe");
    let earlier = "By=spiffe://x/a;URI=spiffe://x/first";
    let mut peer = Client::with(&probe).http(&mesh.public).await.unwrap();
    let dump = peer.get(DUMP, &[(XFCC, earlier)]).await.unwrap().text();
    let fields = dumped(&dump, XFCC);
    let rest = fields[0].strip_prefix(&format!("{earlier},")).expect("the earlier element first");
    assert_eq!(fields.len(), 1);
    assert_xfcc_element(rest, &probe, &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn xfcc_is_removed_when_the_mesh_entry_says_so() {
    let agent = FakeAgent::start().await;
    agent.set_mesh(Some(json!({"Kind": "mesh", "HTTP": {"SanitizeXForwardedClientCert": true}})));
    let mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    let probe = mesh.agent.reissue_leaf("probe");
    let mut peer = Client::with(&probe).http(&mesh.public).await.unwrap();
    let dump = peer.get(DUMP, &[(XFCC, "URI=spiffe://x/first")]).await.unwrap().text();
    assert!(dumped(&dump, XFCC).is_empty(), "{dump}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apps_host_and_path_arrive_as_sent() {
    let mesh = Mesh::start("http").await;
    let request = Request::get("http://any/a/debug?env=dump").header("host", "api.example:8080").header("x-mine", "1");
    let dump = clients::once(&mesh.entry, request.body(Bytes::new()).unwrap()).await.unwrap().text();
    assert!(dump.starts_with("GET /a/debug?env=dump HTTP/1.1\n"), "{dump}");
    assert_eq!(dumped(&dump, "host"), ["api.example:8080"]);
    assert_eq!(dumped(&dump, "x-mine"), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_of_http2_are_joined_for_http1() {
    let mesh = Mesh::start("http").await;
    let mut request = clients::request(Method::GET, DUMP, "").unwrap();
    for cookie in ["a=1", "b=2", "c=3"] {
        request.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    let dump = HttpClient::http2(&mesh.entry).await.unwrap().send(request).await.unwrap().text();
    assert_eq!(dumped(&dump, "cookie"), ["a=1; b=2; c=3"], "{dump}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_http2_that_ends_empty_leaves_the_http1_connection_clean() {
    let agent = FakeAgent::start().await;
    let signer = agent.signer();
    let server = HttpServer::start(&signer.issue(&LeafRequest::new(signer.service_uri("api"), 3), "")).await;
    let entry = free_port().unwrap();
    agent.register(&web(vec![upstream("api", entry, "http")]));
    agent.set_instances("api", vec![Instance::new("api-1", server.port)]);
    let _web = Launch::sidecar_for(&agent, "web-1").start().await;

    let stream = Address::port(entry).connect().await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for round in 0..20 {
        let request = Request::post("http://localhost/").body(()).unwrap();
        client = client.ready().await.unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"hello"), false).unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200, "request {round}");
        let mut echoed = answer.into_body();
        assert_eq!(echoed.data().await.unwrap().unwrap(), "hello");
    }
    assert_eq!(server.connections(), 1, "a connection was spoilt and replaced");
}

/// Requests that two readers may take apart differently, or that are no HTTP.
const AMBIGUOUS: [(&str, &str); 16] = [
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("two equal Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    ("a Host that is none", "GET / HTTP/1.1\r\nHost: a b/c@d\r\n\r\n"),
    ("Host unlike the target", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    ("CL and TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    ("TE and CL", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG"),
    ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na"),
    ("TE twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("TE before chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    ("unknown TE", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("blank before colon", "GET / HTTP/1.1\r\nHost: a\r\nFoo : b\r\n\r\n"),
    ("a folded field", "GET / HTTP/1.1\r\nHost: a\r\nFoo: b\r\n c\r\n\r\n"),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nFoo: b\0c\r\n\r\n"),
    ("a target with a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused_on_both_sides_and_reach_nobody() {
    let mesh = Mesh::start("http").await;
    let probe = mesh.agent.reissue_leaf("probe");
    let mut wrong = Vec::new();
    for (what, request) in AMBIGUOUS {
        let from_app = status(&mesh.entry, request.as_bytes()).await;
        let from_peer = Client::with(&probe).exchange(&mesh.public, request.as_bytes()).await;
        let from_peer = from_peer.map(|answer| String::from_utf8_lossy(&answer).chars().skip(9).take(3).collect::<String>());
        if !matches!(from_app, Ok(400 | 501)) {
            wrong.push(format!("{what}, from the app: {from_app:?}"));
        }
        if !matches!(from_peer.as_deref(), Ok("400" | "501")) {
            wrong.push(format!("{what}, from a peer: {from_peer:?}"));
        }
    }
    assert!(wrong.is_empty() && mesh.app.requests() == 0, "{} reached the app; {wrong:#?}", mesh.app.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refused_request_is_never_a_request() {
    let mesh = Mesh::start("http").await;
    mesh.agent.set_intentions("api", vec![intention("probe", "api", "deny")]);
    let probe = mesh.agent.reissue_leaf("probe");
    let denied = eventually("the deny", EFFECT, async || {
        ensure!(Client::with(&probe).status(&mesh.public).await? == Some(403));
        Ok(())
    });
    denied.await.unwrap();
    let requests = mesh.app.requests();
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len());
    let last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = Client::with(&probe).exchange(&mesh.public, format!("{request}{last}").as_bytes()).await.unwrap();
    let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 403").count();
    assert!((1..=2).contains(&answers), "{answers} answers to two requests");
    assert_eq!(mesh.app.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_shorter_than_the_http2_preface_is_served() {
    let mesh = Mesh::start("http").await;
    let request = b"GET / HTTP/1.0\r\n\r\n";
    assert_eq!(request.len(), 18);
    let answer = exchange(&mesh.entry, request).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.") && answer[8..].starts_with(b" 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_wait_for_themselves_only() {
    let mesh = Mesh::start("http").await;
    let mut slow = Vec::new();
    for bytes in [&b""[..], b"G", b"GET / HTTP", b"PRI * HTTP/2.0"] {
        let mut stream = mesh.entry.connect().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        slow.push(stream);
    }
    steadily(Duration::from_millis(500), async || mesh.answering().await.map(drop)).await.unwrap();
    let mut third = slow.remove(2);
    third.write_all(b"/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = read_until(&mut third, b"\r\n\r\n").await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_fields_end_at_each_hop() {
    let mesh = Mesh::start("http").await;
    let mut request = clients::request(Method::GET, DUMP, "").unwrap();
    for (name, value) in [("connection", "keep-alive, x-nominated"), ("x-nominated", "1"), ("keep-alive", "timeout=5"), ("te", "gzip")] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let dump = clients::once(&mesh.entry, request).await.unwrap().text();
    for name in ["x-nominated", "keep-alive", "te"] {
        assert!(dumped(&dump, name).is_empty(), "{name} in {dump}");
    }
}
