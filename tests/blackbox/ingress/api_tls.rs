//! The configuration API on `config_tls_address`.

use std::{fs, time::Duration};

use aralez_integration::{
    apps::{self, App},
    net::Address,
    wait::eventually,
    web_pki::{self, Pair, WebCa},
};
use openssl::{ssl::SslVerifyMode, x509::X509};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Edge, MASTER_KEY, Setup};

const SOON: Duration = Duration::from_secs(20);

fn routes(app: &App) -> String {
    format!("provider: file\nupstreams:\n  shop.test:\n    paths:\n      /: {{servers: ['http://{}'], healthcheck: false}}\n", app.address)
}

fn secured(setup: Setup, pair: &Pair) -> Setup {
    let address = setup.api();
    let lines = format!("config_tls_address: {address}\nconfig_tls_certificate: api/api.crt\nconfig_tls_key_file: api/api.key");
    setup.replace_main(&format!("config_address: {address}"), &lines).file("api/api.crt", &pair.crt).file("api/api.key", &pair.key)
}

/// What comes back over TLS from a server that `ca` vouches for.
async fn call(api: &Address, ca: &WebCa, request: &str, fields: &str, body: &str) -> anyhow::Result<String> {
    let root = X509::from_pem(ca.root_pem().as_bytes())?;
    let mut stream = web_pki::secure(api, Some("localhost"), |context| {
        context.set_verify(SslVerifyMode::PEER);
        Ok(context.cert_store_mut().add_cert(root)?)
    })
    .await?;
    let length = body.len();
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn configuration_is_pushed_over_tls_and_over_nothing_else() {
    let (ca, one, other) = (WebCa::new(), apps::http_echo("one").await.unwrap(), apps::http_echo("other").await.unwrap());
    let edge = secured(Setup::new(&routes(&one)), &ca.issue(&["localhost"])).start().await;
    let post = async |path: &str, fields: &str, body: &str| call(&edge.api, &ca, &format!("POST {path}"), fields, body).await.unwrap();
    let key = format!("Authorization: Bearer {MASTER_KEY}\r\n");
    for (path, fields, expected) in [
        ("/conf", "", "403"),
        ("/conf", "x-api-key: no\r\n", "403"),
        ("/conf", "Authorization: Bearer no\r\n", "403"),
        ("/conf?key=no", "", "403"),
        ("/conf?dry_run", &*key, "200"),
    ] {
        let answer = post(path, fields, &routes(&other)).await;
        assert_eq!(status(&answer), expected, "{path} {fields}: {answer}");
    }
    assert_eq!(edge.get("shop.test", "/").await.headers["x-app"], "one");

    // The same in clear: the key is right, the wire is not.
    let mut clear = edge.api.connect().await.unwrap();
    let text = routes(&other);
    let request = format!("POST /conf HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: {}\r\n\r\n{text}", text.len());
    clear.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(edge.get("shop.test", "/").await.headers["x-app"], "one");

    for (n, path) in ["/conf".to_owned(), format!("/conf?key={MASTER_KEY}")].iter().enumerate() {
        let (app, name) = if n == 0 { (&other, "other") } else { (&one, "one") };
        let answer = post(path, if n == 0 { &key } else { "" }, &routes(app)).await;
        assert_eq!(status(&answer), "200", "{answer}");
        assert_eq!(edge.get("shop.test", "/").await.headers["x-app"], name);
    }
    let token =
        post("/jwt", "Content-Type: application/json\r\n", &format!(r#"{{"master_key":"{MASTER_KEY}","owner":"me","valid":5}}"#)).await;
    assert!(status(&token) == "201" && token.contains("\"token\""), "{token}");
    assert!(!edge.aralez.log().contains(MASTER_KEY));
}

#[tokio::test]
async fn its_certificate_is_followed_and_a_bad_one_leaves_the_last() {
    let (ca, app) = (WebCa::new(), apps::http_echo("app").await.unwrap());
    let edge: Edge = secured(Setup::new(&routes(&app)), &ca.issue(&["localhost"])).start().await;
    let next = ca.issue(&["localhost"]);
    for (name, text) in [("api.crt", &next.crt), ("api.key", &next.key)] {
        fs::write(edge.path("api").join(name), text).unwrap();
    }
    let wanted = X509::from_pem(next.crt.as_bytes()).unwrap().to_der().unwrap();
    let is_next = async || {
        let shown = web_pki::shown(&edge.api, "localhost").await?.to_der()?;
        anyhow::ensure!(shown == wanted, "the old one is shown");
        Ok(())
    };
    eventually("the next certificate", SOON, is_next).await.unwrap();
    fs::write(edge.path("api/api.key"), "no key").unwrap();
    eventually("the fault in the log", SOON, async || {
        anyhow::ensure!(edge.aralez.log().contains("api.key"), "{}", edge.aralez.log());
        Ok(())
    })
    .await
    .unwrap();
    is_next().await.unwrap();
}

#[test]
fn half_of_its_settings_or_a_pair_of_two_halves_is_refused() {
    let (ca, routes) = (WebCa::new(), "provider: file\nupstreams: {}\n");
    let (pair, other) = (ca.issue(&["localhost"]), ca.issue(&["localhost"]));
    let setup = || secured(Setup::new(routes), &pair);
    for (setup, words) in [
        (setup().replace_main("config_tls_certificate: api/api.crt\n", ""), "config_tls_certificate"),
        (setup().replace_main("config_tls_key_file: api/api.key\n", ""), "config_tls_key_file"),
        (setup().replace_main("api.crt", "gone.crt"), "gone.crt"),
        (setup().file("api/api.key", &other.key), "api.key"),
        (setup().file("api/api.crt", "nothing"), "api.crt"),
    ] {
        let told = setup.refused();
        assert!(told.contains(words), "{words}: {told}");
    }
}
