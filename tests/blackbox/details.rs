//! The small print of HTTP, through both sidecars: framing of answers, versions, connections, odd targets, fields of a hop, refusals.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::net::{Address, Stream};
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::mesh::{EFFECT, Mesh};
use crate::support::raw::{closes, exchange, read_until, status};
use crate::support::tls::Client;
use crate::support::wire::{Reply, Wire, WireApp};

const SOON: Duration = Duration::from_secs(10);

/// An app whose answer is named by the path; anything else is answered with the request's head.
async fn app() -> WireApp {
    WireApp::start(|head| {
        let (method, path) = head.split_once(' ').unwrap();
        let path = path.split(' ').next().unwrap();
        let stay = |bytes: &str| Reply::Stay(bytes.as_bytes().to_vec());
        match (method, path) {
            (_, "/204") => stay("HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"),
            (_, "/304") => stay("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n"),
            ("HEAD", "/") => stay("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            (_, "/hints") => stay("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            (_, "/closing") => Reply::Close(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok".to_vec()),
            (_, "/old") => Reply::Close(b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec()),
            (_, "/trailers") => {
                stay("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n")
            }
            (_, "/hop") => stay("HTTP/1.1 200 OK\r\nConnection: x-mine\r\nx-mine: 1\r\nKeep-Alive: timeout=9\r\nContent-Length: 0\r\n\r\n"),
            (_, "/gone") => Reply::Close(Vec::new()),
            (_, "/junk") => Reply::Close(b"this is no HTTP\r\n\r\n".to_vec()),
            _ => Reply::Stay(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()).into_bytes()),
        }
    })
    .await
}

async fn scene() -> (Wire, WireApp) {
    let app = app().await;
    (Wire::before(app.port, "http", json!({})).await, app)
}

/// Sends bytes and reads until `end` ends what came.
async fn told(stream: &mut Stream, bytes: &[u8], end: &str) -> String {
    stream.write_all(bytes).await.unwrap();
    String::from_utf8(read_until(stream, end.as_bytes()).await.unwrap()).unwrap()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: api\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_body_ends_with_its_head() {
    let (wire, _app) = scene().await;
    let mut stream = wire.entry.connect().await.unwrap();
    for (request, status) in [
        ("GET /204", "HTTP/1.1 204 "),
        ("GET /304", "HTTP/1.1 304 "),
        ("HEAD /", "HTTP/1.1 200 "),
        ("HEAD /204", "HTTP/1.1 204 "),
        ("GET /204", "HTTP/1.1 204 "),
    ] {
        let answer = told(&mut stream, format!("{request} HTTP/1.1\r\nHost: api\r\n\r\n").as_bytes(), "\r\n\r\n").await;
        assert!(answer.starts_with(status), "{request}: {answer}");
        let length = answer.to_lowercase().contains("content-length: 5\r\n");
        assert_eq!(length, request == "HEAD /" || request == "GET /304", "{answer}");
    }
    let mut client = HttpClient::http2(&wire.entry).await.unwrap();
    for path in ["/204", "/304"] {
        let answer = client.get(path).await.unwrap();
        assert_eq!((answer.status.as_str(), answer.body.len()), (&path[1..], 0));
    }
    let head = client.send(clients::request(Method::HEAD, "/", "").unwrap()).await.unwrap();
    assert_eq!((head.headers["content-length"].to_str().unwrap(), head.body.len()), ("5", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_before_the_answer_are_passed_on() {
    let (wire, _app) = scene().await;
    let mut stream = wire.entry.connect().await.unwrap();
    let answer = told(&mut stream, &get("/hints"), "\r\n\r\nok").await;
    assert!(answer.starts_with("HTTP/1.1 103 ") && answer.contains("\r\n\r\nHTTP/1.1 200 "), "{answer}");
    assert!(answer.to_lowercase().contains("link: </a>\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_the_apps_100_continue() {
    let mesh = Mesh::start("http").await;
    let mut stream = mesh.entry.connect().await.unwrap();
    let head = b"POST /count HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let first = told(&mut stream, head, "\r\n\r\n").await;
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    let answer = told(&mut stream, b"body", "4").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_closes_unless_it_asks_to_stay() {
    let (wire, _app) = scene().await;
    let answer = exchange(&wire.entry, b"GET /204 HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    let mut stream = wire.entry.connect().await.unwrap();
    for _ in 0..2 {
        let answer = told(&mut stream, b"GET /204 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "\r\n\r\n").await;
        assert!(answer.to_lowercase().contains("connection: keep-alive\r\n"), "{answer}");
    }
    let mesh = Mesh::start("http2").await;
    let answer = exchange(&mesh.entry, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    // A body whose length is not known ends with the connection.
    let answer = exchange(&wire.entry, b"GET /trailers HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.to_lowercase().contains("transfer-encoding") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_ends_for_reasons_of_its_own() {
    let (wire, _app) = scene().await;
    let mut stream = wire.entry.connect().await.unwrap();
    for _ in 0..2 {
        // The app closes its connection; the client's goes on.
        let answer = told(&mut stream, &get("/closing"), "\r\n\r\nok").await;
        assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    let last = b"GET /204 HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n";
    let answer = told(&mut stream, last, "\r\n\r\n").await;
    assert!(answer.to_lowercase().contains("connection: close\r\n"), "{answer}");
    assert!(closes(&mut stream, SOON).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_app_is_understood() {
    let (wire, _app) = scene().await;
    let mut client = HttpClient::http1(&wire.entry).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.get("/old").await.unwrap().text(), "until the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_hop_end_there_on_the_way_back_too() {
    let (wire, _app) = scene().await;
    let answer = clients::get(&wire.entry, "/hop").await.unwrap();
    for name in ["x-mine", "keep-alive"] {
        assert!(!answer.headers.contains_key(name), "{:?}", answer.headers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_http1_are_left_out_and_spoil_nothing() {
    let (wire, _app) = scene().await;
    let mut client = HttpClient::http1(&wire.entry).await.unwrap();
    for _ in 0..3 {
        let answer = client.get("/trailers").await.unwrap();
        assert_eq!((answer.text().as_str(), answer.trailers.len()), ("ok", 0));
    }
    let mesh = Mesh::start("http2").await;
    // From an app of HTTP/2 to a client of HTTP/1.
    let answer = HttpClient::http1(&mesh.entry).await.unwrap().post("/echo", "body").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "body"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_trailers_is_served() {
    for protocol in ["http", "http2"] {
        let mesh = Mesh::start(protocol).await;
        let stream = mesh.entry.connect().await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            let mut client = client.clone().ready().await.unwrap();
            let (answer, mut body) = client.send_request(Request::post("http://api/count").body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from_static(b"body"), false).unwrap();
            body.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())])).unwrap();
            let answer = timeout(SOON, answer).await.unwrap().unwrap();
            assert_eq!(answer.status(), 200, "{protocol}");
            assert_eq!(answer.into_body().data().await.unwrap().unwrap(), "4");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn te_reaches_an_http2_app_as_far_as_trailers() {
    let mesh = Mesh::start("http2").await;
    let mut request = clients::request(Method::GET, "/debug?env=dump", "").unwrap();
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let dump = HttpClient::http2(&mesh.entry).await.unwrap().send(request).await.unwrap().text();
    assert!(dump.contains("\nTe: trailers\n"), "{dump}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_and_the_asterisk_reach_no_app() {
    let (wire, app) = scene().await;
    for (request, statuses) in [
        (&b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\nConnection: close\r\n\r\n"[..], [404, 405]),
        (b"OPTIONS * HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n", [404, 404]),
    ] {
        for answer in [exchange(&wire.entry, request).await, Client::with(&wire.peer).exchange(&wire.public, request).await] {
            let answer = answer.unwrap();
            let text = String::from_utf8_lossy(&answer).into_owned();
            let status: u16 = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_default();
            assert!(statuses.contains(&status), "{}: {text}", String::from_utf8_lossy(request));
        }
    }
    assert_eq!(app.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_targets_and_many_fields_pass_within_bounds() {
    let (wire, app) = scene().await;
    let request = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n{fields}\r\n");
    let long = |length: usize| request(&format!("/{}", "x".repeat(length)), "");
    let many = |count: usize| request("/204", &(0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>());
    for (request, expected) in [(long(30_000), 200), (long(62_000), 431), (many(100), 204), (many(300), 431)] {
        let before = app.requests();
        assert_eq!(status(&wire.entry, request.as_bytes()).await.unwrap(), expected, "{request:.60}");
        assert_eq!(app.requests() > before, expected < 300);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_learns_scheme_and_id_and_is_not_steered() {
    let (wire, _app) = scene().await;
    let steering = "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 9\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-internal: true\r\n";
    let own = "x-request-id: mine\r\nx-forwarded-proto: https\r\nx-envoy-original-path: /a\r\n";
    let request = |more: &str| format!("GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n{more}\r\n").into_bytes();
    let by_entry = String::from_utf8(exchange(&wire.entry, &request(steering)).await.unwrap()).unwrap().to_lowercase();
    let by_peer = Client::with(&wire.peer).exchange(&wire.public, &request(steering)).await.unwrap();
    let by_peer = String::from_utf8(by_peer).unwrap().to_lowercase();
    for (seen, scheme) in [(&by_entry, "http"), (&by_peer, "https")] {
        assert!(seen.contains(&format!("x-forwarded-proto: {scheme}\r\n")), "{seen}");
        assert!(seen.contains("x-request-id: ") && !seen.contains("x-envoy-"), "{seen}");
    }
    let kept = String::from_utf8(exchange(&wire.entry, &request(own)).await.unwrap()).unwrap().to_lowercase();
    assert!(own.lines().all(|line| kept.contains(line)), "{kept}");
}

/// Status, media type and text of an answer.
fn refusal(answer: &clients::Response) -> (u16, &str, String) {
    (answer.status.as_u16(), answer.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap()), answer.text())
}

/// Status and message of a gRPC call that is answered by trailers alone: one frame that ends the stream, as clients insist.
pub async fn trailers_only(address: &Address) -> (String, String) {
    let (client, connection) = h2::client::handshake(address.connect().await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://api/echo.Echo/Unary").header("content-type", "application/grpc").header("te", "trailers");
    let (answer, mut body) = client.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).unwrap();
    let answer = timeout(SOON, answer).await.expect("in time").unwrap();
    let field = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((answer.status().as_u16(), field("content-type").as_str()), (200, "application/grpc"));
    assert!(answer.body().is_end_stream(), "trailers alone");
    (field("grpc-status"), field("grpc-message"))
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_envoys_words() {
    let (wire, _app) = scene().await;
    let broken = |reason: &str| format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
    let answer = clients::post(&wire.entry, "/gone", "body").await.unwrap();
    assert_eq!(refusal(&answer), (503, "text/plain", broken("connection termination")));
    let junk = clients::post(&wire.entry, "/junk", "body").await.unwrap();
    assert_eq!(refusal(&junk), (502, "text/plain", broken("protocol error")));
    let head = clients::once(&wire.entry, clients::request(Method::HEAD, "/gone", "").unwrap()).await.unwrap();
    assert_eq!((head.status.as_u16(), head.body.len()), (503, 0));

    let closed = Wire::before(free_port().unwrap(), "http", json!({})).await;
    let answer = clients::get(&closed.entry, "/").await.unwrap();
    assert_eq!(refusal(&answer), (503, "text/plain", broken("remote connection failure")));
    closed.agent.set_instances("api", Vec::new());
    let nobody = eventually("no endpoint", EFFECT, async || {
        let answer = clients::get(&closed.entry, "/").await?;
        ensure!(refusal(&answer) == (503, "text/plain", "no healthy upstream".to_owned()), "{:?}", refusal(&answer));
        Ok(())
    });
    nobody.await.unwrap();

    let closed = Wire::before(free_port().unwrap(), "grpc", json!({})).await;
    assert_eq!(trailers_only(&closed.entry).await, ("14".to_owned(), broken("remote connection failure")));
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_show_what_is_in_flight() {
    let app = WireApp::start(|_| Reply::Silence).await;
    let wire = Wire::before(app.port, "http", json!({})).await;
    let load = async || -> anyhow::Result<Value> {
        let clusters: Value = serde_json::from_slice(&wire.web.admin("/clusters").await?.body)?;
        let protection = clusters.as_array().and_then(|all| all.iter().find_map(|c| c.get("protection"))).cloned();
        protection.ok_or_else(|| anyhow::anyhow!("{clusters}"))
    };
    assert_eq!(load().await.unwrap()["load"]["requests"], 0);
    let mut stream = wire.entry.connect().await.unwrap();
    stream.write_all(&get("/")).await.unwrap();
    let shown = eventually("a request in flight", EFFECT, async || {
        let protection = load().await?;
        ensure!(protection["load"]["requests"] == 1 && protection["ejected"] == json!([]), "{protection}");
        Ok(())
    });
    shown.await.unwrap();
}
