//! The flags and variables of `connect`, joined.

use std::net::{IpAddr, SocketAddr};

use super::{
    Exit,
    args::{self, Policy, go_bool},
    nomad,
    options::{self, AdminBind, ConnectOptions},
};
use crate::{
    config::{
        agent::{AgentConfig, ProxySelector},
        bootstrap::Bootstrap,
    },
    model::{intention::DefaultPolicy, secret::Secret},
};

/// What nobody said is taken from `bootstrap`, if it is that of the proxy which is meant.
pub(super) fn resolve(
    flags: args::Connect,
    bootstrap: Option<Bootstrap>,
    mut notes: Vec<String>,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<ConnectOptions, Exit> {
    if !flags.envoy_args.is_empty() {
        notes.push("what follows -- has no effect: there is no Envoy here".to_owned());
    }
    let selector = selector(flags.selector, bootstrap.as_ref(), env)?;
    let bootstrap = bootstrap.filter(|bootstrap| selector == ProxySelector::ProxyId(bootstrap.proxy_id.clone()));
    let (agent, default_policy) = agent(flags.agent, bootstrap.as_ref(), env)?;
    let ready = ready_bind(flags.envoy_ready_bind_address, flags.envoy_ready_bind_port)?;
    let mut process = options::process(flags.process, env)?;
    if let (AdminBind::Usual, Some(admin)) = (process.admin, bootstrap.as_ref().and_then(|bootstrap| bootstrap.admin)) {
        process.admin = AdminBind::At(admin);
    }
    Ok(ConnectOptions {
        selector,
        agent,
        default_policy,
        ready: ready.or_else(|| bootstrap?.ready),
        scrape_path: scrape_path(flags.prometheus_scrape_path)?,
        process,
        notes,
    })
}

/// Which proxy is meant: by flag, by variable, by the bootstrap, by Nomad.
pub(super) fn selector(
    flags: args::Selector,
    bootstrap: Option<&Bootstrap>,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<ProxySelector, Exit> {
    let proxy_id = flags.proxy_id.filter(|id| !id.is_empty()).or_else(|| env("CONNECT_PROXY_ID")).map(ProxySelector::ProxyId);
    let sidecar_for =
        || flags.sidecar_for.filter(|id| !id.is_empty()).or_else(|| env("CONNECT_SIDECAR_FOR")).map(ProxySelector::SidecarFor);
    let bootstrapped = || bootstrap.map(|bootstrap| ProxySelector::ProxyId(bootstrap.proxy_id.clone()));
    proxy_id.or_else(sidecar_for).or_else(bootstrapped).or_else(|| nomad::selector(env)).ok_or_else(|| {
        Exit::wrong("no proxy named: say whose sidecar this is with -sidecar-for SERVICE-ID, or which one with -proxy-id ID")
    })
}

/// How to reach the agent, and the default policy that holds if it cannot tell one.
pub(super) fn agent(
    flags: args::Agent,
    bootstrap: Option<&Bootstrap>,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<(AgentConfig, Option<DefaultPolicy>), Exit> {
    let truth = |name: &str, unset: bool| match env(name) {
        None => Ok(unset),
        Some(text) => go_bool(&text).map_err(|why| Exit::wrong(format_args!("{name} in the environment: {why}"))),
    };
    let path = |flag: Option<_>, name: &str| flag.or_else(|| env(name).map(Into::into));
    // As Consul's own clients: a flag wins over both variables, and of these the file wins.
    let file_of_env = || env("CONSUL_HTTP_TOKEN_FILE").filter(|_| flags.token.is_none()).map(Into::into);
    let token_file = flags.token_file.or_else(file_of_env);
    let mut agent = AgentConfig {
        address: flags.http_addr.or_else(|| env("CONSUL_HTTP_ADDR")).unwrap_or_default(),
        token: flags.token.or_else(|| env("CONSUL_HTTP_TOKEN").map(Secret::new)),
        token_file,
        auth: env("CONSUL_HTTP_AUTH").map(Secret::new),
        ssl: truth("CONSUL_HTTP_SSL", false)?,
        ssl_verify: truth("CONSUL_HTTP_SSL_VERIFY", true)?,
        ca_file: path(flags.ca_file, "CONSUL_CACERT"),
        ca_path: path(flags.ca_path, "CONSUL_CAPATH"),
        client_cert: path(flags.client_cert, "CONSUL_CLIENT_CERT"),
        client_key: path(flags.client_key, "CONSUL_CLIENT_KEY"),
        tls_server_name: flags.tls_server_name.or_else(|| env("CONSUL_TLS_SERVER_NAME")),
        namespace: flags.namespace.or_else(|| env("CONSUL_NAMESPACE")),
        partition: flags.partition.or_else(|| env("CONSUL_PARTITION")),
        wait: None,
        advice: None,
    };
    nomad::complete(&mut agent, bootstrap, env);
    let default_policy = flags.default_intention_policy.map(|policy| match policy {
        Policy::Allow => DefaultPolicy::Allow,
        Policy::Deny => DefaultPolicy::Deny,
    });
    Ok((agent, default_policy))
}

fn scrape_path(path: Option<String>) -> Result<String, Exit> {
    match path {
        None => Ok(options::SCRAPE_PATH.to_owned()),
        // Braces would be parameters of a route.
        Some(path) if path.starts_with('/') && !path.contains(['{', '}', '?', '#']) => Ok(path),
        Some(path) => Err(Exit::wrong(format_args!("-prometheus-scrape-path {path:?} is no path; write for example /metrics"))),
    }
}

fn ready_bind(address: Option<String>, port: Option<u16>) -> Result<Option<SocketAddr>, Exit> {
    match (address, port) {
        (None, None) => Ok(None),
        (Some(address), Some(port)) => match address.parse::<IpAddr>() {
            Ok(ip) => Ok(Some((ip, port).into())),
            Err(_) => Err(Exit::wrong(format_args!("-envoy-ready-bind-address {address:?} is not an IP address"))),
        },
        _ => Err(Exit::wrong("-envoy-ready-bind-address and -envoy-ready-bind-port go together; give both or neither")),
    }
}
