//! Sticky sessions: they choose among a route's servers, and nothing else.

use aralez_integration::{
    apps::http_echo,
    clients::{HttpClient, Response},
};
use http::Method;

use super::{Edge, Setup, push, request};
use aralez_integration::web_pki::{WebCa, secure};

fn app(answer: &Response) -> &str {
    answer.headers["x-app"].to_str().unwrap()
}

/// Name and value of the cookie that an answer sets, and its attributes.
fn cookie(answer: &Response) -> (String, String) {
    let set = answer.headers["set-cookie"].to_str().unwrap();
    let (pair, attributes) = set.split_once("; ").unwrap();
    (pair.to_owned(), attributes.to_owned())
}

/// H1 of the original: the cookie of an open path let clients into a protected one, past its limit, on servers of another route.
#[tokio::test]
async fn a_cookie_stays_with_its_server_and_opens_nothing() {
    let [one, two, key] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap(), http_echo("key").await.unwrap()];
    let edge = Edge::start(&format!(
        "provider: file\nsticky_sessions: true\nhealthcheck: false\nupstreams:\n  DEFAULT:\n    paths:\n\
         \x20     /: {{servers: ['{0}', '{1}']}}\n\
         \x20     /key: {{servers: ['{2}', '{0}'], authorization: {{type: apikey, creds: k}}, rate_limit: {{rate: 1, burst: 30}}}}\n",
        one.address, two.address, key.address
    ))
    .await;
    let with = |path: &str, cookie: &str, more: &[(&str, &str)]| {
        let fields: Vec<(&str, &str)> = [("cookie", cookie)].iter().chain(more).copied().collect();
        edge.send(request(Method::GET, "shop.test", path, &fields))
    };
    let first = edge.get("shop.test", "/").await;
    let (pair, attributes) = cookie(&first);
    assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Lax") && !attributes.contains("Secure"), "{attributes}");
    for _ in 0..6 {
        let again = with("/", &pair, &[]).await;
        assert_eq!((app(&again), again.headers.contains_key("set-cookie")), (app(&first), false));
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        seen.insert(app(&with("/", "backend_id=forged", &[]).await).to_owned());
        assert_eq!(with("/key", &pair, &[]).await.status, 401, "a cookie is no credential");
    }
    assert!(!seen.is_empty());
    let allowed = with("/key", &pair, &[("x-api-key", "k")]).await;
    assert_eq!(allowed.status, 200);
    assert_ne!(cookie(&allowed).0, pair, "each route has its own");
    assert!(allowed.headers.contains_key("ratelimit-remaining"), "the limit of the matched route holds");
}

#[tokio::test]
async fn the_cookie_is_kept_to_tls_where_it_was_given_over_tls_and_holds_after_reloads() {
    let [one, two, three] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap(), http_echo("three").await.unwrap()];
    let routes = |servers: &[&str], more: &str| {
        let servers: Vec<String> = servers.iter().map(|server| format!("'http://{server}'")).collect();
        format!(
            "sticky_sessions: {{cookie: who, max_age: 1h}}\nhealthcheck: false\n{more}upstreams: {{DEFAULT: {{paths: {{/: {{servers: [{}]}}}}}}}}\n",
            servers.join(", ")
        )
    };
    let [one, two, three] = [&one, &two, &three].map(|app| app.address.to_string());
    let pair = WebCa::new().issue(&["shop.test"]);
    let setup = Setup::new(&routes(&[&one, &two], "")).tls().file("certs/a.crt", &pair.crt).file("certs/a.key", &pair.key);
    let edge = setup.start().await;
    let over_tls = async |fields: &[(&str, &str)]| {
        let stream = secure(&edge.tls, Some("shop.test"), |_| Ok(())).await.unwrap();
        let mut client = HttpClient::http1_over(Box::new(stream)).await.unwrap();
        client.send(request(Method::GET, "shop.test", "/", fields)).await.unwrap()
    };
    let attributes = |answer: &Response| {
        let mut attributes: Vec<String> = cookie(answer).1.split("; ").map(str::to_owned).collect();
        attributes.sort();
        attributes.join("; ")
    };
    assert_eq!(attributes(&edge.get("shop.test", "/").await), "HttpOnly; Max-Age=3600; Path=/; SameSite=Lax");
    let first = over_tls(&[]).await;
    assert_eq!(attributes(&first), "HttpOnly; Max-Age=3600; Path=/; SameSite=Lax; Secure");

    let given = cookie(&first).0;
    let reloads = [
        routes(&[&one, &two, &three], ""),
        routes(&[&three, &two, &one], "headers: ['X-Other: 1']\n"),
        routes(&[&two, &one], "balance: random\n"),
    ];
    for reload in reloads {
        assert_eq!(push(&edge, "", &reload).await.status, 200);
        for _ in 0..6 {
            for again in
                [over_tls(&[("cookie", &given)]).await, edge.send(request(Method::GET, "shop.test", "/", &[("cookie", &given)])).await]
            {
                assert_eq!((app(&again), again.headers.contains_key("set-cookie")), (app(&first), false), "after a reload with {reload}");
            }
        }
    }
}
