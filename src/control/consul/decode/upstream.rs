//! The upstreams of a registration.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use consul_api_types::{PassiveHealthCheck, StickyCookie, Upstream, UpstreamConfig as Opaque};

use super::registration::{name, unreadable};
use crate::model::{
    balance::{CookieLife, Limits, PassiveHealth, Sticky},
    identity::ServiceName,
    listener::{Address, Bind, Protocol},
    registration::{Unusable, UpstreamConfig, UpstreamKey},
};

/// Decodes the upstreams that have a listener. An upstream with neither port nor socket is synthetic and left out.
///
/// An upstream's key is its destination (and datacenter) with its bind address: neither its neighbours nor the order in the registration
/// have a part in it, so that a change of one upstream never touches another.
pub fn upstreams(upstreams: &[Upstream], own: &ServiceName, problems: &mut Vec<Unusable>) -> Vec<UpstreamConfig> {
    let listening = |(_, u): &(usize, &Upstream)| u.local_bind_port != 0 || !u.local_bind_socket_path.is_empty();
    upstreams.iter().enumerate().filter(listening).filter_map(|(at, u)| upstream(at, u, own, problems)).collect()
}

fn upstream(at: usize, upstream: &Upstream, own: &ServiceName, problems: &mut Vec<Unusable>) -> Option<UpstreamConfig> {
    let path = |field: &str| format!("Proxy.Upstreams[{at}].{field}");
    let mut refuse = |field: &str, why: String, advice: &str| {
        problems.push(Unusable { path: path(field), why, advice: advice.to_owned() });
    };
    const LEFT_OUT: &str = "this upstream gets no listener; the others are served";
    if upstream.destination_name.is_empty() {
        refuse("DestinationName", "it is empty".to_owned(), LEFT_OUT);
        return None;
    }
    if !matches!(upstream.destination_type.as_str(), "" | "service" | "prepared_query") {
        refuse("DestinationType", format!("{:?} is neither service nor prepared_query", upstream.destination_type), LEFT_OUT);
        return None;
    }
    let is_query = upstream.destination_type == "prepared_query";
    if !upstream.destination_peer.is_empty() {
        refuse("DestinationPeer", "upstreams in a cluster peer are not supported yet".to_owned(), LEFT_OUT);
        return None;
    }
    let bind = match bind(upstream) {
        Ok(bind) => bind,
        Err((field, why)) => {
            refuse(field, why, LEFT_OUT);
            return None;
        }
    };
    let (config, errors) = Opaque::read(&upstream.config);
    problems.extend(errors.iter().map(|error| unreadable(&path("Config"), error)));
    let mine = |text: &str, own: &Arc<str>| if text.is_empty() { own.to_string() } else { text.to_owned() };
    let partition = mine(&upstream.destination_partition, &own.partition);
    let namespace = mine(&upstream.destination_namespace, &own.namespace);
    let destination = name(&partition, &namespace, &upstream.destination_name);
    let datacenter = Some(upstream.datacenter.as_str()).filter(|dc| !dc.is_empty());
    let key = datacenter.map_or(destination.to_string(), |dc| format!("{destination}.{dc}"));
    let kind = if is_query { "query:" } else { "" };
    let key = format!("{kind}{key}@{}", bind.address);
    let mode = Some(upstream.mesh_gateway.mode.as_str()).filter(|mode| !mode.is_empty());
    Some(UpstreamConfig {
        key: UpstreamKey(key.into()),
        destination,
        is_query,
        datacenter: datacenter.map(Into::into),
        bind,
        protocol: config.protocol.as_deref().and_then(Protocol::parse),
        connect_timeout: config.connect_timeout.filter(|timeout| !timeout.is_zero()),
        mesh_gateway: mode.or(config.mesh_gateway.as_deref()).map(Into::into),
        limits: limits(&config.limits),
        passive: passive(config.passive_health_check.as_ref()),
        sticky: config.aralez_sticky_cookie.map(sticky),
        slow_start: config.aralez_slow_start.filter(|window| !window.is_zero()),
    })
}

/// The bounds on a cluster. A bound of 0 is meant: Envoy then lets nothing through.
fn limits(set: &consul_api_types::Limits) -> Limits {
    let unset = Limits::default();
    Limits {
        connections: set.max_connections.unwrap_or(unset.connections),
        pending: set.max_pending_requests.unwrap_or(unset.pending),
        requests: set.max_concurrent_requests.unwrap_or(unset.requests),
        retry_budget: unset.retry_budget,
    }
}

/// When endpoints are ejected. Where 0 has no meaning it is as unset, as Consul's Envoy path has it; a chance and a share of 0 are meant.
fn passive(set: Option<&PassiveHealthCheck>) -> PassiveHealth {
    let unset = PassiveHealth::default();
    let Some(set) = set else { return unset };
    let time = |set: Option<Duration>| set.filter(|time| !time.is_zero());
    PassiveHealth {
        interval: time(set.interval).unwrap_or(unset.interval),
        max_failures: set.max_failures.filter(|count| *count > 0).unwrap_or(unset.max_failures),
        enforcing: set.enforcing_consecutive_5xx.unwrap_or(unset.enforcing),
        max_ejection_percent: set.max_ejection_percent.unwrap_or(unset.max_ejection_percent),
        base_ejection: time(set.base_ejection_time).unwrap_or(unset.base_ejection),
    }
}

fn sticky(cookie: StickyCookie) -> Sticky {
    let path = cookie.path.unwrap_or_else(|| "/".to_owned());
    let ttl = cookie.ttl.filter(|ttl| !ttl.is_zero());
    Sticky { cookie: cookie.name.into(), life: CookieLife { ttl, path: path.into() } }
}

fn bind(upstream: &Upstream) -> Result<Bind, (&'static str, String)> {
    if !upstream.local_bind_socket_path.is_empty() {
        let mode = match upstream.local_bind_socket_mode.as_str() {
            "" => None,
            text => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o777 => Some(mode),
                _ => return Err(("LocalBindSocketMode", format!("{text:?} is not an octal file mode such as 0600"))),
            },
        };
        return Ok(Bind { address: Address::Unix(PathBuf::from(&upstream.local_bind_socket_path)), mode });
    }
    let ip: IpAddr = match upstream.local_bind_address.as_str() {
        "" | "localhost" => Ipv4Addr::LOCALHOST.into(),
        text => text.parse().map_err(|_| ("LocalBindAddress", format!("{text:?} is not an IP address")))?,
    };
    let port =
        u16::try_from(upstream.local_bind_port).map_err(|_| ("LocalBindPort", format!("{} is not a port", upstream.local_bind_port)))?;
    Ok(Bind { address: Address::Tcp((ip, port).into()), mode: None })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decode(config: Value) -> UpstreamConfig {
        let upstream = json!({"DestinationName": "db", "LocalBindPort": 5432, "Config": config});
        let mut problems = Vec::new();
        let read = upstreams(&[serde_json::from_value(upstream).unwrap()], &ServiceName::local("web"), &mut problems);
        assert_eq!(problems, []);
        read.into_iter().next().unwrap()
    }

    #[test]
    fn protection_is_read_over_the_defaults() {
        let bare = decode(json!({}));
        assert_eq!((bare.limits, bare.passive), (Limits::default(), PassiveHealth::default()));
        assert_eq!((bare.sticky, bare.slow_start), (None, None));

        let set = decode(json!({
            "limits": {"max_connections": 3, "MaxPendingRequests": 0},
            "passive_health_check": {"max_failures": 7, "interval": "22s", "EnforcingConsecutive5xx": 0, "BaseEjectionTime": 90_000_000_000_u64},
        }));
        assert_eq!(set.limits, Limits { connections: 3, pending: 0, requests: 1024, retry_budget: 20 });
        let expected = PassiveHealth {
            interval: Duration::from_secs(22),
            max_failures: 7,
            enforcing: 0,
            max_ejection_percent: 10,
            base_ejection: Duration::from_secs(90),
        };
        assert_eq!(set.passive, expected);
    }

    #[test]
    fn a_check_of_zeros_is_one_of_the_defaults_where_zero_means_nothing() {
        let set = decode(json!({"passive_health_check": {"max_failures": 0, "interval": 0, "base_ejection_time": "0s"}}));
        assert_eq!(set.passive, PassiveHealth::default());
    }

    #[test]
    fn sticky_sessions_and_slow_start_are_read() {
        let set = decode(json!({"aralez_sticky_cookie": "who", "aralez_slow_start": "40s"}));
        let cookie = |ttl, path: &str| Some(Sticky { cookie: "who".into(), life: CookieLife { ttl, path: path.into() } });
        assert_eq!((set.sticky, set.slow_start), (cookie(None, "/"), Some(Duration::from_secs(40))));
        let set = decode(json!({"aralez_sticky_cookie": {"name": "who", "ttl": "1h", "path": "/shop"}, "aralez_slow_start": "0s"}));
        assert_eq!((set.sticky, set.slow_start), (cookie(Some(Duration::from_secs(3600)), "/shop"), None));
        assert_eq!(decode(json!({"aralez_sticky_cookie": {"name": "who", "ttl": 0}})).sticky, cookie(None, "/"));
    }
}
