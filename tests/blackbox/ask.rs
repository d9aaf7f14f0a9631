//! `aralez status`, `wait` and `drain`: what a running one is asked from outside.

use std::{
    net::TcpListener,
    process::Output,
    time::{Duration, Instant},
};

use aralez_integration::{net::Address, ports::free_port};
use serde_json::Value;

use crate::support::{
    fake_agent::{Endpoint, FakeAgent, Fault},
    mesh::{RECOVERY, web},
    sidecar::{Launch, aralez},
};

/// `aralez VERB -admin ADDRESS …`: exit code, standard output, standard error.
pub async fn ask(verb: &str, admin: &Address, more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = aralez();
    // Whoever runs in a container has one; it is not for the admin API.
    command.env("HTTP_PROXY", "http://127.0.0.1:1").args([verb, "-admin", &admin.to_string()]).args(more);
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_is_missing_and_then_where_it_listens() {
    let agent = FakeAgent::start().await;
    let sidecar = web(vec![]);
    agent.register(&sidecar);
    agent.fail(Endpoint::Leaf, Fault::Status(500));
    let mut web = Launch::sidecar_for(&agent, "web-1").spawn();
    web.not_ready_for(&[": leaf"]).await;
    let (code, stdout, stderr) = ask("status", web.admin_address(), &[]).await;
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.starts_with("not ready\n") && stdout.contains("missing  web-1-sidecar-proxy: leaf"), "{stdout}");

    agent.heal(Endpoint::Leaf);
    web.ready().await;
    let (code, stdout, stderr) = ask("status", web.admin_address(), &[]).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let public = format!("127.0.0.1:{}  http", sidecar.public_port);
    assert!(stdout.starts_with("ready\n") && stdout.contains(&public), "{stdout}");
    assert!(stdout.lines().any(|line| line.starts_with("  watch    leaf web ") && line.ends_with("  answers")), "{stdout}");
    let (code, stdout, _) = ask("status", web.admin_address(), &["-format", "json"]).await;
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &status["ready"], &status["missing"]), (Some(0), &Value::Bool(true), &Value::Array(vec![])));
    assert_eq!(status["listeners"][0]["address"], format!("127.0.0.1:{}", sidecar.public_port));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_nobody_is_a_failure_that_says_where_was_asked() {
    let nobody = Address::port(free_port().unwrap());
    let (code, stdout, stderr) = ask("status", &nobody, &[]).await;
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(stderr.contains(&nobody.to_string()) && stderr.contains("-admin-bind"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_when_it_is_ready_and_says_what_is_missing_when_it_is_not() {
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![]));
    agent.fail(Endpoint::Leaf, Fault::Status(500));
    let mut web = Launch::sidecar_for(&agent, "web-1").spawn();
    web.not_ready_for(&[": leaf"]).await;
    let (code, _, stderr) = ask("wait", web.admin_address(), &["-timeout-seconds", "0"]).await;
    assert!(code == Some(1) && stderr.contains("web-1-sidecar-proxy: leaf"), "{stderr}");
    let heal = async { agent.heal(Endpoint::Leaf) };
    let ((code, _, stderr), ()) = tokio::join!(ask("wait", web.admin_address(), &[]), heal);
    assert_eq!(code, Some(0), "{stderr}");
    web.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_is_over_in_time_where_nobody_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let (code, _, stderr) = ask("wait", &Address::Tcp(silent.local_addr().unwrap()), &["-timeout-seconds", "0"]).await;
    assert!(code == Some(1) && stderr.contains("does not answer"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(5), "an answer that is waited for whole takes that: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_ends_it() {
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![]));
    let mut web = Launch::sidecar_for(&agent, "web-1").start().await;
    let (code, _, stderr) = ask("drain", web.admin_address(), &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(web.exit(RECOVERY).await.code(), Some(0));
    let (code, ..) = ask("drain", web.admin_address(), &[]).await;
    assert_eq!(code, Some(1));
}
