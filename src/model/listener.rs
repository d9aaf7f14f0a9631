//! Listeners: an address, a role, and everything that the role needs to serve it.

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    access_log::AccessLog,
    cluster::{Cluster, Endpoint},
    credentials::Identity,
    identity::ServiceName,
    ingress::Ingress,
    intention::Intentions,
    jwt::Providers,
    mesh::TlsBounds,
    path::Normalization,
    route::RouteTable,
    tracing::Tracing,
};

/// What is spoken on a listener or to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Opaque bytes.
    #[default]
    Tcp,
    /// HTTP/1.1 (cleartext HTTP/2 by prior knowledge is tolerated towards the app's side).
    Http,
    /// HTTP/2.
    Http2,
    /// HTTP/2 with gRPC in it.
    Grpc,
}

impl Protocol {
    /// `tcp`, `http`, `http2` or `grpc`, in any case; anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "http" => Some(Self::Http),
            "http2" => Some(Self::Http2),
            "grpc" => Some(Self::Grpc),
            _ => None,
        }
    }

    /// Whether requests are understood, rather than bytes carried.
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }

    /// Whether HTTP/2 is what mesh peers speak with each other.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// The word for it in configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// A socket address of either family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Bind {
    /// The address.
    pub address: Address,
    /// Permission bits of a Unix socket, for example `0o600`; `None` leaves the process's umask to decide.
    pub mode: Option<u32>,
}

/// What names a listener across snapshots: the sidecar it belongs to, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    /// The proxy's id in Consul, for example `web-sidecar-proxy`.
    pub sidecar: Arc<str>,
    /// `public`, or the upstream's name.
    pub name: Arc<str>,
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sidecar, self.name)
    }
}

impl Serialize for ListenerKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A listener with its role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Its name across snapshots.
    pub key: ListenerKey,
    /// The local service it works for.
    pub service: ServiceName,
    /// Where it listens.
    pub bind: Bind,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Our leaf and the roots; `None` for the ingress role, which shows certificates of names instead.
    pub identity: Option<Arc<Identity>>,
    /// TLS versions and suites from the mesh entry.
    pub tls: TlsBounds,
    /// Whether and where requests are logged.
    pub access_log: Arc<AccessLog>,
    /// How it takes part in traces, if it does.
    pub tracing: Option<Arc<Tracing>>,
    /// What it does with a connection.
    pub role: Role,
}

/// What a listener does with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// mTLS from mesh peers, on to the local app.
    Inbound(Inbound),
    /// Plain from the local app, on to mesh peers.
    Upstream(Upstream),
    /// Plain from anybody, one path of the local app: for health checks and scrapers outside the mesh.
    Exposed(Exposed),
    /// TLS or plain from anybody, on to the servers of a file or a catalog.
    Ingress(Box<Ingress>),
}

impl Role {
    /// The service that is called: ours on the inbound side, the upstream's destination on the outbound side.
    pub fn destination<'a>(&'a self, ours: &'a ServiceName) -> &'a ServiceName {
        match self {
            Self::Inbound(_) | Self::Exposed(_) | Self::Ingress(_) => ours,
            Self::Upstream(upstream) => &upstream.destination,
        }
    }

    /// `inbound` or `outbound`, as metrics and logs call the direction.
    pub fn direction(&self) -> &'static str {
        match self {
            Self::Inbound(_) | Self::Exposed(_) | Self::Ingress(_) => "inbound",
            Self::Upstream(_) => "outbound",
        }
    }
}

/// The inbound role: who may call, and where the app is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inbound {
    /// Who may call.
    pub intentions: Arc<Intentions>,
    /// Who issues the tokens that the intentions ask for.
    pub providers: Arc<Providers>,
    /// The local app, as one endpoint.
    pub app: Arc<Endpoint>,
    /// How long connecting to the app may take (`local_connect_timeout_ms`, default 5 s as in Consul's Envoy path).
    pub connect_timeout: Duration,
    /// How long a request may take in all (`local_request_timeout_ms`, default 15 s; `None` when set to 0).
    pub request_timeout: Option<Duration>,
    /// How long a request may stand still (`local_idle_timeout_ms`, default 300 s; `None` when set to 0).
    pub idle_timeout: Option<Duration>,
    /// Most connections at once (`max_inbound_connections`); `None` is no limit.
    pub max_connections: Option<u32>,
    /// How requests are brought into their one form before anything looks at them.
    pub normalization: Normalization,
    /// What becomes of `x-forwarded-client-cert`.
    pub xfcc: Xfcc,
}

/// The exposed role (`Proxy.Expose`): no TLS, no intentions, exactly one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exposed {
    /// The path that is served; everything else is 404.
    pub path: Arc<str>,
    /// The local app at the port that has the path.
    pub app: Arc<Endpoint>,
    /// How long connecting to the app may take.
    pub connect_timeout: Duration,
    /// Only callers of this host are served, as for the checks of the agent: those from loopback or from the address that they call.
    pub near_only: bool,
}

/// What the inbound side does with the `x-forwarded-client-cert` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Xfcc {
    /// An element for this hop is appended to what came (Consul's default for http and http2).
    AppendForward,
    /// The header is removed (mesh entry `SanitizeXForwardedClientCert`, and protocol grpc).
    Sanitize,
}

/// The upstream role: where the app's calls go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Name of the upstream's destination, for logs and metrics.
    pub destination: ServiceName,
    /// Which call goes where.
    pub routes: Arc<RouteTable>,
    /// The clusters that the routes' legs name by their place.
    pub clusters: Vec<Arc<Cluster>>,
}
