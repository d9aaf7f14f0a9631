//! Sticky sessions: they choose among a route's servers, and nothing else.

use aralez_integration::{apps::http_echo, clients::Response};
use http::Method;

use super::{Edge, request};

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
