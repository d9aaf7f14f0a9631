//! `nomad/mesh.nomad.hcl`: two services, three allocations, their traffic through sidecars.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aralez_integration::book;
use aralez_integration::clients;
use aralez_integration::components;
use aralez_integration::load::Load;
use aralez_integration::net::{Address, Stream};
use aralez_integration::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::{Agent, PATIENCE, id, port, shipped};
use crate::lab;

/// The task of a sidecar that has no name of its own.
const SIDECAR: &str = "connect-proxy-";

/// What stands in for `aralez connect` in the job's text.
const OURS: &str = "\
            command = var.aralez
            args    = [\"connect\", \"-shutdown-grace-period-seconds\", \"25\"]
";

/// `GET path` at `web`'s app answers 200; the body.
async fn ask(web: &Address, path: &str) -> Result<String> {
    let answer = clients::get(web, path).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(answer.text())
}

/// Waits until `web` is answered by both instances of `api`.
pub async fn both_answer(web: &Address) {
    let mut seen = BTreeSet::new();
    let all = ["api-0", "api-1"].map(str::to_owned).into();
    let both = eventually("answers of both instances", PATIENCE, async || {
        seen.insert(ask(web, "/5000/").await?);
        ensure!(seen == all, "only {seen:?}");
        Ok(())
    });
    both.await.unwrap();
}

/// Waits until the call of `api` is answered so.
async fn answered(web: &Address, status: u16) {
    let seen = eventually("the answer", PATIENCE, async || {
        let answer = clients::get(web, "/5000/").await?;
        ensure!(answer.status == status, "{}", answer.status);
        Ok(())
    });
    seen.await.unwrap();
}

/// Writes an intention and waits until it shows; how long that took.
pub async fn intend(agent: &Agent, web: &Address, action: &str, status: u16) {
    agent.consul.intention("web", "api", action).await.unwrap();
    let written = Instant::now();
    answered(web, status).await;
    println!("{action} shows after {:?}", written.elapsed());
}

#[test]
fn the_shipped_job_lives_changes_and_stops_in_order() {
    lab::inside("mesh::the_shipped_job_lives_changes_and_stops_in_order", || async {
        let agent = Agent::start().await;
        let job = shipped("mesh.nomad.hcl");
        let page = book::steps("docs/quick-start.md", "With Nomad").unwrap();
        // The agents are those of this test.
        let [_consul, _nomad, run, deny] = page.as_slice() else { panic!("{page:?}") };
        agent.shell(&run.line);
        let before = agent.allocations("mesh", "web", 1).await.remove(0);
        let web = port(&before, "http");
        both_answer(&web).await;
        agent.shell(&deny.line);
        answered(&web, 403).await;
        intend(&agent, &web, "allow", 200).await;
        changes_in_place(&agent, &web, &job, &before["TaskStates"][&format!("{SIDECAR}web")]["StartedAt"], id(&before)).await;
        restarts_in_order(&agent, &web).await;
        stops_in_order(&agent, &web).await;
    });
}

/// Further upstreams reach the running sidecar: another destination, and the same on another port, which Consul takes if it names a datacenter.
async fn changes_in_place(agent: &Agent, web: &Address, job: &str, started: &serde_json::Value, allocation: &str) {
    const UPSTREAMS: &str = "            dynamic \"upstreams\" {\n";
    const AGAIN: &str = "            upstreams {
              destination_name = \"api\"
              datacenter       = \"dc1\"
              local_bind_port  = 5002

              config {
                protocol = \"http\"
              }
            }

";
    for path in ["/5001/", "/5002/"] {
        assert_eq!(clients::get(web, path).await.unwrap().status, 502, "nobody listens there yet");
    }
    assert_eq!(job.matches(UPSTREAMS).count(), 1);
    agent.run(&job.replace(UPSTREAMS, &format!("{AGAIN}{UPSTREAMS}")), &["upstreams={api = 5000, db = 5001}"]);
    let opened = eventually("the listeners of both upstreams", PATIENCE, async || {
        // There is no `db`: the sidecar itself says so.
        for (path, status) in [("/5001/", 503), ("/5002/", 200)] {
            let answer = clients::get(web, path).await?;
            ensure!(answer.status == status, "{path}: {}", answer.status);
        }
        ask(web, "/5002/").await
    });
    assert!(opened.await.unwrap().starts_with("api-"));
    let after = agent.allocations("mesh", "web", 1).await.remove(0);
    assert_eq!(id(&after), allocation);
    assert_eq!(&after["TaskStates"][&format!("{SIDECAR}web")]["StartedAt"], started, "it is the same process");
}

/// Requests that take longer than all that Nomad waits for before it signals. Their answers have begun.
async fn begin(web: &Address, count: usize) -> Vec<Stream> {
    let mut begun = Vec::new();
    for _ in 0..count {
        let mut stream = web.connect().await.unwrap();
        stream.write_all(b"GET /5000/slow HTTP/1.0\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        begun.push(stream);
    }
    begun
}

/// Whose answers come to their end: all of them do.
async fn end(begun: Vec<Stream>) -> BTreeSet<String> {
    let mut instances = BTreeSet::new();
    for mut stream in begun {
        let mut body = String::new();
        stream.read_to_string(&mut body).await.unwrap();
        assert!(body.starts_with("api-"), "cut off: {body:?}");
        instances.insert(body);
    }
    instances
}

/// The sidecar of `api` in this allocation got this signal and ended well.
pub fn drained(agent: &Agent, allocation: &str, signal: &str) {
    let task = format!("{SIDECAR}api");
    let events = agent.allocation(allocation).unwrap()["TaskStates"][&task]["Events"].clone();
    let terminated = events.as_array().unwrap().iter().find(|event| event["Type"] == "Terminated").context("no end").unwrap();
    assert_eq!(terminated["ExitCode"], 0, "{events:#}");
    let log = agent.log(allocation, &task);
    assert!(log.contains(&format!("{signal}: draining")), "{log}");
}

/// A sidecar that restarts alone, beside its app, first finishes what it has begun.
async fn restarts_in_order(agent: &Agent, web: &Address) {
    let before = agent.allocations("mesh", "api", 2).await.remove(0);
    let (restarted, task) = (id(&before), format!("{SIDECAR}api"));
    // Some go to each instance.
    let begun = begin(web, 8).await;
    agent.nomad(&["alloc", "restart", "-task", &task, restarted]).unwrap();
    assert_eq!(end(begun).await.len(), 2);
    let again = eventually("the new process", PATIENCE, async || {
        let state = &agent.allocation(restarted)?["TaskStates"][&task];
        ensure!(state["Restarts"] == 1 && state["State"] == "running", "{state:#}");
        Ok(())
    });
    again.await.unwrap();
    drained(agent, restarted, "SIGINT");
    both_answer(web).await;
}

/// Stopping an allocation under load fails no request: its service is gone before anything ends, and the sidecar drains.
async fn stops_in_order(agent: &Agent, web: &Address) {
    let stopped = agent.allocations("mesh", "api", 2).await.remove(0);
    let stopped = id(&stopped);
    let target = web.clone();
    let load = Load::start(2, move |_: Option<()>| {
        let target = target.clone();
        async move { ask(&target, "/5000/").await.map(drop) }
    });
    load.progress(20, PATIENCE).await.unwrap();
    let begun = begin(web, 8).await;
    agent.nomad(&["alloc", "stop", "-detach", stopped]).unwrap();
    assert_eq!(end(begun).await.len(), 2);
    agent.ended(stopped).await;
    drained(agent, stopped, "SIGINT");
    let services = agent.consul.get("/v1/agent/services").await.unwrap();
    assert!(!services.to_string().contains(stopped), "{services:#}");
    let report = load.stop().await.unwrap();
    report.flawless(20).unwrap();
    println!("{} requests while an allocation stopped", report.ok);
    both_answer(web).await;
}

/// The job with other arguments for the sidecars of `api` and of `web`.
fn with(api: &str, web: &str) -> String {
    let job = shipped("mesh.nomad.hcl");
    assert_eq!(job.matches(OURS).count(), 2);
    job.replacen(OURS, api, 1).replacen(OURS, web, 1)
}

/// Envoy's own arguments, as Nomad gives them to the image of a sidecar, for a program.
fn as_envoy(command: &str) -> String {
    let args = r#"["-c", "${NOMAD_SECRETS_DIR}/envoy_bootstrap.json", "-l", "info", "--concurrency", "1", "--disable-hot-restart"]"#;
    // Envoy finds its socket to Consul's gRPC by a relative path.
    format!("            command  = {command}\n            args     = {args}\n            work_dir = \"${{NOMAD_ALLOC_DIR}}/..\"\n")
}

async fn mixed(job: String) {
    let agent = Agent::start().await;
    agent.run(&job, &[]);
    let web = port(&agent.allocations("mesh", "web", 1).await[0], "http");
    both_answer(&web).await;
    intend(&agent, &web, "deny", 403).await;
    intend(&agent, &web, "allow", 200).await;
}

#[test]
fn envoy_before_api_and_aralez_started_as_envoy_before_web() {
    lab::inside("mesh::envoy_before_api_and_aralez_started_as_envoy_before_web", || async {
        let envoy = format!("{:?}", components::envoy().unwrap());
        mixed(with(&as_envoy(&envoy), &as_envoy("var.aralez"))).await;
    });
}

#[test]
fn aralez_before_api_and_envoy_before_web() {
    lab::inside("mesh::aralez_before_api_and_envoy_before_web", || async {
        let envoy = format!("{:?}", components::envoy().unwrap());
        mixed(with(&as_envoy("var.aralez"), &as_envoy(&envoy))).await;
    });
}
