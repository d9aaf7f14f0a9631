//! Consul's built-in proxy as the other end: tcp only, TLS without SNI and without ALPN.

use aralez_integration::apps;
use aralez_integration::consul::Agent;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::{Sidecar, builtin_proxy};
use aralez_integration::wait::eventually;

use crate::scene::{PATIENCE, caller, tcp_refused, tcp_works, unique};

/// The lab itself: both ends are Consul's own. What fails here is not Aralez.
#[tokio::test(flavor = "multi_thread")]
async fn builtin_calls_builtin() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap();
    let web = caller(Upstream::new(&db.name).unwrap());
    agent.register(&db).await.unwrap();
    agent.register(&web).await.unwrap();
    let _db = builtin_proxy(&agent, &db).await.unwrap();
    agent.healthy(&db.name, 1).await.unwrap();
    let _web = builtin_proxy(&agent, &web).await.unwrap();

    let upstream = web.upstreams[0].address();
    eventually("an echo", PATIENCE, async || tcp_works(&upstream).await).await.unwrap();
    agent.intention(&web.name, &db.name, "deny").await.unwrap();
    eventually("a refusal", PATIENCE, async || tcp_refused(&upstream).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn builtin_calls_aralez() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap();
    let web = caller(Upstream::new(&db.name).unwrap());
    agent.register(&db).await.unwrap();
    agent.register(&web).await.unwrap();
    let _db = Sidecar::start(&agent, &db).await.unwrap();
    agent.healthy(&db.name, 1).await.unwrap();
    let _web = builtin_proxy(&agent, &web).await.unwrap();

    let upstream = web.upstreams[0].address();
    eventually("an echo", PATIENCE, async || tcp_works(&upstream).await).await.unwrap();
    agent.intention(&web.name, &db.name, "deny").await.unwrap();
    eventually("a refusal", PATIENCE, async || tcp_refused(&upstream).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn aralez_calls_builtin() {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let db = Service::new(unique("db"), &app.address).unwrap();
    let web = caller(Upstream::new(&db.name).unwrap());
    agent.register(&db).await.unwrap();
    agent.register(&web).await.unwrap();
    let _db = builtin_proxy(&agent, &db).await.unwrap();
    agent.healthy(&db.name, 1).await.unwrap();
    let _web = Sidecar::start(&agent, &web).await.unwrap();

    let upstream = web.upstreams[0].address();
    tcp_works(&upstream).await.unwrap();
    agent.intention(&web.name, &db.name, "deny").await.unwrap();
    eventually("a refusal", PATIENCE, async || tcp_refused(&upstream).await).await.unwrap();
}
