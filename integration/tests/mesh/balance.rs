//! Several instances: the load is shared, and one that dies is not missed.

use aralez_integration::apps::{self, App};
use aralez_integration::clients::HttpClient;
use aralez_integration::consul::Agent;
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;

use crate::scene::{PATIENCE, caller, kept_alive_get, tcp_works, unique};

/// Two instances of one service, and a caller.
struct Twins {
    sidecars: [Sidecar; 2],
    name: String,
    upstream: Address,
    _caller: Sidecar,
}

async fn twins(agent: &Agent, protocol: &str, apps: [&App; 2]) -> Twins {
    let name = unique("db");
    let mut sidecars = Vec::new();
    for (number, app) in apps.into_iter().enumerate() {
        let instance = Service::new(&name, &app.address).unwrap().id(format!("{name}-{number}")).protocol(protocol);
        agent.register(&instance).await.unwrap();
        sidecars.push(Sidecar::start(agent, &instance).await.unwrap());
    }
    agent.healthy(&name, 2).await.unwrap();
    let web = caller(Upstream::new(&name).unwrap().protocol(protocol)).protocol(protocol);
    agent.register(&web).await.unwrap();
    let caller = Sidecar::start(agent, &web).await.unwrap();
    Twins { sidecars: sidecars.try_into().unwrap(), name, upstream: web.upstreams[0].address(), _caller: caller }
}

/// Within 10 % of an even share.
fn assert_even(first: u64, second: u64, total: u64) {
    assert_eq!(first + second, total);
    let share = total / 2;
    assert!(first.abs_diff(share) * 10 <= share, "{first} and {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_are_shared_evenly() {
    const REQUESTS: u64 = 400;
    let agent = Agent::shared().await.unwrap();
    let (one, two) = (apps::http_echo("one").await.unwrap(), apps::http_echo("two").await.unwrap());
    let twins = twins(&agent, "http", [&one, &two]).await;

    // On one connection: what is balanced is the request.
    let mut client = HttpClient::http1(&twins.upstream).await.unwrap();
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    assert_even(one.requests(), two.requests(), REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_are_shared_evenly() {
    const CONNECTIONS: u64 = 100;
    let agent = Agent::shared().await.unwrap();
    let (one, two) = (apps::tcp_echo().await.unwrap(), apps::tcp_echo().await.unwrap());
    let twins = twins(&agent, "tcp", [&one, &two]).await;

    for _ in 0..CONNECTIONS {
        tcp_works(&twins.upstream).await.unwrap();
    }
    assert_even(one.connections(), two.connections(), CONNECTIONS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_is_not_missed() {
    let agent = Agent::shared().await.unwrap();
    let (one, two) = (apps::http_echo("one").await.unwrap(), apps::http_echo("two").await.unwrap());
    let mut twins = twins(&agent, "http", [&one, &two]).await;

    let address = twins.upstream.clone();
    let load = Load::start(4, move |client| {
        let address = address.clone();
        async move { kept_alive_get(client, &address).await }
    });
    load.progress(500, PATIENCE).await.unwrap();
    twins.sidecars[0].kill().unwrap();
    load.progress(500, PATIENCE).await.unwrap();
    agent.healthy(&twins.name, 1).await.unwrap();
    load.progress(1000, PATIENCE).await.unwrap();
    load.stop().await.unwrap().flawless(2000).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_costs_no_new_tcp_connection() {
    let agent = Agent::shared().await.unwrap();
    let (one, two) = (apps::tcp_echo().await.unwrap(), apps::tcp_echo().await.unwrap());
    let mut twins = twins(&agent, "tcp", [&one, &two]).await;

    twins.sidecars[0].kill().unwrap();
    let address = twins.upstream.clone();
    let load = Load::start(2, move |_| {
        let address = address.clone();
        async move { tcp_works(&address).await }
    });
    load.progress(200, 2 * PATIENCE).await.unwrap();
    load.stop().await.unwrap().flawless(200).unwrap();
    assert_eq!(one.connections(), 0);
    assert!(two.connections() >= 200);
}
