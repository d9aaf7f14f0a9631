//! Each kind, with what hostile and careless clients show.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::model::{
    ingress::auth::{Basic, JwtAuth, Password},
    jwt::{KeySet, KeySource, Location, Provider, ProviderEntry, Tokens},
    secret::Secret,
};

const CLIENT: &str = "192.0.2.1";
const SECRET: &str = "short";

fn ingress() -> Ingress {
    Ingress {
        tls: None,
        routing: Arc::default(),
        clusters: Vec::new(),
        providers: Arc::new([(Arc::from("shop"), provider(""))].into()),
        client: Arc::default(),
        https_port: None,
        challenges: Arc::default(),
        sealing: Secret::new("s"),
    }
}

fn provider(issuer: &str) -> Arc<Provider> {
    let keys = Arc::new(KeySet::of_secrets([&Secret::new(SECRET)]).unwrap());
    let bearer = Location::Header { name: AUTHORIZATION, prefix: "Bearer ".into(), forward: true };
    let entry = ProviderEntry {
        name: "shop".into(),
        issuer: issuer.into(),
        audiences: Vec::new(),
        locations: vec![bearer, Location::Query("araleztoken".into())],
        forwarding: None,
        clock_skew: Duration::from_secs(30),
        cache_size: 100,
        keys: KeySource::Entry(keys.clone()),
    };
    Arc::new(Provider { entry: Arc::new(entry), keys: Ok(keys) })
}

fn auth(kind: AuthKind) -> Auth {
    Auth { scope: "shop".into(), kind, strip: true, failures: Some(1000) }
}

fn jwt() -> Auth {
    auth(AuthKind::Jwt(JwtAuth { provider: "shop".into(), entry: provider("").entry.clone() }))
}

fn request(target: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
    let mut request = RequestHeader::build(Method::GET, target.as_bytes(), None).unwrap();
    for (name, value) in fields {
        request.append_header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap()).unwrap();
    }
    request
}

struct Door {
    authenticator: Authenticator,
    ingress: Ingress,
}

impl Door {
    fn new() -> Self {
        Self { authenticator: Authenticator::default(), ingress: ingress() }
    }

    /// Status (200 for "let in"), reason, and the challenge or `Retry-After`.
    async fn knock(&self, auth: &Auth, request: &mut RequestHeader) -> (u16, &'static str, String) {
        match self.admit(auth, request).await {
            Ok(_) => (200, "", String::new()),
            Err(Refusal::Answer(answer)) => {
                let field = answer.headers.iter().map(|(_, value)| value.to_str().unwrap()).collect::<Vec<_>>().join("; ");
                (answer.status, answer.reason, field)
            }
            Err(other) => panic!("{other}"),
        }
    }

    async fn admit(&self, auth: &Auth, request: &mut RequestHeader) -> Result<Verified, Refusal> {
        let peer: Option<IpAddr> = CLIENT.parse().ok();
        let client = Client::of(request, peer, false, &self.ingress.client);
        let mut asking = Asking { request, client: &client, ingress: &self.ingress, port: Some(80), wall: SystemTime::now() };
        self.authenticator.admit(auth, &mut asking).await
    }
}

fn basic(users: &[(&str, Password)]) -> Auth {
    let users = users.iter().map(|(name, password)| (Arc::from(*name), password.clone())).collect();
    auth(AuthKind::Basic(Basic { realm: "the \"shop\"".into(), users }))
}

fn clear(password: &str) -> Password {
    Password::Clear(Secret::new(password))
}

fn hashed(password: &str) -> Password {
    Password::Bcrypt(Secret::new(bcrypt::hash(password, 4).unwrap().replacen("$2b$", "$2y$", 1)))
}

fn shown(text: impl AsRef<[u8]>) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(text))
}

#[tokio::test]
async fn basic_takes_its_users_and_nobody_else() {
    let door = Door::new();
    let auth = basic(&[("anna", clear("a:b c")), ("bob", hashed("b\u{f6}b")), ("nobody", clear(""))]);
    let challenge = "Basic realm=\"the shop\", charset=\"UTF-8\"";
    for (field, status, reason) in [
        (shown("anna:a:b c"), 200, ""),
        (shown("bob:b\u{f6}b"), 200, ""),
        (shown("bob:b\u{f6}b"), 200, ""),
        (shown("anna:a:b c").replace("Basic", "bASIC"), 200, ""),
        (shown("anna:a:b c").replace("Basic", "Basic  "), 200, ""),
        (shown("anna:a:b c").trim_end_matches('=').to_owned(), 200, ""),
        (shown("anna:a:b"), 401, "auth_failed"),
        (shown("anna:"), 401, "auth_failed"),
        (shown("anna"), 401, "auth_failed"),
        (shown(""), 401, "auth_missing"),
        (shown(":"), 401, "auth_failed"),
        (shown(":a:b c"), 401, "auth_failed"),
        (shown("Anna:a:b c"), 401, "auth_failed"),
        (shown("anna:a:b c\0"), 401, "auth_failed"),
        (shown("bob:b\u{f6}b\0x"), 401, "auth_failed"),
        (shown("bob:anna"), 401, "auth_failed"),
        (shown(b"bob:b\xf6b"), 401, "auth_failed"),
        (shown("eve:a:b c"), 401, "auth_failed"),
        ("Basic ***".to_owned(), 401, "auth_failed"),
        ("Basic".to_owned(), 401, "auth_missing"),
        ("Basic ".to_owned(), 401, "auth_missing"),
        (shown("anna:a:b c").replace("Basic", "Bearer"), 401, "auth_missing"),
        (shown("anna:a:b c").replace("Basic", "Foo"), 401, "auth_missing"),
        (shown("anna:a:b c").replace("Basic ", ""), 401, "auth_missing"),
        (String::new(), 401, "auth_missing"),
    ] {
        let mut request = request("/", &[("authorization", &field)]);
        let expected = (status, reason, if status == 401 { challenge.to_owned() } else { String::new() });
        assert_eq!(door.knock(&auth, &mut request).await, expected, "{field}");
        assert_eq!(request.headers.contains_key(AUTHORIZATION), status != 200, "{field}");
    }
    let good = shown("anna:a:b c");
    let mut twice = request("/", &[("authorization", &good), ("authorization", &good)]);
    assert_eq!(door.knock(&auth, &mut twice).await.1, "auth_ambiguous");
    assert_eq!(door.knock(&auth, &mut request("/", &[])).await.1, "auth_missing");
    let kept = Auth { strip: false, ..auth };
    let mut with = request("/", &[("authorization", &good)]);
    assert_eq!(door.knock(&kept, &mut with).await.0, 200);
    assert!(with.headers.contains_key(AUTHORIZATION));
}

#[tokio::test]
async fn a_verified_password_is_remembered_and_a_changed_one_is_not() {
    let door = Door::new();
    let costly = Password::Bcrypt(Secret::new(bcrypt::hash("old", 11).unwrap()));
    let before = basic(&[("bob", costly)]);
    let mut bob = request("/", &[("authorization", &shown("bob:old"))]);
    let keep = Auth { strip: false, ..before };
    let begun = Instant::now();
    assert_eq!(door.knock(&keep, &mut bob).await.0, 200);
    let first = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(door.knock(&keep, &mut bob).await.0, 200);
    }
    assert!(begun.elapsed() < first, "20 more took {:?}, the first {first:?}", begun.elapsed());
    let after = basic(&[("bob", hashed("new"))]);
    assert_eq!(door.knock(&after, &mut bob).await.1, "auth_failed");
}

#[tokio::test]
async fn who_is_unknown_costs_a_hash_too() {
    let door = Door::new();
    let auth = basic(&[("bob", Password::Bcrypt(Secret::new(bcrypt::hash("b", 10).unwrap()))), ("anna", clear("a"))]);
    let mut times = Vec::new();
    for credentials in ["bob:wrong", "eve:wrong", "anna:wrong"] {
        let begun = Instant::now();
        assert_eq!(door.knock(&auth, &mut request("/", &[("authorization", &shown(credentials))])).await.0, 401);
        times.push(begun.elapsed());
    }
    // A hash of cost 10 takes tens of milliseconds, everything else microseconds.
    assert!(times.iter().all(|time| *time > times[0] / 10), "{times:?}");
}

#[tokio::test]
async fn hashing_does_not_hold_up_the_reactor() {
    let door = Arc::new(Door::new());
    let auth = basic(&[("bob", Password::Bcrypt(Secret::new(bcrypt::hash("b", 11).unwrap())))]);
    let waiting = tokio::spawn(async move { door.knock(&auth, &mut request("/", &[("authorization", &shown("bob:b"))])).await });
    let mut turns = 0;
    while !waiting.is_finished() {
        tokio::task::yield_now().await;
        turns += 1;
    }
    assert_eq!(waiting.await.unwrap().0, 200);
    assert!(turns > 10, "others had {turns} turns only");
}

#[tokio::test]
async fn a_key_is_one_of_the_keys_and_never_empty() {
    let door = Door::new();
    let auth = auth(AuthKind::ApiKey(["k-1", "k-2", ""].map(Secret::new).into()));
    for (fields, status, reason) in [
        (vec![("x-api-key", "k-1")], 200, ""),
        (vec![("x-api-key", "k-2")], 200, ""),
        (vec![("x-api-key", "k-3")], 401, "auth_failed"),
        (vec![("x-api-key", "k-")], 401, "auth_failed"),
        (vec![("x-api-key", "K-1")], 401, "auth_failed"),
        (vec![("x-api-key", "k-1,k-2")], 401, "auth_failed"),
        (vec![("x-api-key", "")], 401, "auth_missing"),
        (vec![("x-api-key", "k-1"), ("x-api-key", "k-1")], 401, "auth_ambiguous"),
        (vec![("x-api-key", ""), ("x-api-key", "k-1")], 401, "auth_ambiguous"),
        (vec![("authorization", "k-1")], 401, "auth_missing"),
        (vec![("x_api_key", "k-1")], 401, "auth_missing"),
        (vec![], 401, "auth_missing"),
    ] {
        let mut request = request("/?x-api-key=k-1&key=k-1", &fields);
        let challenge = if status == 401 { "ApiKey realm=\"aralez\"" } else { "" };
        assert_eq!(door.knock(&auth, &mut request).await, (status, reason, challenge.to_owned()), "{fields:?}");
        assert_eq!(request.headers.contains_key("x-api-key"), status != 200 && fields.iter().any(|(name, _)| *name == "x-api-key"));
    }
    let none = Auth { kind: AuthKind::ApiKey(Vec::new()), ..auth };
    assert_eq!(door.knock(&none, &mut request("/", &[("x-api-key", "k-1")])).await.0, 401);
}

fn token(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

fn in_an_hour() -> u64 {
    jsonwebtoken::get_current_timestamp() + 3600
}

#[tokio::test]
async fn a_token_is_taken_from_the_header_and_then_from_the_url_and_never_passed_on_there() {
    let door = Door::new();
    let auth = jwt();
    let good = token(&json!({"exp": in_an_hour(), "sub": "anna"}));
    let bad = token(&json!({"exp": in_an_hour(), "sub": "anna"})) + "x";
    for (target, field, status, left) in [
        ("/p?a=1".to_owned(), format!("Bearer {good}"), 200, "/p?a=1"),
        ("/p".to_owned(), format!("bEARER {good}"), 200, "/p"),
        (format!("/p?araleztoken={good}"), String::new(), 200, "/p"),
        (format!("/p?a=%41&araleztoken={good}&b"), "Basic eDp5".to_owned(), 200, "/p?a=%41&b"),
        (format!("/p?%61raleztoken={good}"), String::new(), 200, "/p"),
        (format!("/p?araleztoken={bad}"), format!("Bearer {good}"), 200, "/p"),
        (format!("/p?araleztoken={good}"), format!("Bearer {bad}"), 401, ""),
        (format!("/p?araleztoken={good}&araleztoken={good}"), String::new(), 401, ""),
        (format!("/p?araleztoken={bad}"), String::new(), 401, ""),
        ("/p?araleztoken=".to_owned(), String::new(), 401, ""),
        (format!("/p?token={good}"), String::new(), 401, ""),
        ("/p".to_owned(), format!("Token {good}"), 401, ""),
        ("/p".to_owned(), good.clone(), 401, ""),
    ] {
        let mut request = request(&target, &[("authorization", &field)]);
        assert_eq!(door.knock(&auth, &mut request).await.0, status, "{target} {field}");
        if status == 200 {
            assert_eq!(request.uri.path_and_query().unwrap(), left);
            assert!(!request.headers.contains_key(AUTHORIZATION));
        }
    }
    let bearer = format!("Bearer {good}");
    let mut twice = request("/", &[("authorization", &bearer), ("authorization", &bearer)]);
    assert_eq!(door.knock(&auth, &mut twice).await.1, "auth_ambiguous");
    let verified = door.admit(&auth, &mut request("/", &[("authorization", &bearer)])).await.unwrap();
    assert_eq!(verified.claims("shop").unwrap()["sub"], "anna");
}

#[tokio::test]
async fn a_refused_token_is_answered_as_rfc_6750_says() {
    let door = Door::new();
    let auth = jwt();
    let now = in_an_hour() - 3600;
    let knock = async |token: &str| {
        let field = format!("Bearer {token}");
        door.knock(&auth, &mut request("/", &[("authorization", &field)])).await
    };
    let none = door.knock(&auth, &mut request("/", &[])).await;
    assert_eq!(none, (401, "auth_missing", "Bearer realm=\"aralez\"".to_owned()));
    for (claims, reason, words) in [
        (json!({"exp": now - 31}), "auth_expired", "has expired"),
        (json!({"exp": now + 60, "nbf": now + 45}), "auth_expired", "not valid yet"),
        (json!({"exp": now + 60, "nbf": now + 20}), "", ""),
        (json!({"exp": now - 5}), "", ""),
        (json!({"exp": f64::from(u32::MAX) + 0.5}), "", ""),
        (json!({"sub": "anna"}), "auth_failed", "never expires"),
        (json!({"exp": null}), "auth_failed", "not valid"),
        (json!({"exp": (now + 60).to_string()}), "auth_failed", "not valid"),
        (json!({"exp": [now + 60]}), "auth_failed", "not valid"),
        (json!({"exp": -1}), "auth_expired", "has expired"),
        (json!({"exp": now + 60, "nbf": "0"}), "auth_failed", "not valid"),
        (json!({"exp": now + 60, "nbf": 1e30}), "auth_expired", "not valid yet"),
        (json!(["exp"]), "auth_failed", "never expires"),
    ] {
        let (status, answered, challenge) = knock(&token(&claims)).await;
        assert_eq!((status, answered), (if reason.is_empty() { 200 } else { 401 }, reason), "{claims} {challenge}");
        let description =
            reason.is_empty() || challenge.starts_with("Bearer realm=\"aralez\", error=\"invalid_token\", error_description=\"");
        assert!(description && challenge.contains(words), "{claims}: {challenge}");
    }
    let header = |text: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    let good = token(&json!({"exp": now + 60}));
    let claims = good.split('.').nth(1).unwrap();
    for forged in [
        format!("{}.{claims}.", header(r#"{"alg":"none"}"#)),
        format!("{}.{claims}.", header(r#"{"alg":"nOnE"}"#)),
        format!("{}.{claims}.{}", header(r#"{"alg":"HS256","alg":"none"}"#), header("x")),
        format!("{}.{claims}.{}", header(r#"{"alg":"ES256"}"#), header(&"\0".repeat(64))),
        format!("{}.{claims}.{}", header(r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#), header("x")),
        format!("{}.{claims}.{}", header(r#"{"alg":"HS256","jku":"http://127.0.0.1:1/"}"#), header("x")),
        format!("{}.{claims}.{}", header(r#"{"alg":"HS256","kid":"../../dev/null"}"#), header("x")),
        "A".repeat(100 << 10),
        ".".repeat(10_000),
        format!("{good}.{good}"),
    ] {
        let (status, reason, challenge) = knock(&forged).await;
        assert_eq!((status, reason), (401, "auth_failed"), "{challenge}");
        assert!(!challenge.contains(claims), "{challenge}");
    }
}

#[tokio::test]
async fn issuer_and_keys_decide_before_anything_else() {
    let mut door = Door::new();
    let auth = jwt();
    let field = format!("Bearer {}", token(&json!({"exp": in_an_hour(), "iss": "https://us.example"})));
    let asked = [("authorization", field.as_str())];
    for (issuer, status) in [("https://us.example", 200), ("https://them.example", 401), ("", 200)] {
        door.ingress.providers = Arc::new([(Arc::from("shop"), provider(issuer))].into());
        assert_eq!(door.knock(&auth, &mut request("/", &asked)).await.0, status, "{issuer}");
    }
    let without = Provider { keys: Err("connection refused".into()), ..(*provider("")).clone() };
    door.ingress.providers = Arc::new([(Arc::from("shop"), Arc::new(without))].into());
    let (status, reason, challenge) = door.knock(&auth, &mut request("/", &asked)).await;
    assert_eq!((status, reason), (401, "auth_no_keys"));
    assert!(!challenge.contains("refused"), "{challenge}");
    door.ingress.providers = Arc::default();
    assert_eq!(door.knock(&auth, &mut request("/", &asked)).await.0, 503);
}

#[tokio::test]
async fn after_too_many_failures_nothing_is_looked_at_but_who_stood_lately() {
    let door = Door::new();
    let keys = Auth { failures: Some(3), ..auth(AuthKind::ApiKey(["k-1", "k-2"].map(Secret::new).into())) };
    let knock = async |auth: &Auth, key: &str| door.knock(auth, &mut request("/", &[("x-api-key", key)])).await;
    assert_eq!(knock(&keys, "k-1").await.0, 200);
    for _ in 0..10 {
        assert_eq!(door.knock(&keys, &mut request("/", &[])).await.0, 401, "who shows nothing has not failed");
    }
    for _ in 0..3 {
        assert_eq!(knock(&keys, "wrong").await.0, 401);
    }
    let (status, reason, seconds) = knock(&keys, "k-2").await;
    assert_eq!((status, reason), (429, "auth_blocked"));
    assert!((1..=60).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
    assert_eq!(knock(&keys, "k-1").await.0, 200, "a neighbour who was let in before");
    assert_eq!(knock(&Auth { scope: "other".into(), ..keys.clone() }, "k-2").await.0, 200);
    assert_eq!(knock(&Auth { failures: None, ..keys }, "k-2").await.0, 200);
}

#[test]
fn a_logged_target_has_no_token() {
    let without = |target: &str| jwt::without_token(&target.parse().unwrap());
    assert_eq!(without("/p?a=1&araleztoken=x.y.z&b").as_deref(), Some("/p?a=1&b"));
    assert_eq!(without("http://host/p?arale%7atoken=x").as_deref(), Some("/p"));
    assert_eq!(without("/p?a=araleztoken"), None);
}
