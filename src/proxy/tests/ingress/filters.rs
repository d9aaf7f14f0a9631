//! Each filter, by its name in `proxy/filter`.

use aralez_integration::clients::HttpClient;
use http::HeaderName;

use super::*;
use crate::model::ingress::filters::{AddressRules, Compression, Cors, Redirect};

fn cors(origins: &[&str]) -> Cors {
    let list = |items: &[&str]| items.iter().map(|item| (*item).into()).collect();
    Cors {
        origins: list(origins),
        methods: list(&["GET", "PUT"]),
        headers: Vec::new(),
        expose: Vec::new(),
        credentials: true,
        max_age: None,
    }
}

/// Acts, until it took less than a second: nobody may make another request within a limit of one a second meanwhile. `act` gets the number of the try,
/// for clients that nobody has seen yet.
async fn at_once<T>(mut act: impl AsyncFnMut(usize) -> T) -> T {
    for nth in 0..100 {
        let begun = Instant::now();
        let result = act(nth).await;
        if begun.elapsed() < Duration::from_millis(900) {
            return result;
        }
    }
    panic!("it always takes longer than a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_for_a_client_and_all_listeners_and_over_new_snapshots() {
    let limited =
        |prefix, scope| filtered(prefix, Filters { limits: vec![RateLimit { burst: 3, ..limit(scope, 1) }], ..Filters::default() });
    let rules = [rule("/"), limited("/one", "one"), limited("/two", "two")];
    let mut shop = Shop::start(&rules).await;
    let answers = at_once(async |nth| {
        let (v4, other) = (format!("192.0.{nth}.1"), format!("192.0.{nth}.2"));
        let v6 = |last: usize| format!("2001:db8:0:{nth}::{last}");
        let mut statuses = Vec::new();
        for (path, client) in [
            ("/one", &v4),
            ("/one/x", &v4),
            ("/one", &other),
            ("/two", &v4),
            ("/one", &v4),
            ("/", &v4),
            ("/one", &v6(1)),
            ("/one", &v6(2)),
            ("/one", &v6(3)),
        ] {
            statuses.push(shop.get(path, &[("x-forwarded-for", client)]).await.status.as_u16());
        }
        assert_eq!(statuses, [200; 9]);
        let header = format!("new{nth}");
        shop.publish(&rules.clone().map(|rule| Rule { headers: sets("x-new", &header), ..rule })).await;
        assert_eq!(field(&shop.get("/", &[]).await, "x-new"), header);
        let second =
            clients::once(&net::Address::Tcp(shop.edge.second), asked("GET", "/one", &[("x-forwarded-for", &v4)], "")).await.unwrap();
        [second, shop.get("/one", &[("x-forwarded-for", &v4)]).await, shop.get("/one", &[("x-forwarded-for", &v6(4))]).await]
    })
    .await;
    let names = [
        "retry-after",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "x-rate-limit-limit",
        "x-rate-limit-remaining",
        "x-rate-limit-reset",
    ];
    for answer in answers {
        assert_eq!((answer.status.as_u16(), answer.text()), (429, "too many requests\n".into()));
        assert_eq!(names.map(|name| field(&answer, name)), ["1", "3", "0", "3", "3", "0", "3"]);
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_keeps_its_connection_and_the_server_hears_nothing() {
    let limits = vec![RateLimit { burst: 1, ..limit("one", 1) }];
    let shop = Shop::start(&[filtered("/", Filters { limits, ..Filters::default() })]).await;
    let mut client = HttpClient::http1(&shop.address).await.unwrap();
    let passed = client.send(asked("POST", "/", &[], "body")).await.unwrap();
    assert_eq!((passed.status.as_u16(), field(&passed, "ratelimit-remaining")), (200, "0".into()));
    let mut refused = 0;
    for _ in 0..200 {
        refused += u32::from(client.send(asked("POST", "/", &[], "body")).await.unwrap().status == 429);
    }
    assert!(refused >= 190 && shop.app.requests() == 201 - u64::from(refused), "{refused} refused");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_by_header_are_by_its_value() {
    let key = LimitKey::Header(HeaderName::from_static("x-tenant"));
    let limits = vec![RateLimit { burst: 1, key, ..limit("one", 1) }];
    let shop = Shop::start(&[filtered("/", Filters { limits, ..Filters::default() })]).await;
    let answers = at_once(async |nth| {
        let (tenants, clients) = ([format!("a{nth}"), format!("b{nth}")], [format!("192.0.{nth}.1"), format!("192.0.{nth}.2")]);
        let mut answers = Vec::new();
        for (tenant, client) in [(0, 0), (0, 1), (1, 0)] {
            answers.push(shop.get("/", &[("x-tenant", &tenants[tenant]), ("x-forwarded-for", &clients[client])]).await.status.as_u16());
        }
        for client in [0, 0, 1] {
            answers.push(shop.get("/", &[("x-forwarded-for", &clients[client])]).await.status.as_u16());
        }
        answers
    })
    .await;
    assert_eq!(answers, [200, 429, 200, 200, 429, 200]);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_never_reach_the_server_and_refusals_say_who_may_read_them() {
    let filters =
        Filters { cors: Some(cors(&["https://a.test"])), limits: vec![RateLimit { burst: 2, ..limit("x", 1) }], ..Filters::default() };
    let shop = Shop::start(&[Rule { headers: sets("x-frame-options", "DENY"), ..filtered("/", filters) }]).await;
    let preflight = |origin: &'static str, method: &'static str| {
        let fields = [("origin", origin), ("access-control-request-method", method), ("access-control-request-headers", "x-a")];
        asked("OPTIONS", "/", &fields, "")
    };
    let names =
        ["access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-methods", "access-control-allow-headers"];
    for (origin, method, status, fields) in [
        ("https://a.test", "PUT", 204, ["https://a.test", "true", "GET, PUT", "x-a"]),
        ("https://b.test", "PUT", 403, ["", "", "", ""]),
        ("https://a.test", "DELETE", 403, ["https://a.test", "true", "", ""]),
    ] {
        for _ in 0..3 {
            let answer = clients::once(&shop.address, preflight(origin, method)).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), names.map(|name| field(&answer, name))),
                (status, fields.map(str::to_owned)),
                "{origin} {method}"
            );
            assert!(field(&answer, "vary").contains("origin"));
        }
    }
    assert_eq!(shop.app.requests(), 0);
    let own =
        "/echo?header=access-control-allow-origin:*&header=access-control-allow-credentials:true&header=access-control-expose-headers:x";
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let answer = shop.get(own, &[("origin", "https://a.test")]).await;
        statuses.push(answer.status.as_u16());
        assert_eq!(field(&answer, "access-control-allow-origin"), "https://a.test", "{}", answer.status);
        assert_eq!((field(&answer, "access-control-expose-headers"), field(&answer, "x-frame-options")), (String::new(), "DENY".into()));
    }
    assert_eq!(statuses[0], 200);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_may_not_come_get_403_before_anything_else() {
    let deny = Networks(vec!["192.0.2.0/24".parse().unwrap()]);
    let filters = Filters { addresses: Some(AddressRules { deny, ..AddressRules::default() }), to_https: true, ..Filters::default() };
    let shop = Shop::start(&[filtered("/", filters)]).await;
    for (client, status) in [("192.0.2.1", 403), ("198.51.100.1", 301), ("198.51.100.1, 192.0.2.1", 403), ("192.0.2.1, 198.51.100.1", 301)]
    {
        assert_eq!(shop.get("/", &[("x-forwarded-for", client)]).await.status.as_u16(), status, "{client}");
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_https_keeps_host_path_query_and_method() {
    let shop = Shop::start(&[filtered("/", Filters { to_https: true, ..Filters::default() })]).await;
    for (method, host, path, status, location) in [
        ("GET", "shop.test", "/a?b=c&d", 301, "https://shop.test:8443/a?b=c&d"),
        ("HEAD", "Shop.Test.:80", "/", 301, "https://shop.test:8443/"),
        ("POST", "shop.test:8080", "/x", 308, "https://shop.test:8443/x"),
        ("PUT", "[::1]:80", "/x", 308, "https://[::1]:8443/x"),
        ("GET", "shop.test", "//evil.test/x", 301, "https://shop.test:8443/evil.test/x"),
        ("GET", "shop.test", "/%0d%0aset-cookie:%20a=b", 301, "https://shop.test:8443/%0d%0aset-cookie:%20a=b"),
        ("GET", "shop.test", "/a%2f..%2fb", 301, "https://shop.test:8443/a%2f..%2fb"),
    ] {
        let answer = shop.ask(method, path, &[("host", host)], "").await;
        assert_eq!((answer.status.as_u16(), field(&answer, "location")), (status, location.to_owned()), "{method} {host} {path}");
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    let behind = shop.get("/", &[("x-forwarded-proto", "https")]).await;
    assert_eq!(behind.status, 200, "a trusted proxy spoke TLS: no loop");
    assert_eq!(shop.app.requests(), 1);
    let bare = clients::raw(&shop.address, "http://shop.test/a?b", &[("Host", "shop.test")]).await.unwrap();
    assert_eq!(field(&bare, "location"), "https://shop.test:8443/a?b", "absolute form");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_keep_path_and_query_unless_they_are_exact() {
    let to = |prefix, to: &str, status, exact| Rule { action: Action::Redirect(Redirect { to: to.into(), status, exact }), ..rule(prefix) };
    let shop = Shop::start(&[
        to("/", "https://new.test", 301, false),
        to("/base", "https://new.test/v2/", 308, false),
        to("/exact", "https://new.test/here?x=1", 302, true),
    ])
    .await;
    for (path, status, location) in [
        ("/a/b?c=d", 301, "https://new.test/a/b?c=d"),
        ("/", 301, "https://new.test/"),
        ("//evil.test", 301, "https://new.test/evil.test"),
        ("/@evil.test", 301, "https://new.test/@evil.test"),
        ("/.evil.test", 301, "https://new.test/.evil.test"),
        ("/%0d%0aX:y", 301, "https://new.test/%0d%0aX:y"),
        ("/base/x?y", 308, "https://new.test/v2/base/x?y"),
        ("/exact/x?y", 302, "https://new.test/here?x=1"),
    ] {
        let answer = shop.ask("POST", path, &[], "some body").await;
        assert_eq!((answer.status.as_u16(), field(&answer, "location")), (status, location.to_owned()), "{path}");
    }
    assert_eq!(shop.app.requests(), 0);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_path_is_what_the_server_sees() {
    let to = |prefix, rewrite| Rule { rewrite: Some(rewrite), ..rule(prefix) };
    let shop = Shop::start(&[rule("/"), to("/strip", ""), to("/api", "/v2")]).await;
    for (path, seen) in [
        ("/strip/debug?env=dump", "/debug?env=dump"),
        ("/strip//evil/debug?env=dump", "/evil/debug?env=dump"),
        ("/api/debug?env=dump", "/v2/debug?env=dump"),
        ("/api/a%20b%0d%0a/debug?env=dump", "/v2/a%20b%0d%0a/debug?env=dump"),
        ("/apiary/debug?env=dump", "/apiary/debug?env=dump"),
    ] {
        let answer = shop.get(path, &[]).await.text();
        assert!(answer.starts_with(&format!("GET {seen} HTTP/1.1\n")), "{path}: {answer}");
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused() {
    let shop = Shop::start(&[rule("/"), filtered("/small", Filters { body_limit: Some(1000), ..Filters::default() })]).await;
    for (length, status) in [(1000, 200), (1001, 413), (8 << 20, 413)] {
        let answer = shop.ask("POST", "/small/count", &[], vec![b'x'; length]).await;
        assert_eq!(answer.status.as_u16(), status, "{length} bytes, HTTP/1");
        let mut client = HttpClient::http2(&shop.address).await.unwrap();
        let answer = client.send(asked("POST", "/small/count", &[], vec![b'x'; length])).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{length} bytes, HTTP/2");
    }
    assert_eq!(shop.app.requests(), 2, "an announced body over the limit reaches nobody");
    assert_eq!(shop.ask("POST", "/count", &[], vec![b'x'; 1001]).await.text(), "1001");
    for (chunks, status) in [(1, "200"), (2, "413"), (400, "413")] {
        let mut stream = shop.address.connect().await.unwrap();
        let mut request =
            b"POST /small/count HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
        for _ in 0..chunks {
            request.extend_from_slice(b"3e8\r\n");
            request.extend_from_slice(&[b'x'; 1000]);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
        stream.write_all(&request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{chunks} chunks: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "one answer: {answer}");
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_through_a_websocket_is_no_body() {
    use futures_util::{SinkExt, StreamExt};
    let shop = Shop::start(&[filtered("/", Filters { body_limit: Some(10), ..Filters::default() })]).await;
    let mut socket = clients::websocket(&shop.address, "/").await.unwrap();
    let message = tokio_tungstenite::tungstenite::Message::text("x".repeat(5000));
    socket.send(message.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), message);
    drop(socket);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_compressed_for_who_takes_it() {
    let compression = Some(Compression { level: 5 });
    let shop = Shop::start(&[rule("/"), filtered("/small", Filters { compression, ..Filters::default() })]).await;
    let text = "compress me ".repeat(1000);
    let html = "/echo?header=content-type:text/html&header=etag:%221%22";
    for (path, accepted, coding) in [
        (format!("/small{html}"), "gzip", "gzip"),
        (format!("/small{html}"), "gzip;q=0.1, br", "br"),
        (format!("/small{html}"), "zstd, gzip", "zstd"),
        (format!("/small{html}"), "deflate", ""),
        (format!("/small{html}"), "gzip;q=0", ""),
        (html.to_owned(), "gzip", ""),
        ("/small/echo?header=content-type:text/event-stream".to_owned(), "gzip", ""),
        ("/small/echo?header=content-type:image/png".to_owned(), "gzip", ""),
        ("/small/echo?header=content-type:text/html&header=content-encoding:x".to_owned(), "gzip", "x"),
        ("/small/echo?header=content-type:text/html&header=cache-control:no-transform".to_owned(), "gzip", ""),
    ] {
        let http1 = shop.ask("POST", &path, &[("accept-encoding", accepted)], text.clone()).await;
        let mut client = HttpClient::http2(&shop.address).await.unwrap();
        let http2 = client.send(asked("POST", &path, &[("accept-encoding", accepted)], text.clone())).await.unwrap();
        for answer in [&http1, &http2] {
            assert_eq!(field(answer, "content-encoding"), coding, "{path} {accepted}");
            let compressed = !matches!(coding, "" | "x");
            assert_eq!(answer.body.len() < 1000, compressed, "{path} {accepted}: {} bytes", answer.body.len());
            assert_eq!(answer.headers.contains_key("content-length"), !compressed, "{path} {accepted}");
        }
        if coding == "gzip" {
            // The sum and the length of what was compressed (RFC 1952): how it is cut into blocks is not told.
            let ends = [&http1, &http2].map(|answer| (answer.body[..2].to_vec(), answer.body[answer.body.len() - 8..].to_vec()));
            assert_eq!((&ends[0].0[..], &ends[0].1[4..]), (&[0x1f, 0x8b][..], &(text.len() as u32).to_le_bytes()[..]));
            assert_eq!(ends[0], ends[1]);
        }
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_routes_headers_are_on_every_answer_and_replace_the_servers() {
    let denied = AddressRules { allow: Networks(vec!["192.0.2.1/32".parse().unwrap()]), ..AddressRules::default() };
    let with = |rule: Rule| Rule { headers: sets("x-frame-options", "DENY"), ..rule };
    let redirect = Action::Redirect(Redirect { to: "https://new.test".into(), status: 301, exact: false });
    let shop = Shop::start(&[
        with(rule("/")),
        with(filtered("/denied", Filters { addresses: Some(denied), ..Filters::default() })),
        with(filtered("/https", Filters { to_https: true, ..Filters::default() })),
        with(filtered("/small", Filters { body_limit: Some(0), ..Filters::default() })),
        with(Rule { action: redirect, ..rule("/moved") }),
    ])
    .await;
    for (path, status) in
        [("/", 200), ("/echo?header=x-frame-options:ALLOWALL", 200), ("/denied", 403), ("/https", 301), ("/small", 413), ("/moved", 301)]
    {
        let answer = shop.ask("POST", path, &[("x-forwarded-proto", "http")], "x").await;
        let status = if path == "/https" { 308 } else { status };
        assert_eq!((answer.status.as_u16(), field(&answer, "x-frame-options")), (status, "DENY".into()), "{path}");
    }
    shop.app.answer_next([404]);
    assert_eq!(field(&shop.get("/", &[]).await, "x-frame-options"), "DENY");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_proxy_says_of_the_client_cannot_be_taken_away() {
    let shop = Shop::start(&[rule("/")]).await;
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "host"] {
        assert_eq!(shop.get("/", &[("connection", name)]).await.status, 400, "{name}");
    }
    let fields = [("connection", "x-own, x-real-ip, content-length"), ("x-own", "1"), ("x_forwarded_for", "6.6.6.6")];
    let seen = shop.get("/debug?env=dump", &fields).await.text().to_ascii_lowercase();
    for expected in [
        "x-forwarded-for: 127.0.0.1\n",
        "x-real-ip: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: shop.test\n",
        "host: shop.test\n",
    ] {
        assert!(seen.contains(expected), "{expected} is not in {seen}");
    }
    assert!(!seen.contains("x-own") && !seen.contains("6.6.6.6") && !seen.contains("via:"), "{seen}");
    shop.stop().await;
}
