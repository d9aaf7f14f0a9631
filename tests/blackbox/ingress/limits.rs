//! Who shares a counter with whom.

use std::time::{SystemTime, UNIX_EPOCH};

use aralez_integration::{
    apps::http_echo,
    certs::{self, Ca, Identity, Leaf},
    clients::{HttpClient, Response},
    web_pki::WebCa,
};
use http::Method;
use serde_json::{Value, json};

use super::{Edge, Setup, request};

const HOST: &str = "shop.test";
const SECRET: &str = "a secret of the shop and of nobody else";

/// A token that says who asks, signed with a secret.
fn token(claims: Value, secret: &str) -> String {
    let mut all = json!({"exp": SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &all, &key).unwrap()
}

async fn show(client: &mut HttpClient, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    client.send(request(Method::GET, HOST, "/", &[("authorization", &bearer)])).await.unwrap()
}

/// How many requests pass before the first 429, if these tokens are shown in turns.
async fn pass(client: &mut HttpClient, tokens: &[&str]) -> usize {
    let mut passed = 0;
    for token in tokens.iter().cycle() {
        match show(client, token).await.status.as_u16() {
            200 => passed += 1,
            429 => break,
            status => panic!("{status}"),
        }
    }
    passed
}

#[tokio::test]
async fn a_limit_by_claim_counts_the_named_and_not_the_token() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&format!(
        "provider: file\nupstreams:\n  {HOST}:\n    paths:\n      /: {{servers: ['{}'], healthcheck: false, \
         authorization: {{type: jwt, secret: {SECRET}, failures: false}}, rate_limit: {{rate: 1, burst: 60, by: 'claim:sub'}}}}\n",
        app.address
    ))
    .await;
    let mut client = HttpClient::http1(&edge.http).await.unwrap();
    let of = |name: &str, device: u32| token(json!({"sub": name, "device": device}), SECRET);
    // One more passes each second: 60 and a slow machine's seconds are fewer than two counters' 120.
    let passed = pass(&mut client, &[&of("anna", 1), &of("anna", 2)]).await;
    assert!((60..120).contains(&passed), "{passed}: both of anna's tokens are anna");
    let forged = token(json!({"sub": "bert"}), "another secret");
    for _ in 0..70 {
        assert_eq!(show(&mut client, &forged).await.status, 401);
    }
    let answer = show(&mut client, &of("bert", 1)).await;
    let left = answer.headers["ratelimit-remaining"].to_str().unwrap();
    assert_eq!((answer.status.as_u16(), left), (200, "59"), "neither anna nor who only says that he is bert counts for bert");
    let nobody = [token(json!({"sub": ["a"]}), SECRET), token(json!({"name": "x"}), SECRET)];
    let passed = pass(&mut client, &nobody.each_ref().map(String::as_str)).await;
    assert!((60..120).contains(&passed), "{passed}: without such a claim it is the client that counts");
}

/// What comes back for a request over TLS, with a certificate if there is one.
async fn call(edge: &Edge, identity: Option<&Identity>, more: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{more}\r\n");
    let answer = certs::exchange(&edge.tls, identity, request.as_bytes()).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_limit_by_source_counts_the_spiffe_id_of_the_certificate() {
    let app = http_echo("app").await.unwrap();
    let pair = WebCa::new().issue(&[HOST]);
    let mesh = Ca::new("shop.consul").unwrap();
    let routes = format!(
        "provider: file\nupstreams:\n  {HOST}:\n    paths:\n      /: {{servers: ['{}'], healthcheck: false, \
         rate_limit: {{rate: 1, burst: 30, by: source}}}}\n",
        app.address
    );
    let setup = Setup::new(&routes).tls().main("client_certificates: {ca: mesh.pem, required: false}");
    let setup = setup.file("mesh.pem", mesh.certificate_pem().unwrap());
    let edge = setup.file("certs/shop.crt", &pair.crt).file("certs/shop.key", &pair.key).start().await;
    let id = |service: &str| format!("spiffe://shop.consul/ns/default/dc/dc1/svc/{service}");
    let leaf = |service: &str| mesh.issue(&Leaf::of(id(service))).unwrap();
    let (web, renewed, api) = (leaf("web"), leaf("web"), leaf("api"));
    let is = |answer: &str, status: u16| answer.starts_with(&format!("HTTP/1.1 {status} "));
    let mut passed = 0;
    for identity in [&web, &renewed].into_iter().cycle() {
        let answer = call(&edge, Some(identity), "").await;
        if is(&answer, 429) {
            break;
        }
        assert!(is(&answer, 200), "{answer}");
        passed += 1;
    }
    assert!((30..60).contains(&passed), "{passed}: a renewed certificate is the same service");
    let remaining = |answer: &str, left: u32| answer.to_ascii_lowercase().contains(&format!("ratelimit-remaining: {left}\r\n"));
    let answer = call(&edge, Some(&api), "").await;
    assert!(is(&answer, 200) && remaining(&answer, 29), "another service has a counter of its own: {answer}");
    let claimed = format!("X-Forwarded-Client-Cert: URI={}\r\n", id("web"));
    let answer = call(&edge, None, &claimed).await;
    assert!(is(&answer, 200) && remaining(&answer, 29), "who shows none is counted by address, whatever it says: {answer}");
    let strange = Ca::new("shop.consul").unwrap().issue(&Leaf::of(id("billing"))).unwrap();
    assert_eq!(call(&edge, Some(&strange), "").await, "", "a certificate of somebody else's is no source, and no client");
}
