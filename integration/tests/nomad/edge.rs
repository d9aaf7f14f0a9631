//! The other jobs of `nomad/`.

use std::fs;

use anyhow::ensure;
use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::wait::eventually;
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
        let edge = Address::Tcp(format!("{HOST}:8080").parse().unwrap());
        let answered = eventually("Nomad's own service through the edge", PATIENCE, async || {
            let request = Request::get("/v1/agent/health").header("host", "nomad.example").body(bytes::Bytes::new())?;
            let answer = clients::once(&edge, request).await?;
            ensure!(answer.status == 200 && answer.text().contains("\"client\""), "{}: {}", answer.status, answer.text());
            Ok(())
        });
        answered.await.unwrap();
    });
}
