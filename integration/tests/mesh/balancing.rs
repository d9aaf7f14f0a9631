//! Load balancing policies, told by a resolver: shares, and the same key to the same instance.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::Result;
use aralez_integration::clients::{self, HttpClient, Response, request};
use aralez_integration::net::Address;
use aralez_integration::registration::Upstream;
use aralez_integration::wait::eventually;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::fleet::{Fleet, app_of, shares};
use crate::scene::PATIENCE;

const INSTANCES: [&str; 3] = ["one", "two", "three"];

/// `db` with three instances, balanced by `policy`, and a caller.
async fn scene(policy: Value) -> (Fleet, Address) {
    let (fleet, _, upstream) = scene_with(policy, |upstream| upstream).await;
    (fleet, upstream)
}

/// The same with more in the caller's registration; also returns the name of `db`.
async fn scene_with(policy: Value, more: impl FnOnce(Upstream) -> Upstream) -> (Fleet, String, Address) {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    fleet.entry("service-resolver", &db, json!({"LoadBalancer": policy})).await;
    for instance in INSTANCES {
        fleet.run(&db, instance).await;
    }
    fleet.agent.healthy(&db, INSTANCES.len()).await.unwrap();
    let (_, upstream) = fleet.call(more(Upstream::new(&db).unwrap())).await;
    (fleet, db, upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_is_even_and_not_in_turns() {
    const TOTAL: usize = 900;
    let (_fleet, upstream) = scene(json!({"Policy": "random"})).await;
    let mut client = HttpClient::http1(&upstream).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..TOTAL {
        order.push(app_of(&client.get("/").await.unwrap()).unwrap());
    }
    for instance in INSTANCES {
        // 300, within six standard deviations (14.1).
        let share = order.iter().filter(|name| *name == instance).count();
        assert!((215..=385).contains(&share), "{instance}: {share}");
    }
    // Turns never give the same twice running; lots do so once in three.
    let repeated = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!((215..=385).contains(&repeated), "{repeated}");
}

/// An instance that answers nothing has ever more requests in flight, and gets hardly any new ones.
#[tokio::test(flavor = "multi_thread")]
async fn least_request_avoids_the_busy_instance() {
    const HELD: u64 = 6;
    const TOTAL: usize = 60;
    let (fleet, upstream) = scene(json!({"Policy": "least_request", "LeastRequestConfig": {"ChoiceCount": 12}})).await;
    fleet.of("one").hold();
    let mut held = tokio::task::JoinSet::new();
    // Until the busy one is busy.
    while fleet.of("one").requests() == 0 {
        let address = upstream.clone();
        held.spawn(async move { clients::get(&address, "/").await });
        tokio::task::yield_now().await;
        if held.len() as u64 > HELD {
            held.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    let before = fleet.of("one").requests();
    // Drawing twelve times of three misses both idle ones once in half a million.
    let seen = shares(&upstream, TOTAL).await;
    assert!(!seen.contains_key("one") && fleet.of("one").requests() <= before + HELD, "{seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");
    fleet.of("one").release();
    while let Some(answer) = held.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status, 200);
    }
    eventually("a share for all", PATIENCE, async || {
        let seen = shares(&upstream, TOTAL).await;
        anyhow::ensure!(seen.len() == INSTANCES.len(), "{seen:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// A `GET` of `path` with one more field.
async fn get_with(address: &Address, path: &str, name: &'static str, value: &str) -> Result<Response> {
    let mut request = request(Method::GET, path, "")?;
    request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    clients::once(address, request).await
}

/// Asks with each of 40 keys five times over: each key must stay with its instance, and all instances must have keys. (That one of three
/// has none of 40 keys is a matter of one in ten million, were the hash a lot; it is not one, so the outcome is always the same.)
async fn keys_stay(ask: impl AsyncFn(u8) -> Result<Response>) {
    let mut homes = BTreeMap::<u8, BTreeSet<String>>::new();
    for _ in 0..5 {
        for key in 1..=40 {
            let answer = ask(key).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            homes.entry(key).or_default().insert(app_of(&answer).unwrap());
        }
    }
    let moved: Vec<_> = homes.iter().filter(|(_, names)| names.len() > 1).collect();
    assert!(moved.is_empty(), "{moved:?}");
    let used: BTreeSet<_> = homes.values().flatten().collect();
    assert_eq!(used.len(), INSTANCES.len(), "{homes:?}");
}

fn hashed(policy: &str, hash_policies: Value) -> Value {
    json!({"Policy": policy, "HashPolicies": hash_policies})
}

async fn by_header(policy: &str) {
    let (_fleet, upstream) = scene(hashed(policy, json!([{"Field": "header", "FieldValue": "X-User"}]))).await;
    keys_stay(async |key| get_with(&upstream, "/", "x-user", &format!("user {key}")).await).await;
    // Without a key there is no hash: any instance may answer, and over 60 turns all do.
    assert_eq!(shares(&upstream, 60).await.len(), INSTANCES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_hash_by_header() {
    by_header("ring_hash").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maglev_by_header() {
    by_header("maglev").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maglev_by_query_parameter() {
    let (_fleet, upstream) = scene(hashed("maglev", json!([{"Field": "query_parameter", "FieldValue": "user"}]))).await;
    keys_stay(async |key| clients::get(&upstream, &format!("/?turn=1&user={key}")).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_hash_by_source_ip() {
    let (_fleet, upstream) = scene(hashed("ring_hash", json!([{"SourceIP": true}]))).await;
    keys_stay(async |key| {
        let stream = upstream.connect_from(Ipv4Addr::new(127, 0, 0, key)).await?;
        HttpClient::http1_over(stream).await?.get("/").await
    })
    .await;
}

/// A terminal policy that finds a hash ends the list; one that finds none leaves it to the next.
#[tokio::test(flavor = "multi_thread")]
async fn ring_hash_by_the_first_terminal_policy() {
    let policies = json!([
        {"Field": "header", "FieldValue": "x-user", "Terminal": true},
        {"Field": "query_parameter", "FieldValue": "user"},
    ]);
    let (_fleet, upstream) = scene(hashed("ring_hash", policies)).await;
    // The query differs with every call: it must not count.
    let turn = std::sync::atomic::AtomicU32::new(0);
    keys_stay(async |key| {
        let turn = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        get_with(&upstream, &format!("/?user={turn}"), "x-user", &key.to_string()).await
    })
    .await;
    keys_stay(async |key| clients::get(&upstream, &format!("/?user={key}")).await).await;
}

/// After a router the policy of the service that a route leads to holds.
#[tokio::test(flavor = "multi_thread")]
async fn maglev_of_a_routed_service() {
    let (mut fleet, db, direct) = {
        let policy = hashed("maglev", json!([{"Field": "header", "FieldValue": "x-user"}]));
        scene_with(policy, |upstream| upstream).await
    };
    let front = fleet.service("front", "http").await;
    let route = json!({"Match": {"HTTP": {"PathPrefix": "/db/"}}, "Destination": {"Service": &db, "PrefixRewrite": "/"}});
    fleet.entry("service-router", &front, json!({"Routes": [route]})).await;
    fleet.run(&front, "front").await;
    let (_, upstream) = fleet.call(Upstream::new(&front).unwrap()).await;
    keys_stay(async |key| get_with(&upstream, "/db/", "x-user", &format!("user {key}")).await).await;
    // Two callers agree on who serves a key.
    keys_stay(async |key| {
        let address = if fastrand::bool() { &upstream } else { &direct };
        get_with(address, "/db/", "x-user", &format!("user {key}")).await
    })
    .await;
    assert_eq!(crate::fleet::answerer(&upstream, "/").await.unwrap(), "front");
}

/// The pair that `Set-Cookie` gives, and its attributes in lower case.
fn set_cookie(answer: &Response) -> Option<(String, Vec<String>)> {
    let text = answer.headers.get("set-cookie")?.to_str().unwrap();
    let mut parts = text.split(';').map(str::trim);
    let pair = parts.next().unwrap().to_owned();
    Some((pair, parts.map(str::to_ascii_lowercase).collect()))
}

/// A caller without the cookie gets one, once, and stays where its first call went. Returns the attributes of the cookie.
async fn cookie_is_made(config: Value) -> Vec<String> {
    let policies = json!([{"Field": "cookie", "FieldValue": "affinity", "CookieConfig": config}]);
    let (_fleet, upstream) = scene(hashed("maglev", policies)).await;
    let mut homes = BTreeSet::new();
    let mut attributes = Vec::new();
    for _ in 0..40 {
        let first = clients::get(&upstream, "/").await.unwrap();
        assert_eq!(first.headers.get_all("set-cookie").iter().count(), 1, "{:?}", first.headers);
        let (pair, new) = set_cookie(&first).unwrap();
        assert!(pair.strip_prefix("affinity=").is_some_and(|value| value.trim_matches('"').len() >= 8), "{pair}");
        let home = app_of(&first).unwrap();
        for _ in 0..5 {
            let next = get_with(&upstream, "/", "cookie", &format!("theme=dark; {pair}")).await.unwrap();
            assert_eq!((app_of(&next).unwrap(), set_cookie(&next)), (home.clone(), None));
        }
        homes.insert(home);
        attributes = new;
    }
    assert_eq!(homes.len(), INSTANCES.len(), "new callers are spread");
    attributes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cookie_is_made_once() {
    let attributes = cookie_is_made(json!({"Session": true, "Path": "/"})).await;
    assert!(attributes.contains(&"path=/".into()), "{attributes:?}");
    // Without a life it ends with the browser's session.
    assert!(!attributes.iter().any(|attribute| attribute.starts_with("max-age") || attribute.starts_with("expires")), "{attributes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_with_a_life_is_made_once() {
    let attributes = cookie_is_made(json!({"TTL": "30s", "Path": "/shop"})).await;
    assert!(attributes.contains(&"max-age=30".into()) && attributes.contains(&"path=/shop".into()), "{attributes:?}");
}

/// Without `CookieConfig` the cookie is the app's business.
#[tokio::test(flavor = "multi_thread")]
async fn ring_hash_by_a_cookie_of_the_app() {
    let (_fleet, upstream) = scene(hashed("ring_hash", json!([{"Field": "cookie", "FieldValue": "user"}]))).await;
    keys_stay(async |key| get_with(&upstream, "/", "cookie", &format!("a=1; user=u{key}; b=2")).await).await;
    let answer = clients::get(&upstream, "/").await.unwrap();
    assert_eq!(set_cookie(&answer), None);
}

/// A sticky session keeps its instance whatever the policy, when instances come, and as long as its own is well.
#[tokio::test(flavor = "multi_thread")]
async fn sticky_sessions_survive_scaling() {
    let sticky = |upstream: Upstream| upstream.config("aralez_sticky_cookie", "home");
    let (mut fleet, db, upstream) = scene_with(json!({"Policy": "random"}), sticky).await;
    let mut sessions = Vec::new();
    for _ in 0..30 {
        let answer = clients::get(&upstream, "/").await.unwrap();
        let (pair, _) = set_cookie(&answer).unwrap();
        let home = app_of(&answer).unwrap();
        // Sealed: it does not tell who the instance is.
        let address = fleet.registered(&home).public();
        let Address::Tcp(address) = address else { panic!("{address:?}") };
        assert!(!pair.contains(&home) && !pair.contains(&address.port().to_string()), "{pair}");
        sessions.push((pair, home));
    }
    let stay = async |gone: Option<&str>| {
        for (pair, home) in &sessions {
            let answer = get_with(&upstream, "/", "cookie", pair).await?;
            let name = app_of(&answer)?;
            match gone {
                Some(gone) if gone == home => anyhow::ensure!(name != gone && set_cookie(&answer).is_some(), "{answer:?}"),
                _ => anyhow::ensure!(name == *home && set_cookie(&answer).is_none(), "{home}: {answer:?}"),
            }
        }
        Ok(())
    };
    stay(None).await.unwrap();

    fleet.run(&db, "four").await;
    eventually("a share for the new one", PATIENCE, async || {
        anyhow::ensure!(shares(&upstream, 60).await.contains_key("four"), "none yet");
        Ok(())
    })
    .await
    .unwrap();
    stay(None).await.unwrap();

    let (_, lost) = &sessions[0];
    fleet.set_health(lost, "fail").await;
    eventually("new homes", PATIENCE, async || stay(Some(lost)).await).await.unwrap();
}
