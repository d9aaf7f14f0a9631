//! What Nomad 1.11 tells the task of a Connect sidecar.
//!
//! No variable holds the id of the proxy or the address of Consul's HTTP API. The id stands in the Envoy bootstrap that Nomad leaves in the
//! secrets folder of every sidecar task, whatever its driver; a token lies beside it if Consul has ACLs.

use std::{
    fmt,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::config::{
    agent::{AgentConfig, ProxySelector},
    bootstrap::Bootstrap,
};

/// Name of an injected sidecar's task, before its service.
const TASK: &str = "connect-proxy-";
/// The port of Consul's HTTP API.
const HTTP_PORT: u16 = 8500;

/// The bootstrap of this task, if there is one.
///
/// # Errors
/// In words, when there is one that cannot be used.
pub(super) fn bootstrap(env: &impl Fn(&str) -> Option<String>) -> Result<Option<Bootstrap>, String> {
    let Some(file) = secrets(env).map(|folder| folder.join("envoy_bootstrap.json")) else { return Ok(None) };
    let unused = |why: &dyn fmt::Display| format!("{} is not used: {why}", file.display());
    match fs::read_to_string(&file) {
        Ok(text) => match Bootstrap::parse(&text) {
            Some(bootstrap) => Ok(Some(bootstrap)),
            None => Err(unused(&"it is not JSON with node.id and resources, as Envoy's bootstrap is")),
        },
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(unused(&why)),
    }
}

/// The sidecar of this allocation, to be looked for in the agent's list.
pub(super) fn selector(env: &impl Fn(&str) -> Option<String>) -> Option<ProxySelector> {
    let service = env("NOMAD_TASK_NAME").and_then(|task| Some(task.strip_prefix(TASK)?.to_owned()));
    Some(ProxySelector::NomadTask { allocation: env("NOMAD_ALLOC_ID")?, group: env("NOMAD_GROUP_NAME")?, service })
}

/// Fills in what neither flags nor variables said about the agent.
pub(super) fn complete(agent: &mut AgentConfig, bootstrap: Option<&Bootstrap>, env: &impl Fn(&str) -> Option<String>) {
    let in_nomad = env("NOMAD_ALLOC_ID").is_some();
    if !in_nomad && bootstrap.is_none() {
        return;
    }
    if agent.token.is_none() && agent.token_file.is_none() {
        // The file is the better of the two: it is read anew. Nomad leaves it to root, which in a container we are not.
        agent.token_file = secrets(env).map(|folder| folder.join("si_token")).filter(|file| File::open(file).is_ok());
        agent.token = bootstrap.and_then(|bootstrap| bootstrap.token.clone());
    }
    agent.namespace = agent.namespace.take().or_else(|| bootstrap?.namespace.clone());
    agent.partition = agent.partition.take().or_else(|| bootstrap?.partition.clone());
    if agent.address.is_empty() {
        agent.address = socket(env).or_else(|| host(bootstrap, env)).unwrap_or_else(|| format!("127.0.0.1:{HTTP_PORT}"));
        let place = if in_nomad {
            " in the env block of the sidecar_task, or give the group a connect-native service, for which Nomad makes alloc/tmp/consul_http.sock"
        } else {
            ": the bootstrap file does not name it"
        };
        agent.advice = Some(format!(
            "{} was tried because CONSUL_HTTP_ADDR is not set; set it to an address of Consul's HTTP API that can be reached from here{place}",
            agent.address
        ));
    }
}

/// The socket to Consul's HTTP API that Nomad makes in a group with a connect-native service.
fn socket(env: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let socket = PathBuf::from(env("NOMAD_ALLOC_DIR")?).join("tmp/consul_http.sock");
    socket.exists().then(|| format!("unix://{}", socket.display()))
}

/// Consul's usual port on the address of the host that Nomad announces the sidecar at.
fn host(bootstrap: Option<&Bootstrap>, env: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let task = env("NOMAD_TASK_NAME").filter(|task| task.starts_with(TASK));
    let label = bootstrap.and_then(|bootstrap| Some(format!("{TASK}{}", bootstrap.service.as_ref()?))).or(task)?;
    let cleaned = label.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.', "_");
    let ip: IpAddr = env(&format!("NOMAD_IP_{cleaned}"))?.parse().ok()?;
    Some(SocketAddr::new(ip, HTTP_PORT).to_string())
}

fn secrets(env: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    env("NOMAD_SECRETS_DIR").map(PathBuf::from)
}
