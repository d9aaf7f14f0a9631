//! Who the client is: keys of tokens from files, certificates, and what a server is told of it.

use std::{fs, time::Duration};

use aralez_integration::{
    apps::http_echo,
    wait::eventually,
    web_pki::{self, Pair, WebCa},
};
use http::Method;
use openssl::{pkey::PKey, x509::X509};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Edge, Setup, request};
use crate::support::issuer::Issuer;

const HOST: &str = "shop.test";
const SOON: Duration = Duration::from_secs(20);

async fn show(edge: &Edge, path: &str, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    edge.send(request(Method::GET, HOST, path, &[("authorization", &bearer)])).await.status.as_u16()
}

fn signed(secret: &str, claims: Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[tokio::test]
async fn keys_are_read_from_files_beside_the_routes_and_followed() {
    let app = http_echo("app").await.unwrap();
    let server = format!("servers: ['{}'], healthcheck: false", app.address);
    let [old, new] = ["2026", "2027"].map(Issuer::new);
    let routes = format!(
        "provider: file\nupstreams:\n  {HOST}:\n    paths:\n\
         \x20     /set: {{{server}, authorization: {{type: jwt, jwks_file: keys/set.json, issuer: okta, audience: [shop, blog]}}}}\n\
         \x20     /secret: {{{server}, authorization: {{type: jwt, secret_file: keys/secret}}}}\n\
         \x20     /key: {{{server}, authorization: {{type: apikey, creds_file: keys/api}}}}\n"
    );
    let setup = Setup::new(&routes).file("keys/set.json", old.key_set()).file("keys/secret", "from a file\n");
    let edge = setup.file("keys/api", "k-1\nk-2\n").start().await;
    for (claims, status) in [
        (json!({"aud": "shop"}), 200),
        (json!({"aud": ["x", "blog"]}), 200),
        (json!({"aud": "other"}), 401),
        (json!({}), 401),
        (json!({"aud": "shop", "iss": "auth0"}), 401),
        (json!({"aud": "shop", "exp": 1_000_000_000}), 401),
        (json!({"aud": "shop", "nbf": 4_000_000_000_u64}), 401),
    ] {
        assert_eq!(show(&edge, "/set", &old.token(claims.clone())).await, status, "{claims}");
    }
    assert_eq!(show(&edge, "/set", &new.token(json!({"aud": "shop"}))).await, 401);
    let far = json!({"exp": 4_000_000_000_u64});
    for (path, token, status) in [
        ("/secret", signed("from a file", far.clone()), 200),
        ("/secret", signed("from a file\n", far.clone()), 401),
        ("/secret", old.token(json!({"aud": "shop"})), 401),
        ("/set", signed(&old.key_set(), json!({"exp": 4_000_000_000_u64, "iss": "okta", "aud": "shop"})), 401),
    ] {
        assert_eq!(show(&edge, path, &token).await, status, "{path} {token}");
    }
    let key = async |key: &str| edge.send(request(Method::GET, HOST, "/key", &[("x-api-key", key)])).await.status.as_u16();
    assert_eq!([key("k-1").await, key("k-2").await, key("k-1\tk-2").await, key("").await], [200, 200, 401, 401]);
    fs::write(edge.path("keys/set.json"), new.key_set()).unwrap();
    fs::write(edge.path("keys/api"), "k-3\n").unwrap();
    eventually("the keys that were written", SOON, async || {
        let now = [show(&edge, "/set", &new.token(json!({"aud": "shop"}))).await, key("k-3").await];
        anyhow::ensure!(now == [200, 200], "{now:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(
        [show(&edge, "/set", &old.token(json!({"aud": "shop"}))).await, key("k-1").await],
        [401, 401],
        "what was taken away is away"
    );
}

/// What comes back over TLS for a request of a path, with a certificate if there is one.
async fn over_tls(edge: &Edge, name: Option<&str>, identity: Option<&Pair>, path: &str, more: &str) -> anyhow::Result<String> {
    let mut stream = web_pki::secure(&edge.tls, name, |context| {
        if let Some(Pair { crt, key }) = identity {
            context.set_certificate(&*X509::from_pem(crt.as_bytes())?)?;
            context.set_private_key(&*PKey::private_key_from_pem(key.as_bytes())?)?;
        }
        Ok(())
    })
    .await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{more}\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn only_who_shows_a_certificate_of_ours_is_served_and_named() {
    let (ca, clients, app) = (WebCa::new(), WebCa::new(), http_echo("app").await.unwrap());
    let (pair, alice, mallory) = (ca.issue(&[HOST]), clients.issue(&["alice.test"]), WebCa::new().issue(&["alice.test"]));
    let routes = format!(
        "provider: file\nsticky_sessions: true\nupstreams:\n  {HOST}:\n    paths:\n      /: {{servers: ['{}'], healthcheck: false}}\n",
        app.address
    );
    let setup = Setup::new(&routes).tls().main("client_certificates: {ca: clients.pem}").file("clients.pem", clients.root_pem());
    let edge = setup.file("certs/shop.crt", &pair.crt).file("certs/shop.key", &pair.key).start().await;
    for name in [Some(HOST), Some("other.test"), None] {
        for identity in [None, Some(&mallory)] {
            let answer = over_tls(&edge, name, identity, "/", "").await.unwrap_or_default();
            assert_eq!(answer, "", "{name:?}: nobody else gets a byte");
        }
    }
    assert_eq!(app.requests(), 0);
    let forged = "X-Forwarded-Client-Cert: DNS=root.test\r\nX-Forwarded-For: 203.0.113.9\r\n";
    let answer = over_tls(&edge, None, Some(&alice), "/debug?env=dump", forged).await.unwrap();
    let seen = answer.to_ascii_lowercase();
    assert!(seen.starts_with("http/1.1 200 ") && seen.contains("dns=alice.test") && !seen.contains("root.test"), "{answer}");
    assert!(seen.contains("x-forwarded-proto: https") && seen.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");
    let cookie = seen.lines().find(|line| line.starts_with("set-cookie: ")).unwrap();
    assert!(["; secure", "; httponly", "; samesite="].iter().all(|attribute| cookie.contains(attribute)), "{cookie}");
}

#[tokio::test]
async fn a_balancer_in_front_names_the_client_and_its_word_reaches_the_limits() {
    let app = http_echo("app").await.unwrap();
    let routes = format!(
        "provider: file\nupstreams:\n  {HOST}:\n    paths:\n      /: {{servers: ['{}'], healthcheck: false, \
         rate_limit: {{rate: 1, burst: 1000}}, deny: [198.51.100.0/24]}}\n",
        app.address
    );
    let edge = Setup::new(&routes).main("proxy_protocol: [127.0.0.0/8]\nforwarded: true").start().await;
    let behind = async |header: &str| -> String {
        let mut stream = edge.http.connect().await.unwrap();
        let request = format!("{header}GET /debug?env=dump HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap().to_ascii_lowercase()
    };
    let first = behind("PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n").await;
    assert!(first.starts_with("http/1.1 200 ") && first.contains("x-forwarded-for: 203.0.113.7"), "{first}");
    assert!(first.lines().any(|line| line.starts_with("forwarded: ") && line.contains("203.0.113.7")), "{first}");
    let denied = behind("PROXY TCP4 198.51.100.3 192.0.2.1 4711 80\r\n").await;
    assert!(denied.starts_with("http/1.1 403 "), "{denied}");
    let left = |answer: &str| answer.lines().find_map(|line| line.strip_prefix("ratelimit-remaining: ")).unwrap().to_owned();
    let other = behind("PROXY TCP6 2001:db8:1::1 2001:db8::2 4711 80\r\n").await;
    assert_eq!((left(&first), left(&other)), ("999".into(), "999".into()), "each has a counter of its own");
    assert_eq!(behind("").await, "", "who comes without one is no balancer");
}
