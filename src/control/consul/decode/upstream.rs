//! The upstreams of a registration.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use consul_api_types::{Upstream, UpstreamConfig as Opaque};

use super::registration::{name, unreadable};
use crate::model::{
    balance::{Limits, PassiveHealth},
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
    if !matches!(upstream.destination_type.as_str(), "" | "service") {
        refuse("DestinationType", format!("{} is not supported yet", upstream.destination_type), LEFT_OUT);
        return None;
    }
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
    let key = format!("{key}@{}", bind.address);
    let mode = Some(upstream.mesh_gateway.mode.as_str()).filter(|mode| !mode.is_empty());
    Some(UpstreamConfig {
        key: UpstreamKey(key.into()),
        destination,
        datacenter: datacenter.map(Into::into),
        bind,
        protocol: config.protocol.as_deref().and_then(Protocol::parse),
        connect_timeout: config.connect_timeout.filter(|timeout| !timeout.is_zero()),
        mesh_gateway: mode.or(config.mesh_gateway.as_deref()).map(Into::into),
        limits: Limits::default(),
        passive: PassiveHealth::default(),
        sticky: None,
        slow_start: None,
    })
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
