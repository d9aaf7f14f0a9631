//! What a request must pass, as `upstreams.yaml` says it. Each filter's own cases are in `src/proxy/tests/ingress`.

use std::fs;

use aralez_integration::{apps::http_echo, clients};
use bytes::Bytes;
use http::Method;

use super::{Edge, Setup, request};

fn field(answer: &clients::Response, name: &str) -> String {
    answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(" | ")
}

/// H12, H19 of the original: one counter for everything.
#[tokio::test]
async fn each_path_has_the_limit_that_is_nearest_to_it() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&format!(
        "provider: file\nrate_limit: {{rate: 1, burst: 4}}\nhealthcheck: false\nupstreams:\n  DEFAULT:\n    paths:\n\
         \x20     /: {{servers: ['{0}']}}\n\
         \x20     /tight: {{servers: ['{0}'], rate_limit: {{rate: 1, burst: 2}}}}\n\
         \x20     /free: {{servers: ['{0}'], rate_limit: false}}\n\
         \x20     /tenant: {{servers: ['{0}'], rate_limit: {{rate: 1, burst: 1, by: 'header:x-tenant'}}}}\n",
        app.address
    ))
    .await;
    let passed = async |path: &str, count: usize| {
        let mut passed = 0;
        for _ in 0..count {
            passed += usize::from(edge.get("shop.test", path).await.status == 200);
        }
        passed
    };
    // Each second lets one more pass: the counts are exact but for what a slow machine adds.
    assert_eq!(passed("/free", 30).await, 30);
    assert!((2..15).contains(&passed("/tight", 30).await));
    assert!((4..15).contains(&passed("/", 30).await), "the path's own limit does not use up the file's");
    for tenant in ["a", "b", "c"] {
        let answer = edge.send(request(Method::GET, "shop.test", "/tenant", &[("x-tenant", tenant)])).await;
        assert_eq!((answer.status.as_u16(), field(&answer, "ratelimit-limit")), (200, "1".into()));
    }
    let refused = loop {
        let answer = edge.get("shop.test", "/tight").await;
        if answer.status == 429 {
            break answer;
        }
    };
    for name in ["retry-after", "ratelimit-reset", "x-rate-limit-reset"] {
        assert!(matches!(&*field(&refused, name), "1" | "2"), "{name}: {}", field(&refused, name));
    }
    assert_eq!((field(&refused, "x-rate-limit-limit"), field(&refused, "x-rate-limit-remaining")), ("2".into(), "0".into()));
}

#[tokio::test]
async fn cors_is_a_feature_and_no_pair_of_headers() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&format!(
        "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: ['{}'], healthcheck: false, authorization: {{type: apikey, creds: k}}, \
         cors: {{origins: ['https://*.shop.test'], methods: [GET, PUT], credentials: true, max_age: 10m}}}}\n",
        app.address
    ))
    .await;
    let asks =
        [("origin", "https://www.shop.test"), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-api-key")];
    let preflight = edge.send(request(Method::OPTIONS, "shop.test", "/", &asks)).await;
    assert_eq!((preflight.status.as_u16(), field(&preflight, "access-control-max-age")), (204, "600".into()), "browsers bring no key");
    assert_eq!(field(&preflight, "access-control-allow-headers"), "x-api-key");
    let refused = edge.send(request(Method::GET, "shop.test", "/", &asks[..1])).await;
    assert_eq!((refused.status.as_u16(), field(&refused, "access-control-allow-origin")), (401, "https://www.shop.test".into()));
    let own = "/echo?header=access-control-allow-origin:*";
    for (origin, allowed) in [("https://www.shop.test", "https://www.shop.test"), ("https://evil.test", ""), ("null", "")] {
        let answer = edge.send(request(Method::GET, "shop.test", own, &[("origin", origin), ("x-api-key", "k")])).await;
        assert_eq!((answer.status.as_u16(), field(&answer, "access-control-allow-origin")), (200, allowed.into()), "{origin}");
    }
}

/// B9 of the original: queries lost, `https://DEFAULT/…`, and no redirect without a live server.
#[tokio::test]
async fn clients_are_sent_elsewhere_with_path_and_query() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&format!(
        "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n\
         \x20     /: {{servers: ['127.0.0.1:9'], to_https: true}}\n\
         \x20     /old: {{redirect_to: 'https://new.test'}}\n\
         \x20     /gone: {{redirect_to: 'https://new.test/here', redirect_status: 308, redirect_exact: true}}\n\
         \x20     /strip: {{servers: ['{0}'], healthcheck: false, strip_prefix: true}}\n\
         \x20     /v1: {{servers: ['{0}'], healthcheck: false, rewrite: /v2}}\n",
        app.address
    ))
    .await;
    for (method, path, status, location) in [
        (Method::GET, "/a?b=c", 301, "https://shop.test/a?b=c"),
        (Method::POST, "/a?b=c", 308, "https://shop.test/a?b=c"),
        (Method::GET, "/old/x?y=z", 301, "https://new.test/old/x?y=z"),
        (Method::GET, "/gone/x?y=z", 308, "https://new.test/here"),
    ] {
        let answer = edge.send(request(method.clone(), "shop.test", path, &[])).await;
        assert_eq!((answer.status.as_u16(), field(&answer, "location")), (status, location.to_owned()), "{method} {path}");
    }
    for (path, seen) in [("/strip/debug?env=dump", "GET /debug?env=dump"), ("/v1/debug?env=dump", "GET /v2/debug?env=dump")] {
        assert!(edge.get("shop.test", path).await.text().starts_with(seen), "{path}");
    }
}

/// B5, H14 of the original: levels that forget each other, doubled answers, and whatever a client said of itself.
#[tokio::test]
async fn headers_add_up_by_level_and_nobody_speaks_for_the_client() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&format!(
        "provider: file\nhealthcheck: false\nheaders: ['X-Frame-Options: DENY', 'X-Level: file']\nupstreams:\n  DEFAULT:\n    headers: ['X-Host: yes']\n    paths:\n\
         \x20     /: {{servers: ['{0}']}}\n\
         \x20     /api: {{servers: ['{0}'], headers: ['X-Level: path'], server_headers: ['X-Api: 1'], response_headers: {{add: {{X-More: '2'}}, remove: [X-App]}}}}\n\
         \x20     /key: {{servers: ['{0}'], authorization: {{type: apikey, creds: k}}}}\n",
        app.address
    ))
    .await;
    for (path, status, level) in [("/", 200, "file"), ("/api", 200, "path"), ("/key", 401, "file")] {
        let answer = edge.get("shop.test", path).await;
        assert_eq!((answer.status.as_u16(), field(&answer, "x-level")), (status, level.to_owned()), "{path}");
        assert_eq!((field(&answer, "x-frame-options"), field(&answer, "x-host")), ("DENY".into(), "yes".into()), "{path}");
    }
    let answer = edge.get("shop.test", "/api/echo?header=x-level:app&header=x-more:1&header=x-frame-options:ALLOW").await;
    assert_eq!(["x-level", "x-more", "x-frame-options", "x-app"].map(|name| field(&answer, name)), ["path", "1 | 2", "DENY", ""]);
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-api", "forged"),
    ];
    let seen = edge.send(request(Method::GET, "shop.test", "/api/debug?env=dump", &forged)).await.text().to_ascii_lowercase();
    for expected in
        ["x-forwarded-for: 127.0.0.1\n", "x-real-ip: 127.0.0.1\n", "x-forwarded-proto: http\n", "x-api: 1\n", "host: shop.test\n"]
    {
        assert!(seen.contains(expected), "{expected} is not in {seen}");
    }
    assert!(!seen.contains("6.6.6.6") && !seen.contains("forged"), "{seen}");
}

#[tokio::test]
async fn files_are_served_by_a_route_and_by_a_listener_of_their_own() {
    let port = aralez_integration::ports::free_port().unwrap();
    let upstreams = "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {files: {root: www, cache_control: max-age=60}}\n      /docs: {files: {root: www/sub, listing: true}}\n";
    let setup = Setup::new(upstreams)
        .main(&format!("file_server_folder: www\nfile_server_address: 127.0.0.1:{port}"))
        .file("www/index.html", "<h1>home</h1>")
        .file("www/sub/a.txt", "0123456789")
        .file("www/.env", "SECRET")
        .file("secret.txt", "SECRET");
    let edge = setup.start().await;
    std::os::unix::fs::symlink("../secret.txt", edge.path("www/out.txt")).unwrap();
    let listener = aralez_integration::net::Address::port(port);
    for (path, status, body) in [
        ("/", 200, "<h1>home</h1>"),
        ("/sub/a.txt", 200, "0123456789"),
        ("/out.txt", 404, "not found\n"),
        ("/.env", 404, "not found\n"),
        ("/%2e%2e/secret.txt", 404, "not found\n"),
    ] {
        for address in [&edge.http, &listener] {
            let answer = clients::get(address, path).await.unwrap();
            assert_eq!((answer.status.as_u16(), &*answer.text()), (status, body), "{path} at {address}");
        }
    }
    let part = edge.send(request(Method::GET, "shop.test", "/docs/a.txt", &[("range", "bytes=2-3")])).await;
    assert_eq!((part.status.as_u16(), &*part.text()), (206, "23"));
    assert!(edge.get("shop.test", "/docs/").await.text().contains("a.txt"));
    let folder = edge.get("shop.test", "/docs?x=1").await;
    assert_eq!((folder.status.as_u16(), field(&folder, "location")), (301, "/docs/?x=1".into()));
    fs::write(edge.path("www/index.html"), "new").unwrap();
    assert_eq!(edge.get("shop.test", "/").await.text(), "new");
}

#[tokio::test]
async fn bodies_addresses_and_compression_are_as_configured() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&format!(
        "provider: file\nhealthcheck: false\nupstreams:\n  DEFAULT:\n    paths:\n\
         \x20     /: {{servers: ['{0}']}}\n\
         \x20     /small: {{servers: ['{0}'], body_limit: 1000}}\n\
         \x20     /nobody: {{servers: ['{0}'], deny: 127.0.0.0/8}}\n\
         \x20     /text: {{servers: ['{0}'], compression: true}}\n",
        app.address
    ))
    .await;
    let post = |path: &str, length: usize| {
        let mut request = request(Method::POST, "shop.test", path, &[("accept-encoding", "gzip")]);
        *request.body_mut() = Bytes::from("x".repeat(length));
        edge.send(request)
    };
    assert_eq!((post("/small", 1000).await.status.as_u16(), post("/small", 1001).await.status.as_u16()), (200, 413));
    assert_eq!(edge.get("shop.test", "/nobody").await.status, 403);
    let packed = post("/text/echo?header=content-type:text/html", 5000).await;
    assert_eq!((field(&packed, "content-encoding"), packed.body.len() < 500), ("gzip".into(), true));
    assert_eq!(post("/echo?header=content-type:text/html", 5000).await.body.len(), 5000);
}
