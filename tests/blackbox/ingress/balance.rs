//! Weights, and servers that warm up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aralez_integration::{
    apps::{App, http_echo},
    clients::HttpClient,
};
use http::Method;

use super::{Edge, push, request};

fn routes(servers: &str, more: &str) -> String {
    format!("upstreams: {{DEFAULT: {{paths: {{/: {{servers: [{servers}], healthcheck: false, {more}}}}}}}}}\n")
}

fn weighing(app: &App, weight: u32) -> String {
    format!("{{address: 'http://{}', weight: {weight}}}", app.address)
}

/// How many of so many requests, one after the other, each app answers.
async fn shares(edge: &Edge, requests: u32) -> BTreeMap<String, u32> {
    let (mut client, mut shares) = (HttpClient::http1(&edge.http).await.unwrap(), BTreeMap::new());
    for _ in 0..requests {
        let answer = client.send(request(Method::GET, "shop.test", "/", &[])).await.unwrap();
        assert_eq!(answer.status, 200);
        *shares.entry(answer.headers["x-app"].to_str().unwrap().to_owned()).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn servers_get_their_weights_share() {
    let [light, heavy] = [http_echo("light").await.unwrap(), http_echo("heavy").await.unwrap()];
    let servers = format!("{}, {}", weighing(&light, 1), weighing(&heavy, 3));
    let edge = Edge::start(&routes(&servers, "balance: round_robin")).await;
    for balance in ["round_robin", "random", "least_request"] {
        assert_eq!(push(&edge, "", &routes(&servers, &format!("balance: {balance}"))).await.status, 200);
        // So many that chance stays within a tenth but once in millions of runs.
        let shares = shares(&edge, 8_000).await;
        println!("{balance}: {shares:?}");
        assert!((1_800..=2_200).contains(&shares["light"]) && (5_400..=6_600).contains(&shares["heavy"]), "{balance}: {shares:?}");
    }
    let turned = format!("{}, {}", weighing(&light, 3), weighing(&heavy, 1));
    assert_eq!(push(&edge, "", &routes(&turned, "balance: round_robin")).await.status, 200);
    let shares = shares(&edge, 2_000).await;
    assert!((1_350..=1_650).contains(&shares["light"]), "new weights hold from the reload on: {shares:?}");
}

#[tokio::test]
async fn a_new_server_warms_up() {
    const WINDOW: f64 = 12.0;
    let [old, new] = [http_echo("old").await.unwrap(), http_echo("new").await.unwrap()];
    let (one, slow) = (weighing(&old, 1), format!("slow_start: {WINDOW}s"));
    let edge = Edge::start(&routes(&one, &slow)).await;
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < WINDOW {
        assert_eq!(shares(&edge, 50).await["old"], 50, "who is alone gets everything, warm or cold");
    }
    let joined = Instant::now();
    assert_eq!(push(&edge, "", &routes(&format!("{one}, {}", weighing(&new, 1)), &slow)).await.status, 200);
    let cold = f64::from(shares(&edge, 300).await.get("new").copied().unwrap_or_default()) / 300.0;
    // Its share is at most what belongs to the age that it had at the end; chance adds less than 0.1.
    let warmth = (joined.elapsed().as_secs_f64() / WINDOW).clamp(0.1, 1.0);
    println!("share {cold:.2} at an age of {:?}, warmth {warmth:.2}", joined.elapsed());
    assert!(cold < warmth / (1.0 + warmth) + 0.1 && cold > 0.0, "{cold} at warmth {warmth}");
    while joined.elapsed() < Duration::from_secs_f64(WINDOW) {
        assert!(shares(&edge, 50).await["old"] > 0);
    }
    let warm = shares(&edge, 400).await;
    assert!((180..=220).contains(&warm["new"]), "{warm:?}");
}
