//! The reverse proxy: `nomad/edge.nomad.hcl`, `nomad/native.nomad.hcl`.

use std::fs;

use anyhow::ensure;
use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::Request;

use crate::agent::{Agent, PATIENCE, folder, shipped};
use crate::lab::{self, HOST};

#[test]
fn the_reverse_proxy_runs_as_a_system_job_and_all_jobs_are_valid() {
    lab::inside("edge::the_reverse_proxy_runs_as_a_system_job_and_all_jobs_are_valid", || async {
        let agent = Agent::start().await;
        for job in
            fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "hcl"))
        {
            let file = job.to_str().unwrap();
            agent.nomad(&["fmt", "-check", file]).unwrap();
            println!("{file}: {}", agent.nomad(&["job", "validate", file]).unwrap());
        }
        agent.run(&shipped("edge.nomad.hcl"), &[]);
        agent.allocations("edge", "edge", 1).await;
        answers(8080, "nomad.example", "/v1/agent/health", 200, "\"client\"").await;
    });
}

#[test]
fn the_reverse_proxy_is_a_connect_native_service() {
    lab::inside("edge::the_reverse_proxy_is_a_connect_native_service", || async {
        let agent = Agent::start().await;
        agent.run(&shipped("mesh.nomad.hcl"), &[]);
        is_native(&agent, &[]).await;
    });
}

/// `native.nomad.hcl` calls `api` of the running `mesh.nomad.hcl` as its intentions say.
pub async fn is_native(agent: &Agent, variables: &[&str]) {
    agent.run(&shipped("native.nomad.hcl"), variables);
    agent.allocations("native", "edge", 1).await;
    for (action, status, text) in [("allow", 200, "api-"), ("deny", 403, ""), ("allow", 200, "api-")] {
        agent.consul.intention("edge", "api", action).await.unwrap();
        answers(8081, "api.example", "/", status, text).await;
    }
}

/// Waits until the edge on `port` of the host answers so.
async fn answers(port: u16, host: &str, path: &str, status: u16, text: &str) {
    let edge = Address::Tcp(format!("{HOST}:{port}").parse().unwrap());
    let what = format!("{status} of {host}{path}");
    let answered = eventually(&what, PATIENCE, async || {
        let request = Request::get(path).header("host", host).body(Bytes::new())?;
        let answer = clients::once(&edge, request).await?;
        ensure!(answer.status == status && answer.text().contains(text), "{}: {}", answer.status, answer.text());
        Ok(())
    });
    answered.await.unwrap();
}
