//! ACLs on, `default_policy = "deny"`: a service identity is all a sidecar needs.

use std::fs;

use anyhow::{Context, ensure};
use aralez_integration::apps;
use aralez_integration::consul::{Agent, Options};
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Launch;
use aralez_integration::wait::{eventually, steadily};

use crate::scene::{PATIENCE, SOON, caller, http_answers, socket};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_identity_suffices() {
    let agent = Agent::start(Options::acl()).await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let db = Service::new("db", &app.address).unwrap().protocol("http");
    let web = caller(Upstream::new("db").unwrap().protocol("http")).protocol("http");
    agent.register(&db).await.unwrap();
    agent.register(&web).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token_file = socket(&folder, "token");
    fs::write(&token_file, agent.service_token("db").await.unwrap()).unwrap();

    let from_file = Launch::sidecar_for(&agent, "db").unwrap().env("CONSUL_HTTP_TOKEN_FILE", token_file.to_str().unwrap());
    let _db = from_file.start().await.unwrap();
    agent.healthy("db", 1).await.unwrap();
    let token = agent.service_token(&web.name).await.unwrap();
    let _web = Launch::proxy_id(&agent, &web.proxy_id()).unwrap().env("CONSUL_HTTP_TOKEN", &token).start().await.unwrap();

    // The ACL default is the default of intentions.
    let upstream = web.upstreams[0].address();
    http_answers(&upstream, 403).await.unwrap();
    agent.intention(&web.name, "db", "allow").await.unwrap();
    eventually("200", SOON, async || http_answers(&upstream, 200).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_is_read_again() {
    let agent = Agent::start(Options::acl()).await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let db = Service::new("db", &app.address).unwrap().protocol("http");
    agent.register(&db).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token_file = socket(&folder, "token");
    // Not a token of another service: the agent keeps leaves of registered services at hand and gives them to anyone it knows.
    fs::write(&token_file, "11111111-2222-3333-4444-555555555555").unwrap();

    // By its ID: finding it through the list of services would come back empty and end the start.
    let launch = Launch::proxy_id(&agent, &db.proxy_id()).unwrap().env("CONSUL_HTTP_TOKEN_FILE", token_file.to_str().unwrap());
    let mut sidecar = launch.spawn().unwrap();
    eventually("the admin API", PATIENCE, async || sidecar.admin("/ready").await.map(drop)).await.unwrap();
    steadily(SOON, async || {
        let answer = sidecar.admin("/ready").await?;
        ensure!(answer.status == 503, "{}", answer.status);
        ensure!(db.public().connect().await.is_err(), "the public listener is open");
        Ok(())
    })
    .await
    .context("not allowed to know anything yet")
    .unwrap();

    fs::write(&token_file, agent.service_token("db").await.unwrap()).unwrap();
    sidecar.ready().await.unwrap();
    agent.healthy("db", 1).await.unwrap();
}
