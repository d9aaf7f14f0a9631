//! From a port of a Service to the addresses that serve it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Service, ServicePort as Port};

use super::objects::Objects;
use crate::model::{
    cluster::{Endpoint, Health},
    ingress::pool::{KubernetesService, Scheme, ServicePort},
    listener::Address,
};

/// The endpoints of a port of a Service, by address. Those that are ready; while none is, those that still serve although they are to end, as
/// kube-proxy chooses.
///
/// # Errors
/// In words, when there is no such Service or port.
pub fn endpoints(objects: &Objects, wanted: &KubernetesService) -> Result<Arc<[Arc<Endpoint>]>, String> {
    let KubernetesService { namespace, name, .. } = wanted;
    let service = objects.services.get(namespace, name).ok_or_else(|| format!("there is no Service {name} in namespace {namespace}"))?;
    let port = port(service, wanted.port.as_ref())?;
    let port_name = port.name.as_deref().unwrap_or_default();
    let (mut ready, mut ending) = (BTreeMap::new(), BTreeMap::new());
    for slice in objects.slices.group(namespace, name) {
        let found = slice.ports.iter().flatten().find(|found| found.name.as_deref().unwrap_or_default() == port_name);
        let Some(number) = found.and_then(|found| u16::try_from(found.port?).ok()) else { continue };
        for endpoint in &slice.endpoints {
            // All addresses of an endpoint are the same pod; names (`addressType: FQDN`) are no addresses.
            let Some(ip) = endpoint.addresses.first().and_then(|first| first.parse().ok()) else { continue };
            let address = SocketAddr::new(ip, number);
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            if conditions.ready.unwrap_or(true) {
                ready.insert(address, of(address));
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                ending.insert(address, of(address));
            }
        }
    }
    Ok(if ready.is_empty() { ending } else { ready }.into_values().collect())
}

fn of(address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint { id: address.to_string().into(), address: Address::Tcp(address), weight: 1, health: Health::Passing, dial: None })
}

/// The port of a Service that is meant.
///
/// # Errors
/// In words, when it has none such.
pub fn port<'a>(service: &'a Service, wanted: Option<&ServicePort>) -> Result<&'a Port, String> {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Err("the Service is of type ExternalName, which has no endpoints".to_owned());
    }
    let tcp = |port: &&Port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let mut ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default().iter().filter(tcp);
    match wanted {
        None => match (ports.next(), ports.next()) {
            (Some(only), None) => Ok(only),
            _ => Err("the Service has not one port but several, or none: say which".to_owned()),
        },
        Some(ServicePort::Number(number)) => {
            ports.find(|port| port.port == i32::from(*number)).ok_or_else(|| format!("the Service has no port {number}"))
        }
        Some(ServicePort::Name(name)) => {
            ports.find(|port| port.name.as_deref() == Some(name)).ok_or_else(|| format!("the Service has no port {name}"))
        }
    }
}

/// What is spoken at a port: its `appProtocol` (KEP-3726 and the IANA names, which have no case), HTTP in clear without one that is known.
pub fn scheme(port: &Port) -> Scheme {
    match port.app_protocol.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("https" | "kubernetes.io/wss") => Scheme::Https,
        Some("kubernetes.io/h2c" | "h2c") => Scheme::H2c,
        Some("grpc") => Scheme::Grpc,
        Some("grpcs") => Scheme::Grpcs,
        _ => Scheme::Http,
    }
}
