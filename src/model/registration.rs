//! What the agent knows of our own proxy, and what it compiled for our upstreams: the raw material of a snapshot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    access_log::AccessLog,
    balance::{BalancePolicy, Limits, PassiveHealth, Sticky},
    cluster::TargetId,
    identity::ServiceName,
    listener::{Address, Bind, Protocol},
    metrics::MetricsConfig,
    route::RouteTable,
    tracing::TracingSettings,
};

/// Our own proxy registration (`GET /v1/agent/service/<proxy id>`), decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// The proxy's id, for example `web-sidecar-proxy`.
    pub proxy_id: Arc<str>,
    /// The service represented: the identity used for leaf and intentions.
    pub service: ServiceName,
    /// The agent's datacenter.
    pub datacenter: Arc<str>,
    /// Where the public listener listens: `bind_address`/`bind_port`, else the registration's address and port.
    pub bind: Bind,
    /// What is spoken on the public listener.
    pub protocol: Protocol,
    /// Where the local app is.
    pub app: Address,
    /// `local_connect_timeout_ms`.
    pub local_connect_timeout: Duration,
    /// `local_request_timeout_ms`; `None` when set to 0.
    pub local_request_timeout: Option<Duration>,
    /// `local_idle_timeout_ms`; `None` when set to 0.
    pub local_idle_timeout: Option<Duration>,
    /// `max_inbound_connections`; `None` is no limit.
    pub max_inbound_connections: Option<u32>,
    /// `Expose`: the paths that are served in clear.
    pub exposed: Vec<ExposedPath>,
    /// `Expose.Checks`: the id of the app's service, whose HTTP and gRPC checks come through us.
    pub exposes_checks: Option<Arc<str>>,
    /// `AccessLogs`.
    pub access_log: AccessLog,
    /// Where metrics go.
    pub metrics: MetricsConfig,
    /// What `Config` says of tracing.
    pub tracing: TracingSettings,
    /// The upstreams with a listener, in the registration's order.
    pub upstreams: Vec<UpstreamConfig>,
    /// What in the registration could not be used; each has its path.
    pub problems: Vec<Unusable>,
    /// What in the registration means nothing here, sorted by path.
    pub ignored: Vec<Ignored>,
}

/// A setting of the registration that means nothing here: no mistake, but without effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// Where, for example `Proxy.Config.envoy_tracing_json`.
    pub path: String,
    /// Why it has no effect.
    pub why: &'static str,
}

/// A path of the app that is served in clear (`Proxy.Expose.Paths`, or made from a check).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExposedPath {
    /// Where it is served.
    pub bind: Bind,
    /// The exact path.
    pub path: Arc<str>,
    /// Where the app has it.
    pub app: Address,
    /// `http`, or `http2` for an app that speaks nothing else on that port.
    pub protocol: Protocol,
    /// Only callers of this host are served.
    pub near_only: bool,
}

/// A check of the app that the agent makes through us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExposedCheck {
    /// The port that the agent calls on our address.
    pub port: u16,
    /// The exact path.
    pub path: Arc<str>,
    /// `http`, or `http2` for gRPC checks.
    pub protocol: Protocol,
}

/// A part of the registration that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unusable {
    /// Where, for example `Proxy.Upstreams[2].LocalBindPort`.
    pub path: String,
    /// What and why.
    pub why: String,
    /// What to do.
    pub advice: String,
}

/// What names an upstream among its sidecar's: the destination and where it listens, `api@127.0.0.1:9191`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UpstreamKey(pub Arc<str>);

/// One upstream of the registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamConfig {
    /// Its name among the sidecar's.
    pub key: UpstreamKey,
    /// The destination: a service, or a prepared query by its name.
    pub destination: ServiceName,
    /// Whether the destination is a prepared query.
    pub is_query: bool,
    /// The datacenter asked for; `None` is ours.
    pub datacenter: Option<Arc<str>>,
    /// Where the app calls it.
    pub bind: Bind,
    /// `protocol` of the merged configuration, if set; else the chain's protocol holds.
    pub protocol: Option<Protocol>,
    /// `connect_timeout_ms`, if set.
    pub connect_timeout: Option<Duration>,
    /// Mesh gateway mode, if set: sent along with the chain query.
    pub mesh_gateway: Option<Arc<str>>,
    /// `limits`, with the defaults for what is not set.
    pub limits: Limits,
    /// `passive_health_check`, with the defaults for what is not set.
    pub passive: PassiveHealth,
    /// `aralez_sticky_cookie`: a setting of ours, which Consul passes on as it stands.
    pub sticky: Option<Sticky>,
    /// `aralez_slow_start`: a setting of ours, which Consul passes on as it stands.
    pub slow_start: Option<Duration>,
}

impl UpstreamConfig {
    /// An upstream to a service of our datacenter, with nothing else set.
    pub fn new(key: UpstreamKey, destination: ServiceName, bind: Bind) -> Self {
        Self {
            key,
            destination,
            is_query: false,
            datacenter: None,
            bind,
            protocol: None,
            connect_timeout: None,
            mesh_gateway: None,
            limits: Limits::default(),
            passive: PassiveHealth::default(),
            sticky: None,
            slow_start: None,
        }
    }
}

/// A compiled discovery chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Protocol of the chain.
    pub protocol: Protocol,
    /// Its routes; their legs name the targets by their place.
    pub routes: Arc<RouteTable>,
    /// The targets, each with the balancing of the resolver that leads to it.
    pub targets: Vec<Target>,
    /// What in it could not be used; the rest lives.
    pub problems: Vec<Unusable>,
}

/// A target of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its id in the chain.
    pub id: TargetId,
    /// Its service.
    pub service: ServiceName,
    /// Its datacenter.
    pub datacenter: Arc<str>,
    /// How its servers are called and recognised.
    pub naming: Naming,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How its endpoints are chosen among.
    pub balance: BalancePolicy,
    /// The subset's filter expression, evaluated by Consul; empty is none.
    pub filter: Arc<str>,
    /// Whether only instances with all checks passing count.
    pub only_passing: bool,
}

/// How the servers of a target are called and recognised in TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// By the server name that the chain gives; they show the identity of the target's service in its datacenter.
    Chain(Arc<str>),
    /// By the name of the prepared query that found them; they show the identity of any of these services, each with its datacenter.
    Query(Arc<[(ServiceName, Arc<str>)]>),
}

/// The instances of each target, by its id.
pub type EndpointsByTarget = BTreeMap<TargetId, Arc<[Arc<super::cluster::Endpoint>]>>;
