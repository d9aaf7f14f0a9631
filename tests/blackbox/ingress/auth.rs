//! Who is asking: what clients, servers and auth servers see of it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aralez_integration::{
    apps::{App, http_echo},
    net::{Address, Listener},
    ports::free_port,
    wait::eventually,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::{Edge, MASTER_KEY, Setup, request};
use crate::support::issuer::{Issuer, KeyServer};

const DUMP: &str = "/debug?env=dump";
const HOST: &str = "shop.test";

/// An `upstreams.yaml` with these paths of one host; `more` is at its top level.
fn routes(more: &str, paths: &[(&str, &App, &str)]) -> String {
    let paths = paths.iter().map(|(path, app, policy)| {
        let comma = if policy.is_empty() { "" } else { ", " };
        format!("      \"{path}\": {{servers: [\"http://{}\"], healthcheck: false{comma}{policy}}}\n", app.address)
    });
    format!("provider: file\n{more}\nupstreams:\n  {HOST}:\n    paths:\n{}", paths.collect::<String>())
}

async fn status(edge: &Edge, path: &str, fields: &[(&str, &str)]) -> u16 {
    edge.send(request(Method::GET, HOST, path, fields)).await.status.as_u16()
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

fn token(secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "anna", "exp": now + 600});
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

/// H6: the path's policy wins over the global one, however the path is spelled, and a dead pool is answered by no other route.
#[tokio::test]
async fn the_policy_of_the_matched_route_holds_however_its_path_is_spelled() {
    let app = http_echo("shop").await.unwrap();
    let mut upstreams = routes(
        "authorization: {type: apikey, creds: everywhere}",
        &[("/", &app, ""), ("/key", &app, "authorization: {type: apikey, creds: k-1}")],
    );
    let dead = free_port().unwrap();
    upstreams += &format!("      \"/dead\": {{servers: [\"http://127.0.0.1:{dead}\"], authorization: {{type: apikey, creds: k-2}}}}\n");
    let edge = Edge::start(&upstreams).await;
    for (path, key, expected) in [
        ("/", "everywhere", 200),
        ("/keys", "everywhere", 200),
        ("/", "k-1", 401),
        ("/key", "k-1", 200),
        ("/dead", "k-1", 401),
        ("/dead", "everywhere", 401),
        ("/dead/x", "k-2", 503),
    ] {
        assert_eq!(status(&edge, path, &[("x-api-key", key)]).await, expected, "{path} {key}");
    }
    for path in ["/key", "//key", "/./key", "/%6bey", "/%6Bey", "/x/../key", "/key/", "/key/x", "/key?x", "/x/%2e%2e/key"] {
        assert_eq!(status(&edge, path, &[("x-api-key", "everywhere")]).await, 401, "{path}");
        assert_eq!(status(&edge, path, &[("x-api-key", "k-1")]).await, 200, "{path}");
    }
}

/// H1: a sticky cookie says which server, never which policy.
#[tokio::test]
async fn a_sticky_cookie_of_an_open_route_opens_no_other() {
    let app = http_echo("shop").await.unwrap();
    let upstreams = routes("sticky_sessions: true", &[("/", &app, ""), ("/admin", &app, "authorization: {type: apikey, creds: k-1}")]);
    let edge = Edge::start(&upstreams).await;
    let open = edge.get(HOST, "/").await;
    let cookies: Vec<_> = open.headers.get_all("set-cookie").iter().map(|c| c.to_str().unwrap().split(';').next().unwrap()).collect();
    assert!(!cookies.is_empty(), "{:?}", open.headers);
    assert_eq!(status(&edge, "/admin", &[("cookie", &cookies.join("; "))]).await, 401);
    assert_eq!(app.requests(), 1);
}

#[tokio::test]
async fn each_kind_says_what_it_wants_and_keeps_credentials_to_itself_when_told() {
    let app = http_echo("shop").await.unwrap();
    let edge = Setup::new(&routes(
        "",
        &[
            ("/basic", &app, "authorization: {type: basic, creds: \"anna:a:1\", htpasswd: users, realm: shop, strip: true}"),
            ("/seen", &app, "authorization: {type: basic, creds: \"anna:a:1\"}"),
            ("/key", &app, "authorization: {type: apikey, creds: [k-1, k-2], strip: true}"),
            ("/jwt", &app, "authorization: {type: jwt, secret: s3cret, strip: true}"),
            ("/own", &app, "authorization: {type: jwt}"),
        ],
    ))
    .file("users", "# comment\nbob:$2y$04$UuTkLRZZ6QofpDOlMz32MuuxEHA43WOemOYHPz6.SjsVsyO1tDU96\n")
    .start()
    .await;
    for (path, challenge) in
        [("/basic", "Basic realm=\"shop\", charset=\"UTF-8\""), ("/key", "ApiKey realm=\"aralez\""), ("/jwt", "Bearer realm=\"aralez\"")]
    {
        let answer = edge.get(HOST, path).await;
        assert_eq!((answer.status.as_u16(), answer.headers["www-authenticate"].to_str().unwrap()), (401, challenge), "{path}");
    }
    let bearer = format!("Bearer {}", token("s3cret"));
    let own = format!("bearer {}", token(MASTER_KEY));
    for (path, name, value, kept) in [
        ("/basic", "authorization", basic("anna:a:1").as_str(), false),
        ("/basic", "authorization", &basic("bob:password"), false),
        ("/seen", "authorization", &basic("anna:a:1"), true),
        ("/key", "x-api-key", "k-2", false),
        ("/jwt", "authorization", &bearer, false),
        ("/own", "authorization", &own, true),
    ] {
        let answer = edge.send(request(Method::GET, HOST, &format!("{path}{DUMP}"), &[(name, value)])).await;
        assert_eq!(answer.status, 200, "{path} {value}");
        let seen = answer.text().to_ascii_lowercase();
        assert_eq!(seen.contains(&format!("{name}: ")), kept, "{path}: {seen}");
    }
    for (path, value) in [("/basic", basic("bob:Password")), ("/jwt", own.clone()), ("/own", bearer.clone())] {
        assert_eq!(status(&edge, path, &[("authorization", &value)]).await, 401, "{path} {value}");
    }
}

/// The token in the URL reaches neither the server nor a log, whatever becomes of the request.
#[tokio::test]
async fn a_token_in_the_url_ends_here() {
    let app = http_echo("shop").await.unwrap();
    let setup = Setup::new(&routes(
        "",
        &[
            ("/jwt", &app, "authorization: {type: jwt, creds: s3cret}"),
            ("/open", &app, ""),
            ("/moved", &app, "redirect_to: \"https://x.test\""),
        ],
    ));
    let edge = setup.main("access_log: true").start().await;
    let good = token("s3cret");
    let answer = edge.get(HOST, &format!("/jwt/debug?araleztoken={good}&env=dump")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("GET /jwt/debug?env=dump HTTP"), "{}", answer.text());
    let bad = token("other");
    for (path, expected) in [("/jwt", 401), ("/open", 200), ("/moved", 301), ("/nowhere", 404)] {
        assert_eq!(status(&edge, &format!("{path}?arale%7atoken={bad}&mark{path}"), &[]).await, expected, "{path}");
    }
    edge.aralez.logged("mark/nowhere", Duration::from_secs(10)).await;
    let log = edge.aralez.log();
    for part in good.split('.').chain(bad.split('.')).filter(|part| part.len() > 40) {
        assert!(!log.contains(part), "{log}");
    }
    assert!(log.contains("/jwt/debug?env=dump") && log.contains("mark/jwt"), "{log}");
}

#[tokio::test]
async fn keys_of_a_url_are_there_with_the_route_and_follow_rotation() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let keys = KeyServer::start(Some(old.key_set())).await;
    let app = http_echo("shop").await.unwrap();
    let policy = format!("authorization: {{type: jwt, jwks_url: \"{}\", issuer: okta, audience: shop}}", keys.url);
    let edge = Edge::start(&routes("", &[("/", &app, &policy)])).await;
    let ask = async |token: String| status(&edge, "/", &[("authorization", &format!("Bearer {token}"))]).await;
    let for_shop = json!({"aud": ["shop", "cart"]});
    assert_eq!(ask(old.token(for_shop.clone())).await, 200);
    assert_eq!(ask(old.token(json!({"aud": "cart"}))).await, 401);
    assert_eq!(ask(old.token(json!({}))).await, 401);
    assert_eq!(ask(old.token(json!({"aud": "shop", "iss": "evil"}))).await, 401);
    assert_eq!(ask(new.token(for_shop.clone())).await, 401);
    keys.set(Some(new.key_set()));
    eventually("the new key", Duration::from_secs(20), async || {
        anyhow::ensure!(ask(new.token(for_shop.clone())).await == 200);
        Ok(())
    })
    .await
    .unwrap();
    // What was known stays when the server fails.
    keys.set(None);
    assert_eq!(ask(new.token(for_shop)).await, 200);
}

#[tokio::test]
async fn failures_are_counted_by_client_and_place_and_never_lock_out_who_was_let_in() {
    let app = http_echo("shop").await.unwrap();
    let policy = |key: &str| format!("authorization: {{type: apikey, creds: [{key}, late], failures: 5}}");
    let edge = Edge::start(&routes("", &[("/a", &app, &policy("k-a")), ("/b", &app, &policy("k-b"))])).await;
    assert_eq!(status(&edge, "/a", &[("x-api-key", "k-a")]).await, 200);
    for nth in 0..5 {
        let forged = format!("10.0.0.{nth}");
        assert_eq!(status(&edge, "/a", &[("x-api-key", "guess"), ("x-forwarded-for", &forged)]).await, 401);
    }
    let blocked = edge.send(request(Method::GET, HOST, "/a", &[("x-api-key", "late")])).await;
    assert_eq!(blocked.status, 429);
    assert!((1..=60).contains(&blocked.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap()));
    assert_eq!(status(&edge, "/a", &[("x-api-key", "k-a")]).await, 200, "the neighbour behind the same address");
    assert_eq!(status(&edge, "/b", &[("x-api-key", "late")]).await, 200, "another place");
}

/// An auth server that answers byte by byte what it is told to, and keeps the heads that it was shown. An empty answer is none at all.
struct Judge {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Judge {
    async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Judge {
        let (listener, address) = Listener::loopback().await.unwrap();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let heads = asked.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok(mut stream) = listener.accept().await {
                let (heads, answer) = (heads.clone(), answer.clone());
                connections.spawn(async move {
                    loop {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            match stream.read_u8().await {
                                Ok(byte) => head.push(byte),
                                Err(_) => return,
                            }
                        }
                        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                        let said = answer(&head);
                        heads.lock().unwrap().push(head);
                        if stream.write_all(said.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Judge { url: format!("http://{address}/check?x=1"), asked, accepting }
    }

    fn policy(&self) -> String {
        format!("authorization: {{type: forward, url: \"{}\", timeout: 1s}}", self.url)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn said(status: u16, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Said\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// H2, and H14 for the names that the auth server speaks of.
#[tokio::test]
async fn an_auth_server_is_shown_the_clients_request_and_its_yes_names_the_user() {
    let judge = Judge::start(|_| said(200, "Remote-User: anna\r\nX-Auth-Groups: a\r\nX-Auth-Groups: b\r\nX-Other: o\r\n", "fine")).await;
    let app = http_echo("shop").await.unwrap();
    let edge = Edge::start(&routes("", &[("/", &app, &judge.policy())])).await;
    let fields = [
        ("cookie", "session=1"),
        ("authorization", "Bearer t"),
        ("remote-user", "root"),
        ("remote_user", "root"),
        ("remote-email", "root@x"),
        ("x-auth-groups", "wheel"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-uri", "/open"),
        ("x-forwarded-method", "OPTIONS"),
        ("x-forwarded-host", "evil.test"),
        ("connection", "remote-user"),
    ];
    let mut posted = request(Method::POST, HOST, "/a//b/debug?env=dump", &fields);
    *posted.body_mut() = Bytes::from_static(b"the body");
    let answer = edge.send(posted).await;
    assert_eq!(answer.status, 200);
    let seen = answer.text().to_ascii_lowercase();
    for wanted in ["remote-user: anna", "x-auth-groups: a", "cookie: session=1", "authorization: bearer t"] {
        assert!(seen.contains(wanted), "{wanted}: {seen}");
    }
    for unwanted in ["root", "wheel", "x-other"] {
        assert!(!seen.contains(unwanted), "{unwanted}: {seen}");
    }
    let asked = judge.asked();
    let [head] = &*asked else { panic!("{asked:?}") };
    assert!(head.starts_with("get /check?x=1 http/1.1\r\n"), "{head}");
    for wanted in [
        "x-forwarded-method: post",
        "x-forwarded-proto: http",
        &format!("x-forwarded-host: {HOST}"),
        "x-forwarded-uri: /a/b/debug?env=dump",
        "x-forwarded-for: 127.0.0.1",
        "cookie: session=1",
        "authorization: bearer t",
    ] {
        assert!(head.contains(&format!("\r\n{wanted}\r\n")), "{wanted}: {head}");
    }
    for unwanted in ["content-length", "transfer-encoding", "root", "6.6.6.6", "evil.test", "the body", "/open"] {
        assert!(!head.contains(unwanted), "{unwanted}: {head}");
    }
    edge.send(request(Method::HEAD, HOST, "/", &[])).await;
    assert!(judge.asked()[0].starts_with("head /check?x=1 "));
}

/// H2: with a "no", nothing of the request goes on.
#[tokio::test]
async fn the_no_of_an_auth_server_goes_to_the_client_and_the_request_nowhere() {
    let judge = Judge::start(|head| {
        let fields = "Location: https://login.test/?rd=1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nWWW-Authenticate: Basic realm=\"j\"\r\nX-Secret: s\r\nContent-Type: text/html\r\n";
        let status = ["302", "303", "401", "403", "418", "500", "101"].into_iter().find(|status| head.contains(&format!("/{status}")));
        match status {
            Some("101") => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_owned(),
            Some(status) => said(status.parse().unwrap(), fields, "<p>no</p>"),
            None => String::new(),
        }
    })
    .await;
    let app = http_echo("shop").await.unwrap();
    let edge = Edge::start(&routes("", &[("/", &app, &judge.policy())])).await;
    let post = |path: &str| Request::post(path).header("host", HOST).body(Bytes::from_static(b"secret body")).unwrap();
    for status in [302, 303, 401, 403, 418, 500] {
        let answer = edge.send(post(&format!("/{status}"))).await;
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.text(), "<p>no</p>");
        let all = |name: &str| answer.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join("|");
        assert_eq!(
            ["location", "set-cookie", "www-authenticate", "x-secret", "content-type"].map(all),
            ["https://login.test/?rd=1", "a=1|b=2", "Basic realm=\"j\"", "", "text/html"]
        );
    }
    assert_eq!(edge.send(post("/101")).await.status, 503);
    assert_eq!(edge.send(post("/silence")).await.status, 503);
    assert_eq!(judge.asked().len(), 8);
    drop(judge);
    eventually("503", Duration::from_secs(10), async || {
        anyhow::ensure!(edge.send(post("/302")).await.status == 503);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(app.connections(), 0, "the server was reached");
}

/// H3: whatever an answer has behind its head, the next one is read from its beginning.
#[tokio::test]
async fn the_rest_of_one_judgement_is_never_taken_for_the_next() {
    let yes = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let judge = Judge::start(move |head| match () {
        () if head.contains("bearer good") => said(200, "", &said(403, "", "")),
        () if head.contains("bearer body") => said(403, "", yes),
        // More than it announced: what is left is in the connection when the next one asks.
        () if head.contains("bearer more") => said(403, "", "") + yes,
        () if head.contains("bearer chunks") => {
            format!("HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{yes}\r\n0\r\n\r\n{yes}", yes.len())
        }
        () => said(403, "", ""),
    })
    .await;
    let app = http_echo("shop").await.unwrap();
    let edge = Edge::start(&routes("", &[("/", &app, &judge.policy())])).await;
    for round in 0..20 {
        for (who, expected) in
            [("good", 200), ("body", 403), ("bad", 403), ("more", 403), ("bad", 403), ("chunks", 403), ("bad", 403), ("good", 200)]
        {
            let got = status(&edge, "/", &[("authorization", &format!("Bearer {who}"))]).await;
            assert_eq!(got, expected, "{who} in round {round}");
        }
    }
    assert_eq!(app.requests(), 40);
}

#[tokio::test]
async fn without_an_auth_server_nobody_is_let_in() {
    let app = http_echo("shop").await.unwrap();
    let nobody = Address::port(free_port().unwrap());
    let policy = format!("authorization: {{type: forward, creds: \"http://{nobody}/\"}}");
    let edge = Edge::start(&routes("", &[("/", &app, &policy)])).await;
    assert_eq!(status(&edge, "/", &[("authorization", "Bearer t")]).await, 503);
    assert_eq!(app.connections(), 0);
}
