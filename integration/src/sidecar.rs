//! Sidecars as child processes: Aralez, and Consul's built-in proxy as a foreign peer.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request};

use crate::clients::{self, Response};
use crate::components;
use crate::consul::Agent;
use crate::net::Address;
use crate::ports::free_port;
use crate::process::{Process, Signal};
use crate::registration::Service;
use crate::wait::eventually;

/// From the start of a sidecar to its listeners: leaf, roots, intentions and chains have to arrive; the first leaf of a young agent
/// takes longest.
const START: Duration = Duration::from_secs(30);

/// How to start `aralez connect`.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    name: String,
    admin: Address,
}

impl Launch {
    /// `aralez connect -sidecar-for <id>` against `agent`, admin on a free port.
    ///
    /// # Errors
    /// When there is no program or no free port.
    pub fn sidecar_for(agent: &Agent, service_id: &str) -> Result<Self> {
        Self::connect(agent, "-sidecar-for", service_id)
    }

    /// `aralez connect -proxy-id <id>` against `agent`, admin on a free port.
    ///
    /// # Errors
    /// When there is no program or no free port.
    pub fn proxy_id(agent: &Agent, proxy_id: &str) -> Result<Self> {
        Self::connect(agent, "-proxy-id", proxy_id)
    }

    fn connect(agent: &Agent, flag: &str, id: &str) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(components::aralez()?);
        command.args(["connect", flag, id, "-admin-bind", &format!("127.0.0.1:{port}")]);
        command.env("CONSUL_HTTP_ADDR", agent.http_addr());
        Ok(Self { command, name: format!("aralez connect {flag} {id}"), admin: Address::port(port) })
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the process and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(self) -> Result<Sidecar> {
        Ok(Sidecar { process: Process::start(self.name, self.command, Duration::ZERO)?, admin: self.admin })
    }

    /// Starts the process and waits until `/ready` answers 200.
    ///
    /// # Errors
    /// When it ends, or is not ready in time: with what `/ready` names as missing.
    pub async fn start(self) -> Result<Sidecar> {
        let mut sidecar = self.spawn()?;
        sidecar.ready().await?;
        Ok(sidecar)
    }
}

/// A running Aralez sidecar. Dropping it kills it.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    admin: Address,
}

impl Sidecar {
    /// Starts the sidecar of a registered service and waits until it is ready.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn start(agent: &Agent, service: &Service) -> Result<Self> {
        Launch::sidecar_for(agent, &service.id)?.start().await
    }

    /// Waits until `/ready` answers 200.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub async fn ready(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        let waiting = eventually("a ready sidecar", START, async || {
            if let Some(status) = self.process.exited()? {
                // No use in waiting on: the caller sees it at once through the outer result.
                return Ok(Err(status));
            }
            let answer = get(&admin, "/ready").await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(Ok(()))
        });
        match waiting.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the sidecar ended with {status}:\n{}", self.process.log()),
            Err(error) => Err(error.context(self.process.log())),
        }
    }

    /// `GET` on the admin API.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn admin(&self, path: &str) -> Result<Response> {
        get(&self.admin, path).await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the sidecar has ended.
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

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.exit(limit).await
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Starts `consul connect proxy` for a registered service and waits until it listens on its public port and for its upstreams. It
/// is tcp only, and has no Unix sockets.
///
/// # Errors
/// When it does not come up.
pub async fn builtin_proxy(agent: &Agent, service: &Service) -> Result<Process> {
    let mut command = Command::new(components::consul()?);
    command.args(["connect", "proxy", "-sidecar-for", &service.id]).env("CONSUL_HTTP_ADDR", agent.http_addr());
    let process = Process::start(format!("consul connect proxy for {}", service.id), command, Duration::ZERO)?;
    let upstreams = service.upstreams.iter().map(crate::registration::Upstream::address);
    for address in upstreams.chain([service.public()]) {
        let listening = eventually("the built-in proxy", START, async || address.connect().await.map(drop)).await;
        listening.with_context(|| process.log())?;
    }
    Ok(process)
}

async fn get(address: &Address, path: &str) -> Result<Response> {
    let request = Request::builder().method(Method::GET).uri(path).header("host", "localhost").body(Bytes::new())?;
    clients::once(address, request).await
}
