//! What a command line comes to: values that the rest of the program takes as they are.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method};

use super::{Exit, args, nomad};
use crate::{
    config::{
        agent::{AgentConfig, ProxySelector},
        process::{DEFAULT_GRACE, ProcessSettings},
    },
    model::intention::DefaultPolicy,
};

/// Where Prometheus looks if nothing else is said.
pub const SCRAPE_PATH: &str = "/metrics";

/// Where the admin API of Envoy under Consul listens, and ours if nothing else is said.
pub const USUAL_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 19000);

/// Where the admin API listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminBind {
    /// Nothing was said: `127.0.0.1:19000`, as Envoy under Consul; if another sidecar of the host has that, a free port.
    Usual,
    /// Exactly here.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// Options of every command that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessOptions {
    /// Where the admin API listens.
    pub admin: AdminBind,
    /// How the process lives.
    pub settings: ProcessSettings,
}

/// Options of `aralez serve`. How the process lives is said by the file; what stands here is added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// The `main.yaml`.
    pub conf: PathBuf,
    /// Take the listeners over from the running process.
    pub upgrade: bool,
    /// Run in the background, whatever the file says.
    pub daemon: bool,
    /// Where the admin API listens.
    pub admin: AdminBind,
}

/// Options of `aralez connect`.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Which registration is ours.
    pub selector: ProxySelector,
    /// How to reach the agent.
    pub agent: AgentConfig,
    /// What holds for callers that no intention names, if the agent cannot tell.
    pub default_policy: Option<DefaultPolicy>,
    /// One more listener that serves `/live` and `/ready` only.
    pub ready: Option<SocketAddr>,
    /// The path of the metrics on the listener that `envoy_prometheus_bind_addr` asks for.
    pub scrape_path: String,
    /// Options of the process.
    pub process: ProcessOptions,
    /// What was given and has no effect, for the log.
    pub notes: Vec<String>,
}

/// Options of `aralez check`.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// What is checked.
    pub checked: Checked,
    /// Print JSON.
    pub json: bool,
}

/// What `aralez check` looks at.
#[derive(Clone, Debug)]
pub enum Checked {
    /// `main.yaml` files with all that they name.
    Files(Vec<PathBuf>),
    /// One `main.yaml`, beside what is in force.
    Changes {
        /// The file.
        conf: PathBuf,
        /// The `main.yaml` to compare with; `None` is the process that serves the file.
        with: Option<PathBuf>,
    },
    /// One `main.yaml`, and the cluster of Kubernetes that its routes name.
    Cluster {
        /// The file.
        conf: PathBuf,
        /// How long the cluster may take in all.
        timeout: Duration,
    },
    /// What a sidecar would meet at its agent.
    Sidecar {
        /// The sidecar.
        selector: ProxySelector,
        /// How to reach the agent.
        agent: Box<AgentConfig>,
        /// What holds for callers that no intention names, if the agent cannot tell.
        default_policy: Option<DefaultPolicy>,
        /// How long the agent may take in all.
        timeout: Duration,
    },
}

impl CheckOptions {
    /// To check files, and say it in words.
    pub(super) fn of_files(files: Vec<PathBuf>) -> Self {
        Self { checked: Checked::Files(files), json: false }
    }
}

/// Options of `aralez explain`.
#[derive(Clone, Debug)]
pub struct ExplainOptions {
    /// What is asked.
    pub question: Question,
    /// How to reach the agent.
    pub agent: AgentConfig,
    /// What holds for callers that no intention names, if the agent cannot tell.
    pub default_policy: Option<DefaultPolicy>,
    /// The request.
    pub request: Request,
    /// Print JSON.
    pub json: bool,
    /// How long the agent may take in all.
    pub timeout: Duration,
}

/// What `aralez explain` is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What a sidecar's upstreams do with the request.
    Outbound {
        /// The sidecar.
        selector: ProxySelector,
        /// The upstream's destination; `None` is all upstreams.
        upstream: Option<String>,
    },
    /// What the intentions of `to` do with a request of `from`.
    Inbound {
        /// The caller's service.
        from: String,
        /// The service that is called.
        to: String,
    },
}

/// A request to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query, as sent.
    pub target: String,
    /// The header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Options of `aralez status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusOptions {
    /// The admin API of the running one.
    pub admin: SocketAddr,
    /// Print JSON.
    pub json: bool,
}

/// Options of `aralez dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevOptions {
    /// The mesh file; `None` is the built-in mesh.
    pub mesh: Option<PathBuf>,
    /// Options of the process.
    pub process: ProcessOptions,
}

pub(super) fn process(process: args::Process, env: &impl Fn(&str) -> Option<String>) -> Result<ProcessOptions, Exit> {
    let threads = or_env(process.threads, "ARALEZ_THREADS", "a number from 1", env)?;
    let grace = or_env(process.shutdown_grace_period_seconds, "ARALEZ_SHUTDOWN_GRACE_PERIOD_SECONDS", "a number of seconds", env)?;
    Ok(ProcessOptions {
        admin: admin_bind(process.admin_bind, env)?,
        settings: ProcessSettings {
            threads: threads.map_or(1, NonZeroUsize::get),
            keepalive_pool: None,
            grace: grace.map_or(DEFAULT_GRACE, |seconds: u32| Duration::from_secs(seconds.into())),
            user: process.user,
            group: process.group,
            daemon: process.daemon,
            pid_file: process.pid_file,
            error_log: process.error_log,
            upgrade_sock: process.upgrade_sock,
            upgrade: process.upgrade,
            log_level: process.log_level,
            log_json: process.log_json,
            listen: Vec::new(),
        },
    })
}

/// The variable for where the admin API is, for the one that serves it and for those that ask.
const ADMIN: &str = "ARALEZ_ADMIN_BIND";
/// In the place of an address: there is no admin API.
const OFF: &str = "off";

pub(super) fn admin_bind(flag: Option<String>, env: &impl Fn(&str) -> Option<String>) -> Result<AdminBind, Exit> {
    let name = if flag.is_some() { "-admin-bind" } else { ADMIN };
    let Some(text) = flag.or_else(|| env(ADMIN)) else { return Ok(AdminBind::Usual) };
    if text == OFF {
        return Ok(AdminBind::Off);
    }
    let wrong = || Exit::wrong(format_args!("{name} {text:?} is no address; write IP:port, localhost:port, or off"));
    address(&text).map(AdminBind::At).ok_or_else(wrong)
}

/// Where a running one is asked: a health check in a container is no place for flags, so it is found as the one that runs there found it.
pub(super) fn admin(flag: Option<String>, env: &impl Fn(&str) -> Option<String>) -> Result<SocketAddr, Exit> {
    let name = if flag.is_some() { "-admin" } else { ADMIN };
    let Some(text) = flag.or_else(|| env(ADMIN).filter(|text| text != OFF)) else {
        return Ok(nomad::bootstrap(env).ok().flatten().and_then(|bootstrap| bootstrap.admin).unwrap_or(USUAL_ADMIN));
    };
    address(&text).ok_or_else(|| Exit::wrong(format_args!("{name} {text:?} is no address; write IP:port or localhost:port")))
}

fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| (Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().ok(),
    }
}

/// A flag's value, else the variable's.
pub(super) fn or_env<T: FromStr>(
    flag: Option<T>,
    name: &str,
    wanted: impl Display,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<T>, Exit> {
    match (flag, env(name)) {
        (None, Some(text)) => {
            text.parse().map(Some).map_err(|_| Exit::wrong(format_args!("{name}={text:?} in the environment is not {wanted}")))
        }
        (flag, _) => Ok(flag),
    }
}
