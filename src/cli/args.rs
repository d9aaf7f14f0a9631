//! What clap reads: the verbs and the flags that mean something here.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::envoy;
use crate::{model::secret::Secret, telemetry::log::Level};

/// A reverse proxy, and a service-mesh sidecar for Consul.
#[derive(Debug, Parser)]
#[command(name = "aralez", version, disable_version_flag = true, disable_help_subcommand = true, args_override_self = true)]
#[command(after_help = "aralez -c FILE is aralez serve -c FILE. Flags may be written with one dash or two. \
    Exit codes: 0 fine, 1 failed while running, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// Print the version
    #[arg(short, short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Be a reverse proxy as a main.yaml says
    #[command(args_override_self = true)]
    Serve(Serve),
    /// Check main.yaml files with all that they name, or what a sidecar would meet at the live agent: every problem at once
    #[command(args_override_self = true)]
    Check(Box<Check>),
    /// Print the JSON Schema of a configuration file
    Schema(Schema),
    /// Be the Connect sidecar of a service that is registered with the local Consul agent; in a Nomad task it finds out by itself whose
    #[command(args_override_self = true)]
    Connect(Box<Connect>),
    /// Run a whole mesh in this process: a catalog and a CA of its own, sidecars and demo services; no Consul needed
    #[command(args_override_self = true)]
    Dev(Dev),
    /// Say what would become of a request, and why: at an upstream of a sidecar, or by the intentions of a service
    #[command(args_override_self = true)]
    Explain(Box<Explain>),
    /// Print the completions of the command line for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual as man(7) source: aralez man | man -l -
    Man {
        /// Of this command; without it, of the program
        #[arg(value_name = "COMMAND")]
        verb: Option<String>,
    },
    /// Say whether a running one is ready, what it lacks, and where it listens: exit code 0 if it is, else 1
    #[command(args_override_self = true)]
    Status(Status),
    /// Wait until a running one, or one that is about to start, is ready: exit code 0 once it is, 1 if it is not in time
    #[command(args_override_self = true)]
    Wait(Wait),
    /// Let a running one take no new work, finish what it has, and end; a second time, end at once
    #[command(args_override_self = true)]
    Drain(Drain),
    /// Print the version
    Version,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// The main configuration file; or an Envoy bootstrap: be the Connect sidecar that it names, with Envoy's flags
    #[arg(short, long, alias = "config-path", value_name = "FILE")]
    pub(super) conf: PathBuf,
    /// Only check the files, as aralez check does
    #[arg(short, long)]
    pub(super) test: bool,
    /// Take the listeners over from the running process, by the socket that upgrade_sock names
    #[arg(short, long)]
    pub(super) upgrade: bool,
    /// Run in the background
    #[arg(short, long)]
    pub(super) daemon: bool,
    /// Where the admin API listens: IP:port or localhost:port; "off" for none [env: ARALEZ_ADMIN_BIND] [default: localhost:19000, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin_bind: Option<String>,
    #[command(flatten)]
    pub(super) envoy: Envoy,
}

/// Flags of Envoy that mean something here.
#[derive(Debug, ClapArgs)]
pub(super) struct Envoy {
    #[arg(short, long, hide = true, value_parser = envoy::level)]
    pub(super) log_level: Option<Level>,
    #[arg(long, hide = true)]
    pub(super) concurrency: Option<usize>,
    #[arg(long, hide = true)]
    pub(super) log_path: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Check {
    /// The main.yaml files
    #[arg(value_name = "FILE", conflicts_with_all = ["sidecar_for", "proxy_id"])]
    pub(super) files: Vec<PathBuf>,
    /// A main.yaml, as aralez -c takes it
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["sidecar_for", "proxy_id"])]
    pub(super) conf: Option<PathBuf>,
    /// Say what a reload of the one file would change: of the process that serves it, by its configuration API; or of another main.yaml
    #[arg(long, value_name = "MAIN.YAML", num_args = 0..=1, require_equals = true, conflicts_with_all = ["sidecar_for", "proxy_id"])]
    pub(super) diff: Option<Option<PathBuf>>,
    /// Ask the cluster of Kubernetes that the one file's routes name: rights that lack, Ingresses and Services that cannot be used
    #[arg(long, conflicts_with_all = ["sidecar_for", "proxy_id", "diff"])]
    pub(super) cluster: bool,
    /// How to print what is found
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) format: Format,
    /// How long to wait for the agent, or the cluster, in all
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub(super) timeout_seconds: u32,
    #[command(flatten)]
    pub(super) selector: Selector,
    #[command(flatten)]
    pub(super) agent: Agent,
}

/// How a check prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Status {
    /// The admin API of the running one: IP:port or localhost:port [env: ARALEZ_ADMIN_BIND] [default: that of Nomad's bootstrap, else localhost:19000]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin: Option<String>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(super) format: StatusFormat,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Wait {
    /// The admin API of the one to wait for: IP:port or localhost:port [env: ARALEZ_ADMIN_BIND] [default: that of Nomad's bootstrap, else localhost:19000]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin: Option<String>,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(super) timeout_seconds: u32,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Drain {
    /// The admin API of the running one: IP:port or localhost:port [env: ARALEZ_ADMIN_BIND] [default: that of Nomad's bootstrap, else localhost:19000]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin: Option<String>,
}

/// The forms of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StatusFormat {
    Table,
    Json,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Schema {
    /// Which file; without it, an object with both
    pub(super) file: Option<SchemaOf>,
}

/// The files that have a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// `main.yaml`.
    Main,
    /// `upstreams.yaml`.
    Upstreams,
}

#[derive(Debug, Default, ClapArgs)]
pub(super) struct Connect {
    #[command(flatten)]
    pub(super) selector: Selector,
    #[command(flatten)]
    pub(super) agent: Agent,
    /// Address of one more listener that serves /ready only; needs the port too
    #[arg(long, value_name = "IP")]
    pub(super) envoy_ready_bind_address: Option<String>,
    /// Port of that listener
    #[arg(long, value_name = "PORT")]
    pub(super) envoy_ready_bind_port: Option<u16>,
    /// Path of the metrics on the listener that the setting envoy_prometheus_bind_addr asks for [default: /metrics]
    #[arg(long, value_name = "PATH")]
    pub(super) prometheus_scrape_path: Option<String>,
    #[command(flatten)]
    pub(super) process: Process,
    /// Accepted because Consul passes what follows -- on to Envoy
    #[arg(last = true, hide = true)]
    pub(super) envoy_args: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Explain {
    /// The service that calls: explain what the intentions of the service named by -to say
    #[arg(long, value_name = "SERVICE", requires = "to", conflicts_with_all = ["sidecar_for", "proxy_id", "upstream"])]
    pub(super) from: Option<String>,
    /// The service that is called
    #[arg(long, value_name = "SERVICE", requires = "from")]
    pub(super) to: Option<String>,
    /// The upstream of the sidecar, by its destination; without it all are explained
    #[arg(long, value_name = "NAME")]
    pub(super) upstream: Option<String>,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", action = ArgAction::Append)]
    pub(super) headers: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for the agent
    #[arg(long, value_name = "SECONDS", default_value = "15")]
    pub(super) timeout_seconds: u32,
    #[command(flatten)]
    pub(super) selector: Selector,
    #[command(flatten)]
    pub(super) agent: Agent,
    /// The request's method
    #[arg(default_value = "GET")]
    pub(super) method: String,
    /// Its path and query
    #[arg(default_value = "/")]
    pub(super) target: String,
}

#[derive(Debug, Default, ClapArgs)]
pub(super) struct Selector {
    /// Be the proxy registered for this service instance, by its id [env: CONNECT_SIDECAR_FOR]
    #[arg(long, value_name = "SERVICE ID")]
    pub(super) sidecar_for: Option<String>,
    /// Be the proxy with this id; wins over -sidecar-for [env: CONNECT_PROXY_ID]
    #[arg(long, value_name = "ID")]
    pub(super) proxy_id: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
pub(super) struct Agent {
    /// The agent: host:port, http://…, https://… or unix://PATH [default: 127.0.0.1:8500] [env: CONSUL_HTTP_ADDR]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) http_addr: Option<String>,
    /// ACL token; better in the variable or a file, where other users cannot see it [env: CONSUL_HTTP_TOKEN]
    #[arg(long, value_parser = secret)]
    pub(super) token: Option<Secret>,
    /// File with the ACL token; wins over -token [env: CONSUL_HTTP_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// CA of the agent's certificate, PEM [env: CONSUL_CACERT]
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Folder of such CAs [env: CONSUL_CAPATH]
    #[arg(long, value_name = "FOLDER")]
    pub(super) ca_path: Option<PathBuf>,
    /// Client certificate to show the agent, PEM [env: CONSUL_CLIENT_CERT]
    #[arg(long, value_name = "FILE")]
    pub(super) client_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM [env: CONSUL_CLIENT_KEY]
    #[arg(long, value_name = "FILE")]
    pub(super) client_key: Option<PathBuf>,
    /// Name to expect in the agent's certificate [env: CONSUL_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME")]
    pub(super) tls_server_name: Option<String>,
    /// Namespace of the service, Consul Enterprise [env: CONSUL_NAMESPACE]
    #[arg(long, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Admin partition of the service, Consul Enterprise [env: CONSUL_PARTITION]
    #[arg(long, value_name = "NAME")]
    pub(super) partition: Option<String>,
    /// What callers may do that no intention names, for agents that cannot tell; unset, they are then denied
    #[arg(long, value_name = "POLICY")]
    pub(super) default_intention_policy: Option<Policy>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Dev {
    /// The mesh to run; without it, two demo services: web calls api
    #[arg(value_name = "MESH.YAML")]
    pub(super) mesh: Option<PathBuf>,
    #[command(flatten)]
    pub(super) process: Process,
}

#[derive(Debug, Default, ClapArgs)]
pub(super) struct Process {
    /// Where the admin API listens: IP:port or localhost:port; "off" for none [env: ARALEZ_ADMIN_BIND] [default: localhost:19000, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin_bind: Option<String>,
    /// Worker threads of the data plane [default: 1] [env: ARALEZ_THREADS]
    #[arg(long, value_name = "NUMBER")]
    pub(super) threads: Option<NonZeroUsize>,
    /// How long open connections may go on after SIGTERM [default: 30] [env: ARALEZ_SHUTDOWN_GRACE_PERIOD_SECONDS]
    #[arg(long, value_name = "SECONDS")]
    pub(super) shutdown_grace_period_seconds: Option<u32>,
    /// How much is logged: trace, debug, info, warn, error or off
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: Level,
    /// Log JSON lines
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set, value_parser = go_bool)]
    #[arg(default_value = "false", default_missing_value = "true", hide_default_value = true)]
    pub(super) log_json: bool,
    /// File for the log instead of standard error; opened anew on SIGUSR1
    #[arg(long, value_name = "FILE")]
    pub(super) error_log: Option<PathBuf>,
    /// User to become once the sockets that are known at start are bound
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<String>,
    /// Group to become; without it the user's own
    #[arg(long, value_name = "NAME")]
    pub(super) group: Option<String>,
    /// Run in the background
    #[arg(short, long)]
    pub(super) daemon: bool,
    /// File for the process id
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Unix socket on which a new process, started with -upgrade, takes the listeners over
    #[arg(long, value_name = "PATH")]
    pub(super) upgrade_sock: Option<PathBuf>,
    /// Take the listeners over from the process that listens on -upgrade-sock
    #[arg(short, long, requires = "upgrade_sock")]
    pub(super) upgrade: bool,
}

/// The two default policies that can be stated.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Policy {
    Allow,
    Deny,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// A truth value as Go's `strconv.ParseBool` reads it, which Consul's flags and variables follow.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}
