//! Envoy as a sidecar, driven by the agent's xDS: the foreign peer that speaks everything, and the reference.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::clients;
use crate::components;
use crate::consul::Agent;
use crate::net::Address;
use crate::ports::free_port;
use crate::process::{Process, Signal};
use crate::registration::{Service, Upstream};
use crate::wait::eventually;

/// From the start to the last listener; seen: 1 s, more on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A running Envoy. Dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Address,
}

impl Envoy {
    /// Starts the sidecar of a registered service and waits until it is live and listens on its public port and for its upstreams.
    ///
    /// # Errors
    /// When there is no Envoy or no Consul program, or it does not come up.
    pub async fn start(agent: &Agent, service: &Service) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(components::envoy()?);
        // JSON is YAML. No shared memory, so that any number of them run beside each other. Connections that hold an old
        // configuration are closed after a second, not after Envoy's ten minutes.
        command.arg("--config-yaml").arg(bootstrap(agent, service, port)?);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "1"]);
        let process = Process::start(format!("envoy for {}", service.id), command, Duration::ZERO)?;
        let mut envoy = Self { process, admin: Address::port(port) };
        envoy.ready(service).await?;
        Ok(envoy)
    }

    async fn ready(&mut self, service: &Service) -> Result<()> {
        let admin = self.admin.clone();
        let waiting = eventually("a live Envoy", START, async || {
            if let Some(status) = self.process.exited()? {
                // No use in waiting on: the caller sees it at once through the outer result.
                return Ok(Err(status));
            }
            let answer = clients::get(&admin, "/ready").await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            for listener in service.upstreams.iter().map(Upstream::address).chain([service.public()]) {
                listener.connect().await?;
            }
            Ok(Ok(()))
        });
        match waiting.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("Envoy ended with {status}:\n{}", self.process.log()),
            Err(error) => Err(error.context(self.process.log())),
        }
    }

    /// `GET` on the admin API, body as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn admin(&self, path: &str) -> Result<String> {
        Ok(clients::get(&self.admin, path).await?.text())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// What `consul connect envoy` would start Envoy with: JSON.
fn bootstrap(agent: &Agent, service: &Service, admin_port: u16) -> Result<String> {
    let mut command = Command::new(components::consul()?);
    let admin = format!("127.0.0.1:{admin_port}");
    command.args(["connect", "envoy", "-sidecar-for", &service.id, "-bootstrap", "-admin-bind", &admin]);
    command.env("CONSUL_HTTP_ADDR", agent.http_addr()).env("CONSUL_GRPC_ADDR", agent.grpc_addr());
    let output = command.output().context("start consul connect envoy")?;
    ensure!(output.status.success(), "consul connect envoy: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
