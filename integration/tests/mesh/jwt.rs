//! Intentions that ask for a token. Default policy deny: only there Consul's rules make sense of tokens (contract §3.6).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use aralez_integration::apps;
use aralez_integration::clients::{self, Response, request};
use aralez_integration::consul::{Agent, Options};
use aralez_integration::net::Address;
use aralez_integration::registration::Upstream;
use aralez_integration::tokens::Issuer;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::scene::{PATIENCE, all_hold};

const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "mesh";

/// `web` calls `db` on an agent with default deny.
struct Scene {
    fleet: Fleet,
    db: String,
    web: String,
    upstream: Address,
}

impl Scene {
    async fn start() -> Self {
        let options = Options { config: json!({"default_intention_policy": "deny"}), ..Options::default() };
        let mut fleet = Fleet::on(Arc::new(Agent::start(options).await.unwrap()));
        let db = fleet.service("db", "http").await;
        fleet.run(&db, "db").await;
        let (web, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
        Self { fleet, db, web, upstream }
    }

    /// Writes the provider `idp`.
    async fn provider(&self, key_set: Value, mut more: Value) {
        more["Issuer"] = json!(ISSUER);
        more["Audiences"] = json!([AUDIENCE]);
        more["JSONWebKeySet"] = key_set;
        self.fleet.entry("jwt-provider", "idp", more).await;
    }

    /// Writes the intentions of `db`: the fields of the one source `web`, and the requirement of the whole entry.
    async fn intentions(&self, mut source: Value, jwt: Value) {
        source["Name"] = json!(self.web);
        self.fleet.entry("service-intentions", &self.db, json!({"Sources": [source], "JWT": jwt})).await;
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Result<Response> {
        let mut request = request(Method::GET, path, "")?;
        if let Some(token) = token {
            request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
        }
        clients::once(&self.upstream, request).await
    }

    async fn answers(&self, path: &str, token: Option<&str>, status: u16) -> Result<()> {
        let answer = self.get(path, token).await?;
        ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
        ensure!(status != 403 || answer.text() == "RBAC: access denied", "{}", answer.text());
        Ok(())
    }
}

/// The provider `idp`, with a claim that must hold.
fn required(role: &str) -> Value {
    json!({"Providers": [{"Name": "idp", "VerifyClaims": [{"Path": ["perms", "role"], "Value": role}]}]})
}

/// Seconds since the epoch, `from_now` seconds ahead.
fn at(from_now: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + from_now
}

/// Claims that stand, with the given role, changed by `more`.
fn claims(role: Value, more: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "exp": at(600), "perms": {"role": role}});
    for (key, value) in more.as_object().unwrap() {
        claims[key] = value.clone();
    }
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_asks_for_a_token() {
    let (issuer, stranger) = (Issuer::new("one").unwrap(), Issuer::new("one").unwrap());
    let scene = Scene::start().await;
    scene.provider(issuer.local_key_set().unwrap(), json!({"ClockSkewSeconds": 5})).await;
    scene.intentions(json!({"Action": "allow"}), required("admin")).await;
    let sign = |role: Value, more: Value| issuer.sign(&claims(role, more)).unwrap();
    let good = sign(json!("admin"), json!({}));
    eventually("200 with a good token", PATIENCE, async || scene.answers("/", Some(&good), 200).await).await.unwrap();

    let mut broken = good.clone();
    broken.replace_range(good.len() - 8..good.len() - 4, "AAAA");
    let table = [
        ("no token", None, 403),
        ("a good one", Some(good.clone()), 200),
        ("a list that holds the value", Some(sign(json!(["guest", "admin"]), json!({}))), 200),
        ("an audience among others", Some(sign(json!("admin"), json!({"aud": ["web", AUDIENCE]}))), 200),
        ("a broken signature", Some(broken), 403),
        ("a wrong claim", Some(sign(json!("guest"), json!({}))), 403),
        ("no such claim", Some(sign(Value::Null, json!({}))), 403),
        ("a foreign key", Some(stranger.sign(&claims(json!("admin"), json!({}))).unwrap()), 403),
        ("a foreign issuer", Some(sign(json!("admin"), json!({"iss": "https://other.example"}))), 403),
        ("a foreign audience", Some(sign(json!("admin"), json!({"aud": "web"}))), 403),
        ("an expired one", Some(sign(json!("admin"), json!({"exp": at(-60)}))), 403),
        ("one for later", Some(sign(json!("admin"), json!({"nbf": at(120)}))), 403),
        ("no token at all", Some("none".into()), 403),
    ];
    let mut rows = Vec::new();
    for (what, token, status) in table {
        rows.push((what.to_owned(), scene.answers("/", token.as_deref(), status).await));
    }
    let by_query = scene.answers(&format!("/?access_token={good}"), None, 200).await;
    rows.push(("in the query".into(), by_query));
    all_hold(rows).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_asks_for_a_token() {
    let issuer = Issuer::new("one").unwrap();
    let scene = Scene::start().await;
    scene.provider(issuer.local_key_set().unwrap(), json!({})).await;
    let permissions = json!([
        {"Action": "allow", "HTTP": {"PathPrefix": "/admin"}, "JWT": required("admin")},
        {"Action": "allow", "HTTP": {"PathPrefix": "/public"}},
    ]);
    scene.intentions(json!({"Permissions": permissions}), Value::Null).await;
    let admin = issuer.sign(&claims(json!("admin"), json!({}))).unwrap();
    let guest = issuer.sign(&claims(json!("guest"), json!({}))).unwrap();
    eventually("200 with a good token", PATIENCE, async || scene.answers("/admin", Some(&admin), 200).await).await.unwrap();
    let table = [
        ("/admin", None, 403),
        ("/admin", Some(&guest), 403),
        ("/public", None, 200),
        ("/public", Some(&guest), 200),
        ("/", Some(&admin), 403),
    ];
    let mut rows = Vec::new();
    for (path, token, status) in table {
        let what = format!("{path}, a token: {}", token.is_some());
        rows.push((what, scene.answers(path, token.map(String::as_str), status).await));
    }
    all_hold(rows).unwrap();

    // On top of the entry's own requirement, which another token cannot meet.
    let sources = json!({"Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]});
    scene.intentions(sources, required("admin")).await;
    eventually("403 without a token", PATIENCE, async || scene.answers("/public", None, 403).await).await.unwrap();
    scene.answers("/public", Some(&admin), 200).await.unwrap();
    scene.answers("/public", Some(&guest), 403).await.unwrap();
}

/// A consumed token is not passed on unless the provider says so; its payload goes where the provider says.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_taken_and_payloads_forwarded() {
    let issuer = Issuer::new("one").unwrap();
    let scene = Scene::start().await;
    scene.provider(issuer.local_key_set().unwrap(), json!({"Forwarding": {"HeaderName": "x-claims"}})).await;
    scene.intentions(json!({"Action": "allow"}), json!({"Providers": [{"Name": "idp"}]})).await;
    let token = issuer.sign(&claims(json!("admin"), json!({}))).unwrap();
    let payload = token.split('.').nth(1).unwrap();
    eventually("the payload", PATIENCE, async || {
        let dump = scene.get("/debug?env=dump", Some(&token)).await?.text();
        ensure!(dump.contains(&format!("\nX-Claims: {payload}\n")), "{dump}");
        ensure!(!dump.contains("Authorization"), "{dump}");
        Ok(())
    })
    .await
    .unwrap();

    let location = json!([{"Header": {"Name": "x-token", "ValuePrefix": "Jwt ", "Forward": true}}, {"Cookie": {"Name": "token"}}]);
    scene.provider(issuer.local_key_set().unwrap(), json!({"Locations": location})).await;
    eventually("the token in its own header", PATIENCE, async || {
        for (name, value) in [("x-token", format!("Jwt {token}")), ("cookie", format!("a=b; token={token}"))] {
            let mut request = request(Method::GET, "/debug?env=dump", "")?;
            request.headers_mut().insert(name, HeaderValue::from_str(&value)?);
            let answer = clients::once(&scene.upstream, request).await?;
            ensure!(answer.status == 200, "{name}: {}", answer.status);
            ensure!(name == "cookie" || answer.text().contains(&format!("\nX-Token: Jwt {token}\n")), "{}", answer.text());
        }
        scene.answers("/", Some(&token), 403).await
    })
    .await
    .unwrap();
}

/// Remote keys are fetched, kept, and fetched again: a new key is accepted, a withdrawn one is not.
#[tokio::test(flavor = "multi_thread")]
async fn remote_keys_are_fetched_and_rotated() {
    let (old, new) = (Issuer::new("old").unwrap(), Issuer::new("new").unwrap());
    let keys = apps::http_echo("keys").await.unwrap();
    keys.answer_text(old.key_set().unwrap().to_string());
    let Address::Tcp(address) = &keys.address else { panic!("{keys:?}") };
    let remote = json!({"Remote": {"URI": format!("http://{address}/jwks.json"), "CacheDuration": "1s", "RequestTimeoutMs": 1000}});
    let scene = Scene::start().await;
    scene.provider(remote, json!({})).await;
    scene.intentions(json!({"Action": "allow"}), required("admin")).await;
    let [by_old, by_new] = [&old, &new].map(|issuer| issuer.sign(&claims(json!("admin"), json!({}))).unwrap());
    eventually("200 by the old key", PATIENCE, async || scene.answers("/", Some(&by_old), 200).await).await.unwrap();
    scene.answers("/", Some(&by_new), 403).await.unwrap();

    // The key server is down for a while: what is known holds.
    keys.answer_always(500);
    let asked = keys.requests();
    eventually("a failed fetch", PATIENCE, async || {
        scene.answers("/", Some(&by_old), 200).await?;
        ensure!(keys.requests() > asked, "not asked again");
        Ok(())
    })
    .await
    .unwrap();
    scene.answers("/", Some(&by_old), 200).await.unwrap();

    keys.answer_text(new.key_set().unwrap().to_string());
    keys.answer_always(200);
    eventually("200 by the new key", PATIENCE, async || scene.answers("/", Some(&by_new), 200).await).await.unwrap();
    scene.answers("/", Some(&by_old), 403).await.unwrap();
}
