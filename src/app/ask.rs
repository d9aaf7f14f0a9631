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
    time::{Instant, sleep, timeout},
};

use super::Failure;
use crate::cli::StatusOptions;

/// How long an answer may take: shorter than the 30 s that orchestrators give to a health check.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the last answer that is waited for may take, when patience is over before.
const LAST: Duration = Duration::from_secs(1);
/// How often it is looked whether one is ready.
const LOOK: Duration = Duration::from_millis(100);

/// Prints how a running one does; exit code 0 if it is ready, 1 if it is not.
///
/// # Errors
/// [`Failure::Running`] when it cannot be asked.
pub(super) fn status(StatusOptions { admin, json }: StatusOptions) -> Result<ExitCode, Failure> {
    let status = running(async { read::<Status>(Running::at(admin)?.get("/status.json").await?).await })?;
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
            // One that takes the connection and never answers is not ready either.
            let answer = timeout(end.duration_since(Instant::now()).max(LAST), running.missing()).await;
            let missing = answer.unwrap_or_else(|_| Err(anyhow!("not ready within {patience:?}: {admin} does not answer")));
            if matches!(&missing, Ok(missing) if missing.is_empty()) {
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= end {
                let missing = missing?.join(", ");
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

    /// What it lacks before it is ready.
    async fn missing(&self) -> anyhow::Result<Vec<String>> {
        let answer = self.get("/ready").await?;
        if answer.status() == StatusCode::OK { Ok(Vec::new()) } else { Ok(read::<NotReady>(answer).await?.missing) }
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

/// What is printed of `GET /status.json`.
#[derive(Debug, Deserialize, Serialize)]
struct Status {
    ready: bool,
    /// What it lacks before it is ready.
    missing: Vec<String>,
    listeners: Vec<Listener>,
    /// What it follows.
    watches: Vec<Watch>,
    configuration: Configuration,
}

#[derive(Debug, Deserialize, Serialize)]
struct Listener {
    name: String,
    address: String,
    protocol: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Watch {
    name: String,
    last_success: Option<String>,
    last_error: Option<String>,
    failures: u32,
}

#[derive(Debug, Deserialize, Serialize)]
struct Configuration {
    /// What of it cannot be used.
    problems: Vec<Problem>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Problem {
    sidecar: String,
    path: String,
    why: String,
    advice: String,
}

/// The answer 503 of `GET /ready`.
#[derive(Deserialize)]
struct NotReady {
    missing: Vec<String>,
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
        let name = self.watches.iter().map(|watch| watch.name.len()).max().unwrap_or_default();
        for watch in &self.watches {
            write!(f, "\n  watch    {:name$}  {watch}", watch.name)?;
        }
        for Problem { sidecar, path, why, advice } in &self.configuration.problems {
            write!(f, "\n  problem  {sidecar}: {path}: {why}; {advice}")?;
        }
        Ok(())
    }
}

/// How it is doing.
impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.last_error, &self.last_success) {
            (Some(why), _) if self.failures > 0 => write!(f, "failing ({} in a row): {why}", self.failures),
            (Some(why), _) => write!(f, "unusable: {why}"),
            (None, Some(_)) => f.write_str("answers"),
            (None, None) => f.write_str("waiting"),
        }
    }
}
