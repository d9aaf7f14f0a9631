//! Our own registration: `GET /v1/agent/service/<proxy id>`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use consul_api_types::{AccessLogs, AgentService, ConfigError, Proxy, ProxyConfig, UpstreamConfig};

use super::{super::names::Resolved, upstream};
use crate::model::{
    access_log::{AccessLog, Sink},
    identity::{DEFAULT, ServiceName},
    listener::{Address, Bind, Protocol},
    registration::{Registration, Unusable},
};

/// `local_connect_timeout_ms` when unset, as in Consul's Envoy path.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `local_request_timeout_ms` when unset: Envoy's default.
const LOCAL_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// `local_idle_timeout_ms` when unset: Envoy's default.
const LOCAL_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Where an app listens that nobody could find: connecting fails at once, and goes nowhere else.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The host names in a registration that must be resolved before it can be decoded.
pub fn hosts(service: &AgentService) -> BTreeSet<String> {
    let proxy = service.proxy.as_ref();
    let app = proxy.filter(|p| p.local_service_socket_path.is_empty()).map(|p| p.local_service_address.clone());
    let bind = proxy.and_then(|p| ProxyConfig::read(&p.config).0.bind_address).unwrap_or_else(|| service.address.clone());
    app.into_iter().chain([bind]).filter(|host| !host.is_empty() && host.parse::<IpAddr>().is_err()).collect()
}

/// The keys of the opaque settings that mean nothing here, sorted: those of Envoy's own language, and unknown ones.
pub fn ignored(service: &AgentService) -> Vec<String> {
    let Some(proxy) = &service.proxy else { return Vec::new() };
    let config = ProxyConfig::read(&proxy.config).0;
    let own = config.foreign.into_iter().chain(config.unknown).map(|key| format!("Proxy.Config.{key}"));
    let upstreams = proxy.upstreams.iter().enumerate().flat_map(|(at, upstream)| {
        let unknown = UpstreamConfig::read(&upstream.config).0.unknown;
        unknown.into_iter().map(move |key| format!("Proxy.Upstreams[{at}].Config.{key}"))
    });
    let mut all: Vec<String> = own.chain(upstreams).collect();
    all.sort();
    all
}

/// Decodes a registration. What cannot be read in it is in its problems; the rest lives.
///
/// # Errors
/// It is no sidecar, or its public listener has no address: nothing of it can be served.
pub fn registration(service: &AgentService, names: &Resolved) -> Result<Registration, String> {
    let proxy = service.proxy.as_ref().ok_or("it has no Proxy block")?;
    if service.kind != "connect-proxy" {
        return Err(format!("its Kind is {:?}, not connect-proxy", service.kind));
    }
    if proxy.destination_service_name.is_empty() {
        return Err("Proxy.DestinationServiceName is empty".to_owned());
    }
    let mut problems = Vec::new();
    let (config, errors) = ProxyConfig::read(&proxy.config);
    problems.extend(errors.iter().map(|error| unreadable("Proxy.Config", error)));
    if proxy.mode == "transparent" {
        problems.push(Unusable {
            path: "Proxy.Mode".to_owned(),
            why: "transparent mode is not supported yet".to_owned(),
            advice: "name each upstream with a LocalBindPort; those are served".to_owned(),
        });
    }
    if proxy.expose.checks || !proxy.expose.paths.is_empty() {
        problems.push(Unusable {
            path: "Proxy.Expose".to_owned(),
            why: "exposed paths and checks are not supported yet".to_owned(),
            advice: "let checks reach the app itself; nothing is exposed".to_owned(),
        });
    }
    let own = name(&service.partition, &service.namespace, &proxy.destination_service_name);
    let upstreams = upstream::upstreams(&proxy.upstreams, &own, &mut problems);
    let limited = |timeout: Option<Duration>, default| timeout.map_or(Some(default), |t| (!t.is_zero()).then_some(t));
    Ok(Registration {
        proxy_id: service.id.as_str().into(),
        datacenter: service.datacenter.as_str().into(),
        bind: bind(service, &config, names)?,
        protocol: config.protocol.as_deref().and_then(Protocol::parse).unwrap_or_default(),
        app: app(proxy, names, &mut problems),
        local_connect_timeout: config.local_connect_timeout.filter(|t| !t.is_zero()).unwrap_or(LOCAL_CONNECT_TIMEOUT),
        local_request_timeout: limited(config.local_request_timeout, LOCAL_REQUEST_TIMEOUT),
        local_idle_timeout: limited(config.local_idle_timeout, LOCAL_IDLE_TIMEOUT),
        max_inbound_connections: config.max_inbound_connections.filter(|limit| *limit > 0),
        access_log: access_log(proxy.access_logs.as_ref(), &mut problems),
        service: own,
        upstreams,
        problems,
    })
}

/// A service's name; what Consul leaves empty is the default.
pub fn name(partition: &str, namespace: &str, name: &str) -> ServiceName {
    let or_default = |text: &str| if text.is_empty() { DEFAULT } else { text }.into();
    ServiceName { partition: or_default(partition), namespace: or_default(namespace), name: name.into() }
}

/// A setting that the types of the API could not read.
pub fn unreadable(map: &str, error: &ConfigError) -> Unusable {
    Unusable {
        path: format!("{map}.{}", error.key),
        why: format!("{} is not {}", error.value, error.expected),
        advice: "its default holds until it is corrected".to_owned(),
    }
}

fn bind(service: &AgentService, config: &ProxyConfig, names: &Resolved) -> Result<Bind, String> {
    let host = config.bind_address.as_ref().unwrap_or(&service.address);
    let ip = match host.as_str() {
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host => names.ip(host).map_err(|why| format!("the address of the public listener, {host:?}: {why}"))?,
    };
    let port = config.bind_port.filter(|port| *port > 0).or_else(|| u16::try_from(service.port).ok().filter(|port| *port > 0));
    let port = port.ok_or_else(|| format!("Port is {}, not 1 to 65535", service.port))?;
    Ok(Bind { address: Address::Tcp((ip, port).into()), mode: None })
}

fn app(proxy: &Proxy, names: &Resolved, problems: &mut Vec<Unusable>) -> Address {
    if !proxy.local_service_socket_path.is_empty() {
        return Address::Unix(PathBuf::from(&proxy.local_service_socket_path));
    }
    let Ok(port) = u16::try_from(proxy.local_service_port) else {
        problems.push(Unusable {
            path: "Proxy.LocalServicePort".to_owned(),
            why: format!("{} is not a port", proxy.local_service_port),
            advice: "callers are refused until it is 1 to 65535".to_owned(),
        });
        return Address::Tcp(NOWHERE);
    };
    match proxy.local_service_address.as_str() {
        "" => Address::Tcp((Ipv4Addr::LOCALHOST, port).into()),
        host => match names.ip(host) {
            Ok(ip) => Address::Tcp((ip, port).into()),
            Err(why) => {
                problems.push(Unusable {
                    path: "Proxy.LocalServiceAddress".to_owned(),
                    why: format!("{host:?}: {why}"),
                    advice: "callers are refused until it resolves; it is tried again every 10 s".to_owned(),
                });
                Address::Tcp(NOWHERE)
            }
        },
    }
}

fn access_log(logs: Option<&AccessLogs>, problems: &mut Vec<Unusable>) -> AccessLog {
    let Some(logs) = logs.filter(|logs| logs.enabled) else { return AccessLog::default() };
    let mut refuse = |key: &str, why: String, advice: &str| {
        problems.push(Unusable { path: format!("Proxy.AccessLogs.{key}"), why, advice: advice.to_owned() });
    };
    let sink = match logs.sink.as_str() {
        "" | "stdout" => Sink::Stdout,
        "stderr" => Sink::Stderr,
        "file" if !logs.path.is_empty() => Sink::File(PathBuf::from(&logs.path)),
        "file" => {
            refuse("Path", "it is empty although the type is file".to_owned(), "lines go to standard output until it is set");
            Sink::Stdout
        }
        other => {
            refuse("Type", format!("{other:?} is not known"), "lines go to standard output; use stdout, stderr or file");
            Sink::Stdout
        }
    };
    if !logs.json_format.is_empty() || !logs.text_format.is_empty() {
        refuse("JSONFormat", "formats of one's own are not supported yet".to_owned(), "lines have the default JSON keys");
    }
    AccessLog { enabled: true, sink }
}

/// The plain `name` for what has it alone; for what shares it, each its `distinct` form.
pub fn unique_names<T>(items: &[T], name: impl Fn(&T) -> String, distinct: impl Fn(&T) -> String) -> Vec<Arc<str>> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for item in items {
        *count.entry(name(item)).or_default() += 1;
    }
    let choose = |item: &T| if count.get(&name(item)) == Some(&1) { name(item) } else { format!("{}@{}", name(item), distinct(item)) };
    items.iter().map(|item| choose(item).into()).collect()
}
