//! Pools: where the servers of a route come from, and how they are reached.

use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use crate::model::{
    balance::{Balance, Limits, PassiveHealth},
    cluster::TargetId,
    credentials::Certificate,
    identity::ServiceName,
    registration::UpstreamKey,
    secret::Secret,
};

/// The servers of a route, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Names it across snapshots: the route's name, with `#backup` for its second group.
    pub id: TargetId,
    /// Where its servers come from.
    pub source: PoolSource,
    /// How they are chosen among.
    pub balance: Balance,
    /// Bounds on what they are given at once.
    pub limits: Limits,
    /// When one that fails is left out.
    pub passive: PassiveHealth,
    /// How they are probed; `None` never: all count as healthy.
    pub health: Option<HealthCheck>,
    /// How TLS to them is checked.
    pub tls: Arc<ServerTls>,
    /// How long connecting may take, TCP and TLS together.
    pub connect_timeout: Duration,
    /// The PROXY header that connections to them begin with.
    pub proxy_header: Option<ProxyHeader>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyHeader {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Where servers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolSource {
    /// The file.
    Servers(Vec<Server>),
    /// The health API of Consul.
    Consul(ConsulService),
    /// The sidecars of a service, by mutual TLS.
    Mesh(MeshService),
    /// The EndpointSlices of Kubernetes.
    Kubernetes(KubernetesService),
}

/// A server as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Server {
    /// Where.
    pub host: ServerHost,
    /// What is spoken; `None` is found out.
    pub scheme: Option<Scheme>,
    /// Its share, 1 to 128.
    pub weight: u32,
}

/// A server's address as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerHost {
    /// An address and a port.
    Ip(IpAddr, u16),
    /// A name, which is resolved, and a port.
    Name(Arc<str>, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address, port) => std::net::SocketAddr::new(*address, *port).fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is spoken to a server, as its scheme says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP/1.1 in clear.
    Http,
    /// TLS; ALPN decides between HTTP/2 and HTTP/1.1.
    Https,
    /// HTTP/2 in clear, by prior knowledge.
    H2c,
    /// The same, for gRPC.
    Grpc,
    /// HTTP/2 over TLS, for gRPC.
    Grpcs,
}

impl Scheme {
    /// The scheme before `://`, in lower case; `ws` and `wss` are what they are made of.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "http" | "ws" => Self::Http,
            "https" | "wss" => Self::Https,
            "h2c" => Self::H2c,
            "grpc" => Self::Grpc,
            "grpcs" => Self::Grpcs,
            _ => return None,
        })
    }

    /// Whether TLS is spoken.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }
}

/// A service in Consul.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ConsulService {
    /// Its name.
    pub name: Arc<str>,
    /// Only instances with all of these tags.
    pub tags: Vec<Arc<str>>,
    /// Its datacenter; `None` is the agent's.
    pub datacenter: Option<Arc<str>>,
    /// Its namespace (Enterprise).
    pub namespace: Option<Arc<str>>,
    /// What is spoken; `None` is found out.
    pub scheme: Option<Scheme>,
}

/// A service of the mesh that is called through its sidecars.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct MeshService {
    /// Who calls: whose leaf is shown, and whom intentions name as their source.
    pub caller: ServiceName,
    /// The service.
    pub service: ServiceName,
    /// The datacenter that its discovery chain is compiled for; `None` is the agent's.
    pub datacenter: Option<Arc<str>>,
}

impl MeshService {
    /// Names it among those that are called.
    pub fn key(&self) -> UpstreamKey {
        UpstreamKey(match &self.datacenter {
            None => self.service.to_string().into(),
            Some(datacenter) => format!("{} in {datacenter}", self.service).into(),
        })
    }
}

/// A Service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct KubernetesService {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The port of the Service (not of its pods); `None` is its only one.
    pub port: Option<ServicePort>,
    /// What is spoken; `None` is found out.
    pub scheme: Option<Scheme>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// By number.
    Number(u16),
    /// By name.
    Name(Arc<str>),
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// How a server's certificate is checked, and what we show.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ServerTls {
    /// Whether the certificate must chain to a root and bear the name; `false` only when the file says so by `tls_verify: false`.
    pub verify: bool,
    /// The name that is sent and compared; `None` is the server's own.
    pub name: Option<Arc<str>>,
    /// Whom to trust; empty is the system's roots.
    #[serde(skip)]
    pub roots: Vec<Certificate>,
    /// Our certificate and key, PEM.
    #[serde(skip)]
    pub client: Option<(Vec<Certificate>, Secret)>,
}

impl Default for ServerTls {
    fn default() -> Self {
        Self { verify: true, name: None, roots: Vec::new(), client: None }
    }
}

/// How servers are probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// The pause between two probes of a server.
    pub interval: Duration,
    /// How long an answer may take; no answer is a failure.
    pub timeout: Duration,
    /// Successes in a row that make a server healthy again.
    pub healthy_after: u32,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_after: u32,
}

impl Default for HealthCheck {
    /// `HEAD /` every 2 s. Every answer but a server error will do: an API has nothing at `/`, and a gRPC server refuses the method.
    fn default() -> Self {
        Self {
            probe: Probe::Http { method: "HEAD".into(), path: "/".into(), host: None, expect: vec![200..=499] },
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            healthy_after: 1,
            unhealthy_after: 2,
        }
    }
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// An HTTP request.
    Http {
        /// The method, upper case.
        method: Arc<str>,
        /// Path and query.
        path: Arc<str>,
        /// `Host`; `None` is the server's own name.
        host: Option<Arc<str>>,
        /// Statuses of a healthy server. Redirects are not followed.
        expect: Vec<RangeInclusive<u16>>,
    },
    /// A connection.
    Tcp,
    /// The health protocol of gRPC (`grpc.health.v1.Health/Check`).
    Grpc {
        /// The service that is asked for; empty is the whole server.
        service: Arc<str>,
    },
}
