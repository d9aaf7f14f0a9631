//! The public program of this name has twenty weaknesses that were seen by running it; ours has none of them. A test each, by its number; that of the
//! tenth, Consul, is with the real agent: `ingress_consul` of the mesh tests.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use aralez_integration::{
    apps::{App, head_echo, http_echo},
    clients,
    net::Listener,
    process::Signal,
    wait::eventually,
    web_pki::{self, WebCa},
};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Edge, MASTER_KEY, Setup, request};
use crate::support::sidecar::aralez;

const SOON: Duration = Duration::from_secs(20);

/// One host for every name, with these paths.
fn paths(paths: &str) -> String {
    format!("provider: file\nupstreams:\n  DEFAULT:\n    paths:\n{paths}")
}

/// `servers: [...]` of one app, which is not probed: its requests are counted.
fn servers(app: &App) -> String {
    format!("servers: ['{}'], healthcheck: false", app.address)
}

async fn status_with(edge: &Edge, path: &str, fields: &[(&str, &str)]) -> u16 {
    edge.send(request(Method::GET, "any.test", path, fields)).await.status.as_u16()
}

#[tokio::test]
async fn h01_a_sticky_cookie_selects_a_server_and_no_policy() {
    let app = http_echo("app").await.unwrap();
    let server = servers(&app);
    let open =
        format!("      /open: {{{server}}}\n      /secret: {{{server}, rate_limit: 1, authorization: {{type: apikey, creds: k-1}}}}\n");
    let edge = Edge::start(&format!("sticky_sessions: true\n{}", paths(&open))).await;
    let cookie = edge.get("any.test", "/open").await.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(status_with(&edge, "/open", &[("cookie", &cookie)]).await, 200);
    assert_eq!(status_with(&edge, "/secret", &[("cookie", &cookie)]).await, 401);
    assert_eq!(app.requests(), 2);
}

/// An auth server that answers each request on one kept-alive connection with these bytes.
async fn auth_server(answer: &'static str) -> String {
    let (listener, address) = Listener::loopback().await.unwrap();
    tokio::spawn(async move {
        while let Ok(mut stream) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    format!("http://{address}/check")
}

#[tokio::test]
async fn h02_a_request_that_the_auth_server_redirects_never_reaches_the_server() {
    let app = http_echo("app").await.unwrap();
    let auth = auth_server("HTTP/1.1 302 Found\r\nlocation: https://login.test/\r\ncontent-length: 0\r\n\r\n").await;
    let edge = Edge::start(&paths(&format!("      /: {{{}, authorization: {{type: forward, creds: '{auth}'}}}}\n", servers(&app)))).await;
    let mut post = request(Method::POST, "any.test", "/", &[]);
    *post.body_mut() = "secret=1".into();
    let answer = edge.send(post).await;
    assert_eq!((answer.status.as_u16(), answer.headers["location"].to_str().unwrap()), (302, "https://login.test/"));
    assert_eq!((app.requests(), app.connections()), (0, 0));
}

#[tokio::test]
async fn h03_the_body_of_an_auth_answer_is_never_taken_for_another_answer() {
    let app = http_echo("app").await.unwrap();
    // A refusal whose body looks like an approval.
    let auth = auth_server("HTTP/1.1 403 Forbidden\r\ncontent-length: 38\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let edge = Edge::start(&paths(&format!("      /: {{{}, authorization: {{type: forward, creds: '{auth}'}}}}\n", servers(&app)))).await;
    for _ in 0..8 {
        assert_eq!(edge.get("any.test", "/").await.status, 403);
    }
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn h04_nobody_without_the_key_changes_anything() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&paths(&format!("      /: {{{}}}\n", servers(&app)))).await;
    for target in ["/conf", "/conf?key=wrong", "/conf?save"] {
        let answer = clients::post(&edge.api, target, "upstreams: {}\n").await.unwrap();
        assert!([401, 403].contains(&answer.status.as_u16()), "{target}: {}", answer.status);
    }
    assert_eq!(edge.get("any.test", "/").await.status, 200);
    let setup = Setup::new("");
    let itself = paths(&format!("      /: {{servers: ['{}']}}\n", setup.api()));
    let told = setup.file("upstreams.yaml", itself).refused();
    assert!(told.contains("upstreams.yaml:5:") && told.contains("allow_api"), "{told}");
}

#[tokio::test]
async fn h05_a_name_that_does_not_resolve_costs_its_own_route_alone() {
    let app = http_echo("app").await.unwrap();
    let server = servers(&app);
    let table = format!(
        "      /: {{{server}}}\n      /gone: {{servers: ['no-such-host.invalid:80'], healthcheck: false}}\n      /v6: {{servers: ['[::1]:1'], healthcheck: false}}\n"
    );
    let mut edge = Edge::start(&paths(&table)).await;
    for (path, status) in [("/gone", 503), ("/v6", 503), ("/", 200)] {
        assert_eq!(edge.get("any.test", path).await.status, status, "{path}");
    }
    edge.aralez.assert_alive().await;
}

#[tokio::test]
async fn h06_neither_spelling_nor_a_dead_server_leads_around_the_policy_of_a_path() {
    let app = http_echo("app").await.unwrap();
    let server = servers(&app);
    let table = format!(
        "      /: {{{server}}}\n      /key: {{{server}, authorization: {{type: apikey, creds: k-1}}}}\n      /dead: {{servers: ['127.0.0.1:1'], authorization: {{type: apikey, creds: k-1}}}}\n"
    );
    let edge = Edge::start(&paths(&table)).await;
    for path in ["/key", "//key", "/./key", "/x/../key", "/%6bey", "/key/", "///key//x", "/dead", "//dead"] {
        assert_eq!(edge.get("any.test", path).await.status, 401, "{path}");
    }
    assert_eq!(status_with(&edge, "/dead", &[("x-api-key", "k-1")]).await, 503);
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn h07_nothing_that_comes_from_outside_ends_the_process() {
    let (ca, app) = (WebCa::new(), http_echo("app").await.unwrap());
    let pair = ca.issue(&["any.test"]);
    let setup = Setup::new(&paths(&format!("      /: {{{}}}\n", servers(&app)))).tls();
    let mut edge = setup.file("certs/any.crt", pair.crt).file("certs/any.key", pair.key).start().await;
    let body = format!("{{\"master_key\": \"{MASTER_KEY}\", \"owner\": \"me\", \"exp\": {}}}", u64::MAX);
    let answer = clients::post(&edge.api, "/jwt", body).await.unwrap();
    assert!(answer.status.is_client_error(), "{}", answer.status);
    fs::remove_file(edge.path("certs/any.crt")).unwrap();
    fs::remove_file(edge.path("certs/any.key")).unwrap();
    edge.aralez.signal(Signal::HUP);
    edge.aralez.logged("the last certificate was removed", SOON).await;
    edge.aralez.assert_alive().await;
    web_pki::shown(&edge.tls, "any.test").await.expect("the last certificate is still served");
}

#[tokio::test]
async fn h08_the_grade_holds_for_every_name_and_servers_are_verified() {
    let ca = WebCa::new();
    let app = web_pki::https_app(&ca.issue(&["127.0.0.1"])).await;
    let table = format!("      /: {{servers: ['https://{app}']}}\n      /lax: {{servers: ['https://{app}'], tls_verify: false}}\n");
    let pair = ca.issue(&["any.test"]);
    let setup = Setup::new(&paths(&table)).tls().main("proxy_tls_grade: high");
    let edge = setup.file("certs/any.crt", pair.crt).file("certs/any.key", pair.key).start().await;
    for name in [Some("any.test"), None] {
        for suite in ["AES128-SHA", "AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA"] {
            assert!(web_pki::handshake(&edge.tls, name, suite).await.is_err(), "{suite} for {name:?}");
        }
        web_pki::handshake(&edge.tls, name, "ECDHE-ECDSA-AES256-GCM-SHA384").await.unwrap();
    }
    assert_eq!((edge.get("x", "/").await.status.as_u16(), edge.get("x", "/lax").await.status.as_u16()), (503, 200));
}

#[tokio::test]
async fn h09_no_reload_is_lost_and_the_check_reads_everything() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let table = |app: &App| paths(&format!("      /: {{{}}}\n", servers(app)));
    let edge = Edge::start(&table(&one)).await;
    let serves = async |name: &str| {
        eventually(name, SOON, async || {
            let answer = edge.get("any.test", "/").await;
            ensure!(answer.headers["x-app"] == *name, "still the other");
            Ok(())
        })
        .await
        .unwrap();
    };
    fs::write(edge.path("upstreams.yaml"), table(&two)).unwrap();
    fs::write(edge.path("upstreams.yaml"), table(&one)).unwrap();
    fs::write(edge.path("upstreams.yaml"), table(&two)).unwrap();
    serves("two").await;
    fs::write(edge.path("elsewhere"), table(&one)).unwrap();
    fs::rename(edge.path("elsewhere"), edge.path("upstreams.yaml")).unwrap();
    serves("one").await;
    fs::write(edge.path("upstreams.yaml"), "upstreams:\n  a.test:\n    paths:\n      /: {servers: ['127.0.0.1:1'], rate_limt: 1}\n")
        .unwrap();
    let checked = aralez().arg("-c").arg(edge.path("main.yaml")).arg("-t").output().unwrap();
    let told = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.code() == Some(2) && told.contains("upstreams.yaml:4:") && told.contains("rate_limit"), "{told}");
    serves("one").await;
}

#[tokio::test]
async fn h11_termination_drains_and_a_hangup_reloads() {
    let app = http_echo("app").await.unwrap();
    let mut edge = Edge::start(&paths(&format!("      /: {{{}}}\n", servers(&app)))).await;
    edge.aralez.signal(Signal::HUP);
    edge.aralez.assert_alive().await;
    let http = edge.http.clone();
    let slow = tokio::spawn(async move { clients::get(&http, "/slow?ms=1500").await });
    eventually("the request in flight", SOON, async || {
        ensure!(app.requests() >= 1, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    edge.aralez.signal(Signal::TERM);
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    assert!(edge.aralez.exit(SOON).await.success());
}

#[tokio::test]
async fn h12_a_limit_is_that_of_its_route() {
    let app = http_echo("app").await.unwrap();
    let server = servers(&app);
    let edge = Edge::start(&paths(&format!(
        "      /: {{{server}}}\n      /few: {{{server}, rate_limit: 1}}\n      /many: {{{server}, rate_limit: 100}}\n"
    )))
    .await;
    for _ in 0..20 {
        assert_eq!(edge.get("any.test", "/many").await.status, 200);
    }
    assert_eq!(edge.get("any.test", "/few").await.status, 200);
    let refused = edge.get("any.test", "/few").await;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after") && refused.headers.contains_key("x-rate-limit-limit"));
    assert_eq!((edge.get("any.test", "/many").await.status.as_u16(), edge.get("any.test", "/").await.status.as_u16()), (200, 200));
}

#[tokio::test]
async fn h13_issued_tokens_are_accepted_and_do_not_travel_on() {
    let app = head_echo("app").await.unwrap();
    let table = format!("      /: {{{}, authorization: {{type: jwt, creds: '{MASTER_KEY}'}}}}\n", servers(&app));
    let edge = Edge::start(&paths(&table)).await;
    for minutes in ["valid", "exp"] {
        let body = serde_json::json!({"master_key": MASTER_KEY, "owner": "me", minutes: 5}).to_string();
        let mut post = request(Method::POST, "localhost", "/jwt", &[("content-type", "application/json")]);
        *post.body_mut() = body.into();
        let answer = clients::once(&edge.api, post).await.unwrap();
        let token: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let token = token["token"].as_str().context(answer.text()).unwrap();
        assert_eq!(status_with(&edge, "/", &[("authorization", &format!("Bearer {token}"))]).await, 200, "{minutes}");
        let answer = edge.get("any.test", &format!("/x?a=1&araleztoken={token}")).await;
        let head = answer.headers["x-head"].to_str().unwrap();
        assert!(answer.status == 200 && head.contains("/x?a=1") && !head.contains(token), "{head}");
    }
    assert_eq!(edge.get("any.test", "/").await.status, 401);
}

#[tokio::test]
async fn h14_a_client_cannot_speak_for_others() {
    let app = head_echo("app").await.unwrap();
    let edge = Edge::start(&paths(&format!("      /: {{{}}}\n", servers(&app)))).await;
    let forged = [("x-forwarded-for", "6.6.6.6"), ("x-real-ip", "6.6.6.6"), ("x-forwarded-proto", "https"), ("forwarded", "for=6.6.6.6")];
    let answer = edge.send(request(Method::GET, "any.test", "/", &forged)).await;
    let head = answer.headers["x-head"].to_str().unwrap().to_lowercase();
    assert!(
        !head.contains("6.6.6.6") && head.contains("x-forwarded-for: 127.0.0.1") && head.contains("x-forwarded-proto: http |"),
        "{head}"
    );
}

#[tokio::test]
async fn h17_there_is_no_way_to_order_certificates_from_outside() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&paths(&format!("      /: {{{}}}\n", servers(&app)))).await;
    for path in ["/acme_create", "/acme_order/..%2f..%2fevil", "/acme_order/any.test"] {
        let answer = clients::get(&edge.api, path).await.unwrap();
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn h15_a_server_that_hangs_is_no_healthy_one_and_redirects_are_not_followed() {
    let (hung, well, away) = (Listener::loopback().await.unwrap(), http_echo("well").await.unwrap(), http_echo("away").await.unwrap());
    well.answer_text("ok");
    away.answer_always(302);
    let table = format!(
        "      /: {{servers: ['http://{}', 'http://{}'], healthcheck: {{interval: 200ms, timeout: 1s, unhealthy_after: 1}}}}\n      /away: {{servers: ['http://{}'], healthcheck: {{interval: 200ms, expect: 200, unhealthy_after: 1}}}}\n",
        hung.1, well.address, away.address
    );
    let edge = Edge::start(&paths(&table)).await;
    eventually("the hung server and the redirecting one to be left out", SOON, async || {
        let metrics = edge.aralez.admin("/metrics").await?.text();
        let sick = |server: &str| {
            metrics.lines().any(|line| line.starts_with("aralez_server_healthy") && line.contains(server) && line.ends_with(" 0"))
        };
        ensure!(sick(&hung.1.to_string()) && sick(&away.address.to_string()), "{metrics}");
        Ok(())
    })
    .await
    .unwrap();
    for _ in 0..6 {
        assert_eq!(edge.get("any.test", "/").await.headers["x-app"], "well");
    }
    assert_eq!(edge.get("any.test", "/away").await.status, 503);
}

#[tokio::test]
async fn h16_no_client_makes_series_and_the_log_tells_time_and_server() {
    let app = http_echo("app").await.unwrap();
    let setup = Setup::new(&paths(&format!("      /: {{{}}}\n", servers(&app)))).main("access_log: access.log");
    let edge = setup.start().await;
    for method in ["GET", "ZZZ1", "ZZZ2", "BREW"] {
        edge.send(request(Method::from_bytes(method.as_bytes()).unwrap(), "any.test", "/", &[])).await;
    }
    let metrics = edge.aralez.admin("/metrics").await.unwrap().text();
    assert!(!metrics.contains("ZZZ") && !metrics.contains("BREW"), "{metrics}");
    let line = eventually("a line of the access log", SOON, async || {
        let log = fs::read_to_string(edge.path("access.log"))?;
        log.lines().next().map(str::to_owned).context("none yet")
    })
    .await
    .unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for key in ["duration", "request_id", "upstream_host", "response_code", "bytes_sent"] {
        assert!(!line[key].is_null(), "{key} in {line}");
    }
}

#[test]
fn h18_every_change_is_tested() {
    let ci = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run");
    let steps = fs::read_to_string(ci).unwrap();
    assert!(steps.contains("cargo test --workspace") && steps.contains("cargo clippy"), "{steps}");
}

#[tokio::test]
async fn h19_what_is_claimed_holds() {
    let app = head_echo("app").await.unwrap();
    let oldest = format!(
        "provider: file\nheaders: ['X-Everywhere: yes']\nany.test:\n  paths:\n    /: {{{0}}}\n    /own: {{{0}, headers: ['X-Own: 1']}}\n",
        servers(&app)
    );
    let edge = Edge::start(&oldest).await;
    let own = edge.get("any.test", "/own").await;
    assert_eq!(
        (&own.headers["x-everywhere"], &own.headers["x-own"]),
        (&"yes".parse().unwrap(), &"1".parse().unwrap()),
        "global headers are on all paths"
    );
    let pushed = clients::post(&edge.api, "/conf", "upstreams: {}\n").await.unwrap();
    assert_eq!(pushed.status, 403, "the key is needed");
}

#[tokio::test]
async fn h20_what_was_not_there_at_all_is_there() {
    let app = head_echo("app").await.unwrap();
    let slow = http_echo("slow").await.unwrap();
    let table = format!(
        "      /: {{{0}, deny: ['127.0.0.0/8']}}\n      /strip: {{{0}, strip_prefix: true}}\n      /big: {{{0}, body_limit: 10}}\n      /slow: {{{1}, timeout: 200ms}}\n",
        servers(&app),
        servers(&slow)
    );
    let edge = Edge::start(&paths(&table)).await;
    assert_eq!(edge.get("any.test", "/").await.status, 403, "addresses are allowed and denied");
    let stripped = edge.get("any.test", "/strip/x?y").await;
    let head = stripped.headers["x-head"].to_str().unwrap().to_lowercase();
    assert!(head.contains("get /x?y ") && head.contains("x-request-id: "), "paths are rewritten, requests have ids: {head}");
    let mut big = request(Method::POST, "any.test", "/big", &[]);
    *big.body_mut() = "more than ten bytes".into();
    assert_eq!(edge.send(big).await.status, 413, "bodies are limited");
    assert_eq!(edge.get("any.test", "/slow?ms=5000").await.status, 504, "there are timeouts");
}
