//! Tokens that intentions ask for, through a whole sidecar.

use anyhow::ensure;
use aralez_integration::apps::http_echo;
use aralez_integration::clients::{self, Response};
use aralez_integration::wait::eventually;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, intention};
use crate::support::issuer::{Issuer, KeyServer};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY};

const DUMP: &str = "/debug?env=dump";

/// An agent whose only intention lets `web` call `api` with a token of `okta` that has the role `admin`.
async fn agent(keys: Value) -> FakeAgent {
    let agent = FakeAgent::start().await;
    agent.set_default_policy("deny", None);
    agent.set_intentions("api", vec![with_token("web")]);
    agent.set_jwt_providers(vec![json!({"Kind": "jwt-provider", "Name": "okta", "Issuer": "okta", "ClockSkewSeconds": 30,
        "Forwarding": {"HeaderName": "x-claims"}, "JSONWebKeySet": keys})]);
    agent
}

fn with_token(source: &str) -> Value {
    let mut allow = intention(source, "api", "allow");
    allow["JWT"] = json!({"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["roles"], "Value": "admin"}]}]});
    allow
}

async fn mesh(keys: Value) -> Mesh {
    Mesh::around(agent(keys).await, http_echo("api-1").await.unwrap(), "http").await
}

fn local(issuer: &Issuer) -> Value {
    json!({"Local": {"JWKS": BASE64_STANDARD.encode(issuer.key_set())}})
}

fn remote(server: &KeyServer) -> Value {
    json!({"Remote": {"URI": server.url, "RequestTimeoutMs": 1500}})
}

fn admin() -> Value {
    json!({"roles": ["dev", "admin"]})
}

async fn get(mesh: &Mesh, path: &str, fields: &[(&'static str, &str)]) -> Response {
    let mut request = clients::request(Method::GET, path, Bytes::new()).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    clients::once(&mesh.entry, request).await.unwrap()
}

async fn status(mesh: &Mesh, token: &str) -> u16 {
    get(mesh, "/", &[("authorization", &format!("Bearer {token}"))]).await.status.as_u16()
}

/// The values of a header in the app's dump, whatever its case there.
fn dumped<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
    let fields = dump.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_that_stands_and_claims_enough_lets_a_request_through() {
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let mesh = mesh(local(&issuer)).await;
    assert_eq!(status(&mesh, &issuer.token(admin())).await, 200);
    let requests = mesh.app.requests();
    for (what, token) in [
        ("the claim is missing", issuer.token(json!({}))),
        ("the list lacks the value", issuer.token(json!({"roles": ["dev"]}))),
        ("expired", issuer.token(json!({"roles": "admin", "exp": 1_000_000_000}))),
        ("not yet", issuer.token(json!({"roles": "admin", "nbf": 4_000_000_000_u64}))),
        ("wrong issuer", issuer.token(json!({"roles": "admin", "iss": "auth0"}))),
        ("wrong key", stranger.token(admin())),
        ("none", format!("{}.{}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), issuer.token(admin()).split('.').nth(1).unwrap())),
        ("no token", String::new()),
    ] {
        let answer = get(&mesh, "/", &[("authorization", &format!("Bearer {token}"))]).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (403, "RBAC: access denied"), "{what}");
    }
    assert_eq!(get(&mesh, "/", &[]).await.status, 403);
    assert_eq!(mesh.app.requests(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_gets_the_claims_and_not_the_token() {
    let issuer = Issuer::new("one");
    let mesh = mesh(local(&issuer)).await;
    let token = issuer.token(admin());
    let payload = token.split('.').nth(1).unwrap();

    let bearer = format!("Bearer {token}");
    let dump = get(&mesh, DUMP, &[("authorization", &bearer), ("x-claims", "forged")]).await.text();
    assert_eq!((dumped(&dump, "authorization"), dumped(&dump, "x-claims")), (vec![], vec![payload]), "{dump}");

    let dump = get(&mesh, &format!("{DUMP}&access_token={token}"), &[]).await.text();
    assert!(dump.starts_with(&format!("GET {DUMP} HTTP/1.1\n")), "{dump}");
    assert_eq!(dumped(&dump, "x-claims"), [payload]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_forges_claims_where_no_token_is_asked_for() {
    let issuer = Issuer::new("one");
    let mesh = mesh(local(&issuer)).await;
    mesh.agent.set_intentions("api", vec![intention("web", "api", "allow"), with_token("*")]);
    let open = eventually("the allow", EFFECT, async || {
        let answer = get(&mesh, DUMP, &[("x-claims", "forged")]).await;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(answer)
    });
    let dump = open.await.unwrap().text();
    assert!(dumped(&dump, "x-claims").is_empty(), "{dump}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_fetched_close_until_they_can_and_rotated_ones_are_found() {
    let (one, two) = (Issuer::new("one"), Issuer::new("two"));
    let server = KeyServer::start(None).await;
    let mesh = mesh(remote(&server)).await;
    assert_eq!(status(&mesh, &one.token(admin())).await, 403);
    let passes = |token: String| {
        let mesh = &mesh;
        eventually("the token to stand", RECOVERY, async move || {
            let status = status(mesh, &token).await;
            ensure!(status == 200, "{status}");
            Ok(())
        })
    };
    server.set(Some(one.key_set()));
    passes(one.token(admin())).await.unwrap();
    // The keys are good for another five minutes: the token itself makes them be fetched.
    server.set(Some(two.key_set()));
    passes(two.token(admin())).await.unwrap();
    assert_eq!(status(&mesh, &one.token(admin())).await, 403);
    server.set(None);
    assert_eq!(status(&mesh, &two.token(admin())).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_that_cannot_be_read_hold_nothing_back_but_what_asks_for_them() {
    let issuer = Issuer::new("one");
    let agent = agent(local(&issuer)).await;
    agent.fail(Endpoint::JwtProviders, Fault::Status(403));
    let mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    assert_eq!(status(&mesh, &issuer.token(admin())).await, 403);
    mesh.agent.heal(Endpoint::JwtProviders);
    let stands = eventually("the provider", RECOVERY, async || {
        let status = status(&mesh, &issuer.token(admin())).await;
        ensure!(status == 200, "{status}");
        Ok(())
    });
    stands.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_token_is_shown_anywhere() {
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let mesh = mesh(local(&issuer)).await;
    let tokens = [issuer.token(admin()), issuer.token(json!({"exp": 1})), stranger.token(admin())];
    for token in &tokens {
        get(&mesh, "/", &[("authorization", &format!("Bearer {token}"))]).await;
    }
    let stood = &tokens[0];
    assert_eq!(get(&mesh, &format!("/?access_token={stood}"), &[]).await.status, 200);
    let mut shown = mesh.api.log();
    for path in ["/snapshot", "/metrics", "/watches"] {
        shown += &mesh.api.admin(path).await.unwrap().text();
    }
    for part in tokens.iter().flat_map(|token| token.split('.')) {
        assert!(!shown.contains(part), "{part} is shown");
    }
}
