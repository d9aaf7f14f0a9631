//! `aralez status`, `wait`, `drain`: ask a running one, at its admin API.

use std::{
    fmt,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use http::{Method, StatusCode};
use reqwest::{Client, Response};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use super::Failure;
use crate::cli::StatusOptions;

/// How long an answer may take: shorter than the 30 s that orchestrators give to a health check.
const ANSWER: Duration = Duration::from_secs(5);
/// How often it is looked whether one is ready.
const LOOK: Duration = Duration::from_millis(100);

/// Prints how a running one does; exit code 0 if it is ready, 1 if it is not.
///
/// # Errors
/// [`Failure::Running`] when it cannot be asked.
pub(super) fn status(StatusOptions { admin, json }: StatusOptions) -> Result<ExitCode, Failure> {
    let status = running(async { Status::of(&Running::at(admin)?).await })?;
    let text = if json { serde_json::to_string_pretty(&status).context("it has no JSON form")? } else { status.to_string() };
    writeln!(io::stdout(), "{text}").context("cannot write")?;
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until one is ready; exit code 0 once it is.
///
/// # Errors
/// [`Failure::Running`] when it is not within `patience`, with what it lacks.
pub(super) fn wait(admin: SocketAddr, patience: Duration) -> Result<ExitCode, Failure> {
    running(async {
        let (running, end) = (Running::at(admin)?, Instant::now() + patience);
        loop {
            let status = Status::of(&running).await;
            if matches!(&status, Ok(status) if status.ready) {
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= end {
                let missing = status?.missing.join(", ");
                return Err(anyhow!("not ready within {patience:?}: it lacks {missing}"));
            }
            sleep(LOOK).await;
        }
    })
}

/// Begins the drain of a running one, and does not wait for its end.
///
/// # Errors
/// [`Failure::Running`] when it cannot be asked, or refuses.
pub(super) fn drain(admin: SocketAddr) -> Result<ExitCode, Failure> {
    running(async {
        let answer = Running::at(admin)?.ask(Method::POST, "/drain").await?;
        ensure!(answer.status().is_success(), "answered {}", answer.status());
        Ok(ExitCode::SUCCESS)
    })
}

fn running<T>(asking: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start")?;
    Ok(runtime.block_on(asking)?)
}

/// The admin API of a running one.
struct Running {
    admin: SocketAddr,
    http: Client,
}

impl Running {
    fn at(admin: SocketAddr) -> anyhow::Result<Self> {
        // A proxy of the environment is for the world outside.
        Ok(Self { admin, http: Client::builder().no_proxy().timeout(ANSWER).build()? })
    }

    async fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.ask(Method::GET, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<Response> {
        let answer = self.http.request(method, format!("http://{}{path}", self.admin)).send().await;
        let advice = || format!("cannot ask the admin API at {}; is it running, and is this its -admin-bind?", self.admin);
        answer.map_err(|why| anyhow::Error::new(why.without_url())).with_context(advice)
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> anyhow::Result<T> {
    let status = answer.status();
    serde_json::from_slice(&answer.bytes().await?).map_err(|_| anyhow!("answered {status} with something else than its JSON"))
}

/// How a running one does.
#[derive(Debug, Serialize)]
struct Status {
    ready: bool,
    /// What it lacks before it is ready.
    missing: Vec<String>,
    listeners: Vec<Listener>,
}

/// A line of `GET /listeners`.
#[derive(Debug, Deserialize, Serialize)]
struct Listener {
    name: String,
    address: String,
    protocol: String,
}

/// The answer 503 of `GET /ready`.
#[derive(Deserialize)]
struct NotReady {
    missing: Vec<String>,
}

impl Status {
    async fn of(running: &Running) -> anyhow::Result<Self> {
        let answer = running.get("/ready").await?;
        let ready = answer.status() == StatusCode::OK;
        let missing = if ready { Vec::new() } else { read::<NotReady>(answer).await?.missing };
        Ok(Self { ready, missing, listeners: read(running.get("/listeners").await?).await? })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ready { "ready" } else { "not ready" })?;
        for what in &self.missing {
            write!(f, "\n  missing  {what}")?;
        }
        let widest = |of: fn(&Listener) -> &str| self.listeners.iter().map(|listener| of(listener).len()).max().unwrap_or_default();
        let (name, address) = (widest(|listener| &listener.name), widest(|listener| &listener.address));
        for listener in &self.listeners {
            write!(f, "\n  listener {:name$}  {:address$}  {}", listener.name, listener.address, listener.protocol)?;
        }
        Ok(())
    }
}
