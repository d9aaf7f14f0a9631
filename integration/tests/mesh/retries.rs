//! Which tries are repeated.

use anyhow::Result;
use aralez_integration::apps::HANG_UP;
use aralez_integration::clients::{self, request};
use aralez_integration::net::Address;
use aralez_integration::registration::{Check, Service, Upstream};
use http::Method;
use serde_json::{Value, json};

use crate::fleet::{Fleet, shares};
use crate::scene::{all_hold, unique};

/// `db` with one instance of that name, a router with one route for everything under each of the prefixes, and a caller.
async fn scene(routes: &[(&str, Value)]) -> (Fleet, Address) {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    let route = |(prefix, destination): &(&str, Value)| json!({"Match": {"HTTP": {"PathPrefix": prefix}}, "Destination": destination});
    fleet.entry("service-router", &db, json!({"Routes": routes.iter().map(route).collect::<Vec<_>>()})).await;
    fleet.run(&db, "db").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    (fleet, upstream)
}

/// Asks once while the app answers with `answers` in turn (then 200): the status that comes back, and how often the app was asked.
async fn asked(fleet: &Fleet, address: &Address, method: Method, path: &str, answers: &[u16]) -> Result<(u16, u64)> {
    let app = fleet.of("db");
    // What the row before left over.
    while clients::get(address, "/").await?.status != 200 {}
    let before = app.requests();
    app.answer_next(answers.iter().copied());
    let answer = clients::once(address, request(method, path, "a body")?).await?;
    Ok((answer.status.as_u16(), app.requests() - before))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_repeated_as_the_route_says() {
    let (fleet, upstream) = scene(&[
        ("/5xx", json!({"RetryOn": ["5xx"]})),
        ("/three", json!({"RetryOn": ["5xx"], "NumRetries": 3})),
        ("/gateway", json!({"RetryOn": ["gateway-error"]})),
        ("/conflict", json!({"RetryOn": ["retriable-4xx"]})),
        ("/codes", json!({"RetryOnStatusCodes": [418, 429]})),
        ("/connect", json!({"RetryOnConnectFailure": true})),
        ("/number", json!({"NumRetries": 3})),
    ])
    .await;
    // Prefix, the app's answers, the status that comes back, how often the app was asked.
    let table: &[(Method, &str, &[u16], u16, u64)] = &[
        (Method::GET, "/5xx", &[500], 200, 2),
        (Method::GET, "/5xx", &[503, 502], 502, 2),
        (Method::GET, "/5xx", &[404], 404, 1),
        // Envoy repeats a POST whose route says so, with its body.
        (Method::POST, "/5xx", &[503], 200, 2),
        (Method::GET, "/three", &[503, 503, 503], 200, 4),
        (Method::GET, "/three", &[503, 503, 503, 504], 504, 4),
        (Method::GET, "/gateway", &[502], 200, 2),
        (Method::GET, "/gateway", &[504], 200, 2),
        (Method::GET, "/gateway", &[500], 500, 1),
        (Method::GET, "/conflict", &[409], 200, 2),
        (Method::GET, "/conflict", &[400], 400, 1),
        (Method::GET, "/codes", &[418], 200, 2),
        (Method::GET, "/codes", &[429], 200, 2),
        (Method::GET, "/codes", &[503], 503, 1),
        (Method::GET, "/connect", &[503], 503, 1),
        // A number without a condition repeats nothing (Envoy, seen).
        (Method::GET, "/number", &[503], 503, 1),
        // No route: nothing is repeated once the app has answered, a POST least of all.
        (Method::GET, "/none", &[503], 503, 1),
        (Method::POST, "/none", &[500], 500, 1),
        // The app's sidecar answers 503 when the app hangs up; it does not know whether the app has acted.
        (Method::POST, "/none", &[HANG_UP], 503, 1),
        (Method::POST, "/5xx", &[HANG_UP], 200, 2),
    ];
    let mut rows = Vec::new();
    for (method, path, answers, status, times) in table {
        let outcome = asked(&fleet, &upstream, method.clone(), path, answers).await.and_then(|seen| {
            anyhow::ensure!(seen == (*status, *times), "{seen:?}");
            Ok(())
        });
        rows.push((format!("{method} {path} answered {answers:?} gives {:?}", (status, times)), outcome));
    }
    all_hold(rows).unwrap();
}

/// The body comes again with the repeated try.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_post_brings_its_body_again() {
    let (fleet, upstream) = scene(&[("/5xx", json!({"RetryOn": ["5xx"]}))]).await;
    fleet.of("db").answer_next([503]);
    let answer = clients::post(&upstream, "/5xx", "hello").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str(), fleet.of("db").requests()), (200, "hello", 2));
}

/// An instance that Consul believes in and where nobody listens.
fn absent(service: &str) -> Service {
    let nobody = Address::port(aralez_integration::ports::free_port().unwrap());
    Service::new(service, &nobody).unwrap().id(unique("absent")).check(Check::Ttl)
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_failures_are_repeated_elsewhere() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    let route = json!({"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"RetryOnConnectFailure": true, "NumRetries": 3}});
    fleet.entry("service-router", &db, json!({"Routes": [route]})).await;
    fleet.agent.register(&absent(&db)).await.unwrap();
    fleet.run(&db, "db").await;
    fleet.agent.healthy(&db, 2).await.unwrap();
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;

    assert_eq!(shares(&upstream, 50).await["db"], 50);
    for _ in 0..20 {
        assert_eq!(clients::post(&upstream, "/", "hello").await.unwrap().text(), "hello");
    }
}

/// gRPC conditions look at the status in the answer's head.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_statuses_are_repeated() {
    let conditions = [("cancelled", 1), ("deadline-exceeded", 4), ("internal", 13), ("resource-exhausted", 8), ("unavailable", 14)];
    let prefixes = conditions.map(|(condition, _)| format!("/{condition}"));
    let routes: Vec<_> =
        prefixes.iter().zip(conditions).map(|(prefix, (condition, _))| (prefix.as_str(), json!({"RetryOn": [condition]}))).collect();
    let (fleet, upstream) = scene(&routes).await;
    let mut rows = Vec::new();
    for (condition, status) in conditions {
        for (answered, times) in [(status, 2), (5, 1)] {
            let path = format!("/{condition}/echo?header=grpc-status:{answered}");
            let outcome = asked(&fleet, &upstream, Method::GET, &path, &[]).await.and_then(|seen| {
                anyhow::ensure!(seen == (200, times), "{seen:?}");
                Ok(())
            });
            rows.push((format!("{path} asked {times} times"), outcome));
        }
    }
    all_hold(rows).unwrap();
}

/// Each try goes to the load balancer anew: in turns, the next one is the other instance.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_try_may_go_to_another_instance() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    let route = json!({"Match": {"HTTP": {"PathPrefix": "/"}}, "Destination": {"RetryOn": ["gateway-error"]}});
    fleet.entry("service-router", &db, json!({"Routes": [route]})).await;
    fleet.run(&db, "well").await;
    fleet.run(&db, "ill").await;
    // Nobody is left out for failing.
    let upstream = Upstream::new(&db).unwrap().config("passive_health_check", json!({"enforcing_consecutive_5xx": 0}));
    let (_, upstream) = fleet.call(upstream).await;
    fleet.of("ill").answer_always(503);
    assert_eq!(shares(&upstream, 40).await["well"], 40);
    assert!(fleet.of("ill").requests() >= 15, "{}", fleet.of("ill").requests());
}
