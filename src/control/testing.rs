//! What the tests of this room share: credentials and a registration.

use std::{net::SocketAddr, time::Duration};

pub(crate) use crate::model::testing::{TRUST_DOMAIN, id as peer};
use crate::model::{
    access_log::AccessLog,
    credentials::{Leaf, Roots},
    identity::ServiceName,
    listener::{Address, Bind, Protocol},
    metrics::MetricsConfig,
    registration::{Registration, UpstreamConfig, UpstreamKey},
    testing::Ca,
    tracing::TracingSettings,
};

/// PEM texts as the agent gives them.
pub struct Pems {
    /// The root's certificate.
    pub root: String,
    /// The leaf's certificate.
    pub leaf: String,
    /// The leaf's key.
    pub key: String,
}

/// A fresh root, and a leaf of it for `service`.
pub fn pems(service: &str) -> Pems {
    let ca = Ca::new();
    let (leaf, key) = ca.leaf_pem(&[&peer(service).to_string()]);
    Pems { root: ca.root_pem(), leaf, key }
}

/// A leaf for `service` with its fresh root, parsed.
pub fn credentials(service: &str) -> (Leaf, Roots) {
    let ca = Ca::new();
    (ca.leaf(service), ca.roots())
}

/// The registration of a sidecar with upstreams to the named services.
pub fn registration(service: &str, upstreams: &[&str]) -> Registration {
    let tcp = |port| Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    let bind = |port| Bind { address: tcp(port), mode: None };
    let upstream = |(at, name): (usize, &&str)| {
        UpstreamConfig::new(UpstreamKey((*name).into()), ServiceName::local(name), bind(9000 + u16::try_from(at).unwrap()))
    };
    Registration {
        proxy_id: format!("{service}-sidecar-proxy").into(),
        service: ServiceName::local(service),
        datacenter: "dc1".into(),
        bind: bind(21000),
        protocol: Protocol::Tcp,
        app: tcp(8080),
        local_connect_timeout: Duration::from_secs(5),
        local_request_timeout: Some(Duration::from_secs(15)),
        local_idle_timeout: Some(Duration::from_secs(300)),
        max_inbound_connections: None,
        exposed: Vec::new(),
        exposes_checks: None,
        access_log: AccessLog::default(),
        upstreams: upstreams.iter().enumerate().map(upstream).collect(),
        metrics: MetricsConfig::nowhere(ServiceName::local(service), "dc1"),
        tracing: TracingSettings::default(),
        problems: Vec::new(),
        ignored: Vec::new(),
    }
}
