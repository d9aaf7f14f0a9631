//! Clusters: one target of a discovery chain, with its endpoints and the identities it must show.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    balance::{Balance, Limits, PassiveHealth},
    identity::{ServiceName, SpiffeId},
    ingress::pool::{ProxyHeader, Scheme, ServerTls},
    listener::{Address, Protocol},
};

/// A target's id in the discovery chain, `[<subset>.]<service>.<namespace>.<partition>.<datacenter>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TargetId(pub Arc<str>);

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One target of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// The chain's name for it.
    pub target: TargetId,
    /// The service behind it.
    pub service: ServiceName,
    /// Its datacenter.
    pub datacenter: Arc<str>,
    /// Whom its endpoints must prove to be.
    pub trust: Trust,
    /// Which of the service's instances it has.
    pub subset: Subset,
    /// What is spoken with its endpoints.
    pub protocol: Protocol,
    /// How long connecting may take, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How its endpoints are chosen among.
    pub balance: Balance,
    /// Bounds on what it is given at once.
    pub limits: Limits,
    /// When a failing endpoint is left out.
    pub passive: PassiveHealth,
    /// All instances, the unhealthy ones too (they are shown, never chosen).
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

impl Cluster {
    /// Whether any endpoint may be chosen.
    pub fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|e| e.is_healthy())
    }
}

/// Whom the endpoints of a cluster must prove to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Mesh peers, by mutual TLS.
    Mesh {
        /// The TLS server name that is sent; never empty, since an empty one would switch verification off in Pingora.
        sni: Arc<str>,
        /// The server must show exactly one of these; empty only without endpoints.
        expected: Arc<[SpiffeId]>,
    },
    /// Servers behind an ingress listener, each spoken to as its [`Endpoint::dial`] says.
    Servers {
        /// How TLS to them is checked.
        tls: Arc<ServerTls>,
        /// The PROXY header that connections to them begin with.
        proxy_header: Option<ProxyHeader>,
    },
}

impl Trust {
    /// The identities of mesh peers; none of servers behind an ingress listener.
    pub fn expected(&self) -> &[SpiffeId] {
        match self {
            Self::Mesh { expected, .. } => expected,
            Self::Servers { .. } => &[],
        }
    }
}

/// Which instances of its service a target has; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subset {
    /// The filter that Consul applied; empty is none.
    pub filter: Arc<str>,
    /// Only those with all checks passing may be chosen.
    pub only_passing: bool,
}

/// One instance that can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoint {
    /// What names the instance across snapshots: `<node>/<service id>`.
    pub id: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic, 1 to 128; 0 means unhealthy (Consul's weights, capped as its Envoy path caps them).
    pub weight: u32,
    /// Why it may or may not be chosen.
    pub health: Health,
    /// What is spoken to it, behind an ingress listener; `None` is what its cluster says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dial: Option<Dial>,
}

/// What is spoken to a server, and under which name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Dial {
    /// Its name as configured, without the port: what TLS sends and compares unless the pool says otherwise. The address itself, if that is all there is.
    pub name: Arc<str>,
    /// What is spoken.
    pub scheme: Scheme,
}

impl Endpoint {
    /// Whether it may be chosen.
    pub fn is_healthy(&self) -> bool {
        self.weight > 0 && self.health != Health::Critical
    }
}

/// The health of an instance: the worst of its node's and its own checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All checks pass.
    Passing,
    /// A check warns: the warning weight holds.
    Warning,
    /// A check is critical, or not passing where the subset wants only passing ones.
    Critical,
}
