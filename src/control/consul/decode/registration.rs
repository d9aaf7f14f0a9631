//! Our own registration: `GET /v1/agent/service/<proxy id>`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use consul_api_types::{AgentService, ConfigError, Proxy, ProxyConfig};

use super::{super::names::Resolved, expose, observability, upstream};
use crate::model::{
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
    let own = name(&service.partition, &service.namespace, &proxy.destination_service_name);
    let upstreams = upstream::upstreams(&proxy.upstreams, &own, &mut problems);
    let limited = |timeout: Option<Duration>, default| timeout.map_or(Some(default), |t| (!t.is_zero()).then_some(t));
    let bind = bind(service, &config, names)?;
    let app = app(proxy, names, &mut problems);
    let exposes_checks = proxy.expose.checks.then(|| proxy.destination_service_id.as_str().into());
    Ok(Registration {
        exposes_checks,
        exposed: expose::paths(&proxy.expose.paths, &bind, &app, &mut problems),
        proxy_id: service.id.as_str().into(),
        datacenter: service.datacenter.as_str().into(),
        bind,
        protocol: config.protocol.as_deref().and_then(Protocol::parse).unwrap_or_default(),
        app,
        local_connect_timeout: config.local_connect_timeout.filter(|t| !t.is_zero()).unwrap_or(LOCAL_CONNECT_TIMEOUT),
        local_request_timeout: limited(config.local_request_timeout, LOCAL_REQUEST_TIMEOUT),
        local_idle_timeout: limited(config.local_idle_timeout, LOCAL_IDLE_TIMEOUT),
        max_inbound_connections: config.max_inbound_connections.filter(|limit| *limit > 0),
        access_log: observability::access_log(proxy.access_logs.as_ref(), &mut problems),
        metrics: observability::metrics(&config, &own, &service.datacenter, &mut problems),
        tracing: observability::tracing(&config, &mut problems),
        ignored: observability::ignored(service),
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

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;
    use crate::model::{
        access_log::{AccessLog, Sink},
        registration::UpstreamConfig,
    };

    /// As the agent gives it, with central configuration merged in (CamelCase, integer nanoseconds).
    fn captured() -> Value {
        json!({
            "Kind": "connect-proxy", "ID": "web-2-sidecar-proxy", "Service": "web-sidecar-proxy", "Port": 19001, "Address": "",
            "ContentHash": "2b7247120f118afa", "Datacenter": "dc1",
            "Proxy": {
                "DestinationServiceName": "web", "DestinationServiceID": "web-2",
                "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 19081,
                "Config": {"local_request_timeout_ms": 2500, "max_inbound_connections": 7, "protocol": "http", "local_idle_timeout_ms": 0},
                "Upstreams": [
                    {"DestinationType": "service", "DestinationName": "db", "LocalBindPort": 19193, "MeshGateway": {"Mode": "local"},
                     "Config": {"connect_timeout_ms": 900, "protocol": "http", "limits": {"MaxConnections": 9}}},
                    {"DestinationType": "service", "DestinationName": "*", "Config": {"protocol": "http"}},
                ],
                "MeshGateway": {"Mode": "local"}, "Expose": {}, "AccessLogs": {"Enabled": true, "Type": "stderr"},
            },
        })
    }

    fn decode(service: Value) -> Result<Registration, String> {
        registration(&serde_json::from_value(service).unwrap(), &Resolved::from([("app.internal", [10, 1, 2, 3].into())]))
    }

    /// A registration with these fields in its Proxy block.
    fn with(fields: Value) -> Registration {
        let mut service = captured();
        for (key, value) in fields.as_object().unwrap() {
            service["Proxy"][key] = value.clone();
        }
        decode(service).unwrap()
    }

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    fn upstreams(list: Value) -> (Vec<UpstreamConfig>, Vec<Unusable>) {
        let registration = with(json!({"Upstreams": list}));
        (registration.upstreams, registration.problems)
    }

    #[test]
    fn a_registration_of_the_agent_is_read() {
        let web = decode(captured()).unwrap();
        assert_eq!((&*web.proxy_id, &web.service, &*web.datacenter), ("web-2-sidecar-proxy", &ServiceName::local("web"), "dc1"));
        assert_eq!((web.bind.address, web.app, web.protocol), (tcp("0.0.0.0:19001"), tcp("127.0.0.1:19081"), Protocol::Http));
        assert_eq!(web.local_connect_timeout, Duration::from_secs(5));
        assert_eq!((web.local_request_timeout, web.local_idle_timeout), (Some(Duration::from_millis(2500)), None));
        assert_eq!((web.max_inbound_connections, web.access_log.sink), (Some(7), Sink::Stderr));
        let [db] = web.upstreams.as_slice() else { panic!("{:?}", web.upstreams) };
        assert_eq!((&*db.key.0, &db.bind.address, db.protocol), ("db@127.0.0.1:19193", &tcp("127.0.0.1:19193"), Some(Protocol::Http)));
        assert_eq!((db.connect_timeout, db.mesh_gateway.as_deref()), (Some(Duration::from_millis(900)), Some("local")));
        assert_eq!(web.problems, []);
    }

    #[test]
    fn without_settings_the_defaults_of_the_envoy_path_hold() {
        let web = with(json!({"Config": {}, "AccessLogs": null, "LocalServiceAddress": ""}));
        assert_eq!((web.protocol, web.app, web.access_log), (Protocol::Tcp, tcp("127.0.0.1:19081"), AccessLog::default()));
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!((web.local_request_timeout, web.local_idle_timeout, web.max_inbound_connections), (seconds(15), seconds(300), None));
        assert_eq!(with(json!({"Config": {"max_inbound_connections": 0}})).max_inbound_connections, None);
    }

    #[test]
    fn the_public_listener_follows_bind_address_and_port() {
        assert_eq!(with(json!({"Config": {"bind_address": "127.0.0.5", "bind_port": "9443"}})).bind.address, tcp("127.0.0.5:9443"));
        let mut service = captured();
        service["Address"] = json!("10.0.0.7");
        assert_eq!(decode(service.clone()).unwrap().bind.address, tcp("10.0.0.7:19001"));
        service["Address"] = json!("app.internal");
        assert_eq!(decode(service.clone()).unwrap().bind.address, tcp("10.1.2.3:19001"));
        service["Address"] = json!("nobody.internal");
        assert!(decode(service.clone()).unwrap_err().contains("nobody.internal"));
        (service["Address"], service["Port"]) = (json!(""), json!(0));
        assert!(decode(service).unwrap_err().contains("Port"));
    }

    #[test]
    fn the_app_is_a_socket_or_an_address_or_nowhere() {
        assert_eq!(with(json!({"LocalServiceSocketPath": "/run/app.sock"})).app, Address::Unix("/run/app.sock".into()));
        assert_eq!(with(json!({"LocalServiceAddress": "app.internal"})).app, tcp("10.1.2.3:19081"));
        let lost = with(json!({"LocalServiceAddress": "nobody.internal"}));
        assert_eq!((lost.app, lost.problems.first().unwrap().path.as_str()), (tcp("127.0.0.1:0"), "Proxy.LocalServiceAddress"));
        assert_eq!(with(json!({"LocalServicePort": 99999})).app, tcp("127.0.0.1:0"));
    }

    #[test]
    fn names_to_resolve_are_found() {
        let mut service = captured();
        service["Address"] = json!("proxy.internal");
        service["Proxy"]["LocalServiceAddress"] = json!("app.internal");
        let wanted = hosts(&serde_json::from_value(service).unwrap());
        assert_eq!(wanted.into_iter().collect::<Vec<_>>(), ["app.internal", "proxy.internal"]);
        assert!(hosts(&serde_json::from_value(captured()).unwrap()).is_empty());
    }

    #[test]
    fn what_is_no_sidecar_is_refused_as_a_whole() {
        for (key, value) in [("Kind", json!("mesh-gateway")), ("Proxy", Value::Null), ("Proxy", json!({"LocalServicePort": 1}))] {
            let mut service = captured();
            service[key] = value;
            assert!(decode(service).is_err(), "{key}");
        }
    }

    #[test]
    fn every_problem_is_told_at_once_and_the_rest_lives() {
        let web = with(json!({
            "Mode": "transparent",
            "Config": {"protocol": "smtp", "local_connect_timeout_ms": -1, "bind_address": "10.0.0.9"},
            "Expose": {"Checks": true},
            "AccessLogs": {"Enabled": true, "Type": "syslog"},
            "Upstreams": [
                {"DestinationName": "q", "DestinationType": "hope", "LocalBindPort": 1},
                {"DestinationName": "p", "DestinationPeer": "cluster2", "LocalBindPort": 2},
                {"DestinationName": "a", "LocalBindAddress": "nowhere", "LocalBindPort": 3},
                {"DestinationName": "b", "LocalBindPort": 70000},
                {"DestinationName": "c", "LocalBindSocketPath": "/run/c.sock", "LocalBindSocketMode": "9"},
                {"DestinationName": "d", "LocalBindPort": 4, "Config": {"protocol": "carrier-pigeon"}},
            ],
        }));
        let paths: Vec<&str> = web.problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "Proxy.Config.protocol",
                "Proxy.Config.local_connect_timeout_ms",
                "Proxy.Mode",
                "Proxy.Upstreams[0].DestinationType",
                "Proxy.Upstreams[1].DestinationPeer",
                "Proxy.Upstreams[2].LocalBindAddress",
                "Proxy.Upstreams[3].LocalBindPort",
                "Proxy.Upstreams[4].LocalBindSocketMode",
                "Proxy.Upstreams[5].Config.protocol",
                "Proxy.AccessLogs.Type",
            ]
        );
        assert_eq!(web.upstreams.iter().map(|u| &*u.key.0).collect::<Vec<_>>(), ["d@127.0.0.1:4"]);
        assert_eq!(web.bind.address, tcp("10.0.0.9:19001"));
    }

    #[test]
    fn upstreams_listen_on_ports_or_sockets() {
        let (list, problems) = upstreams(json!([
            {"DestinationName": "a", "LocalBindAddress": "127.0.0.9", "LocalBindPort": 1},
            {"DestinationName": "b", "LocalBindSocketPath": "/run/b.sock", "LocalBindSocketMode": "0660"},
            {"DestinationName": "c", "Datacenter": "dc2", "DestinationNamespace": "team", "LocalBindPort": 2},
        ]));
        assert_eq!(list[0].bind, Bind { address: tcp("127.0.0.9:1"), mode: None });
        assert_eq!(list[1].bind, Bind { address: Address::Unix("/run/b.sock".into()), mode: Some(0o660) });
        assert_eq!(
            (&*list[2].destination.namespace, list[2].datacenter.as_deref(), &*list[2].key.0),
            ("team", Some("dc2"), "team/c.dc2@127.0.0.1:2")
        );
        assert_eq!(problems, []);
    }

    #[test]
    fn keys_are_unique_and_do_not_depend_on_neighbours_or_order() {
        let api = |port: u16| json!({"DestinationName": "api", "LocalBindPort": port});
        let other = json!({"DestinationName": "api", "Datacenter": "dc2", "LocalBindPort": 3});
        let keys = |list: &[&Value]| -> Vec<(String, Address)> {
            let mut keys: Vec<_> = upstreams(json!(list)).0.into_iter().map(|u| (u.key.0.to_string(), u.bind.address)).collect();
            keys.sort();
            keys
        };
        let straight = keys(&[&api(1), &api(2), &other]);
        assert_eq!(
            straight.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
            ["api.dc2@127.0.0.1:3", "api@127.0.0.1:1", "api@127.0.0.1:2"]
        );
        assert_eq!(straight, keys(&[&other, &api(2), &api(1)]));
        assert_eq!(straight[1..2], keys(&[&api(1)]));
    }
}
