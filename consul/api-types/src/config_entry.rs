//! Config entries: `GET /v1/config/<kind>[/<name>]`.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::chain::{FailoverPolicy, PrioritizeByLocality};
use crate::duration::{GoDuration, as_nanos, as_optional_nanos};
use crate::proxy::{AccessLogs, Expose, MeshGateway, TransparentProxy};
use crate::query::{Blocking, Query, Tenancy, path};
use crate::wire::wire;

/// A kind of config entry.
pub trait ConfigKind: DeserializeOwned {
    /// The kind's name in paths.
    const KIND: &'static str;
}

/// Asks for one config entry. A missing one is a 404 that can be waited on.
///
/// `mesh` and `proxy-defaults` need no ACL rights, `service-defaults` needs `service:read`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigEntry<K> {
    /// The entry's name: a service's, `mesh` for [`Mesh`], `global` for [`ProxyDefaults`].
    pub name: String,
    /// Where the entry lives.
    pub tenancy: Tenancy,
    kind: PhantomData<fn() -> K>,
}

impl<K: ConfigKind> ConfigEntry<K> {
    /// The entry of kind `K` with that name.
    pub fn new(name: impl Into<String>, tenancy: Tenancy) -> Self {
        Self { name: name.into(), tenancy, kind: PhantomData }
    }
}

impl<K: ConfigKind> Query for ConfigEntry<K> {
    type Reply = K;

    fn path(&self) -> String {
        path(&format!("/v1/config/{}", K::KIND), &self.name)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        self.tenancy.params()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }

    fn absent_is_value(&self) -> bool {
        true
    }
}

/// Asks for all config entries of a kind; where there are none, the list is empty (and can be waited on).
///
/// `jwt-provider` needs `service:write` on any service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigEntries<K> {
    /// Where the entries live.
    pub tenancy: Tenancy,
    kind: PhantomData<fn() -> K>,
}

impl<K: ConfigKind> ConfigEntries<K> {
    /// The entries of kind `K`.
    pub fn new(tenancy: Tenancy) -> Self {
        Self { tenancy, kind: PhantomData }
    }
}

impl<K: ConfigKind> Query for ConfigEntries<K> {
    type Reply = Vec<K>;

    fn path(&self) -> String {
        format!("/v1/config/{}", K::KIND)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        self.tenancy.params()
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

impl ConfigKind for Mesh {
    const KIND: &'static str = "mesh";
}

impl ConfigKind for ServiceDefaults {
    const KIND: &'static str = "service-defaults";
}

impl ConfigKind for ProxyDefaults {
    const KIND: &'static str = "proxy-defaults";
}

wire! {
    /// The `mesh` entry: settings of every proxy.
    pub struct Mesh {
        /// `mesh`.
        pub kind: String,
        /// TLS versions and ciphers.
        #[serde(rename = "TLS")]
        pub tls: Option<MeshTls>,
        /// HTTP settings.
        #[serde(rename = "HTTP")]
        pub http: Option<MeshHttp>,
        /// Transparent mode.
        pub transparent_proxy: MeshTransparentProxy,
        /// Whether `MutualTLSMode` may be `permissive`.
        #[serde(rename = "AllowEnablingPermissiveMutualTLS")]
        pub allow_enabling_permissive_mutual_tls: bool,
        /// Peering.
        pub peering: Option<MeshPeering>,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }

    /// TLS by direction.
    pub struct MeshTls {
        /// Connections from other sidecars.
        pub incoming: Option<MeshTlsDirection>,
        /// Connections to other sidecars.
        pub outgoing: Option<MeshTlsDirection>,
    }

    /// TLS of one direction.
    pub struct MeshTlsDirection {
        /// `TLS_AUTO` (also when empty), `TLSv1_0`, `TLSv1_1`, `TLSv1_2` or `TLSv1_3`.
        #[serde(rename = "TLSMinVersion")]
        pub tls_min_version: String,
        /// As the lowest version.
        #[serde(rename = "TLSMaxVersion")]
        pub tls_max_version: String,
        /// IANA-like names; only together with a lowest version of at most 1.2.
        pub cipher_suites: Vec<String>,
    }

    /// HTTP settings of every proxy.
    pub struct MeshHttp {
        /// Take the caller's `x-forwarded-client-cert` away instead of appending to it.
        pub sanitize_x_forwarded_client_cert: bool,
        /// Settings of inbound traffic.
        pub incoming: Option<MeshHttpDirection>,
    }

    /// HTTP settings of one direction.
    pub struct MeshHttpDirection {
        /// What happens to a request before intentions see it.
        pub request_normalization: Option<RequestNormalization>,
    }

    /// What happens to a request before intentions see it.
    pub struct RequestNormalization {
        /// Do not resolve dot segments, `\` and needless escapes.
        pub insecure_disable_path_normalization: bool,
        /// Make one slash of several.
        pub merge_slashes: bool,
        /// `IMPLEMENTATION_SPECIFIC_DEFAULT` (also when empty), `KEEP_UNCHANGED`, `REJECT_REQUEST`,
        /// `UNESCAPE_AND_REDIRECT` or `UNESCAPE_AND_FORWARD`.
        pub path_with_escaped_slashes_action: String,
        /// `ALLOW` (also when empty), `REJECT_REQUEST` or `DROP_HEADER`.
        pub headers_with_underscores_action: String,
    }

    /// Transparent mode of every proxy.
    pub struct MeshTransparentProxy {
        /// Refuse destinations outside the mesh.
        pub mesh_destinations_only: bool,
    }

    /// Peering of the cluster.
    pub struct MeshPeering {
        /// Peering traffic of servers passes through mesh gateways.
        pub peer_through_mesh_gateways: bool,
    }

    /// The `service-defaults` entry of a service.
    pub struct ServiceDefaults {
        /// `service-defaults`.
        pub kind: String,
        /// The service's name.
        pub name: String,
        /// `tcp` (also when empty), `http`, `http2` or `grpc`.
        pub protocol: String,
        /// Empty, `direct` or `transparent`.
        pub mode: String,
        /// Settings of transparent mode.
        pub transparent_proxy: TransparentProxy,
        /// Empty (inherit), `strict` or `permissive`.
        #[serde(rename = "MutualTLSMode")]
        pub mutual_tls_mode: String,
        /// Gateway mode for calls to the service.
        pub mesh_gateway: MeshGateway,
        /// What is served in plain text.
        pub expose: Expose,
        /// Server name for a service outside the mesh.
        #[serde(rename = "ExternalSNI")]
        pub external_sni: String,
        /// Settings of the service's own upstreams.
        pub upstream_config: Option<UpstreamDefaults>,
        /// Most inbound connections; 0 means unlimited.
        pub max_inbound_connections: i64,
        /// Time to connect to the application, milliseconds; 0 means not set.
        pub local_connect_timeout_ms: i64,
        /// Time for a request to the application, milliseconds; 0 means not set.
        pub local_request_timeout_ms: i64,
        /// `exact_balance` or empty.
        pub balance_inbound_connections: String,
        /// Extensions.
        pub envoy_extensions: Vec<EnvoyExtension>,
        /// Free-form metadata; [`service_meta`](crate::CompiledChain::service_meta) of its chain.
        pub meta: BTreeMap<String, String>,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }

    /// Settings of a service's upstreams.
    pub struct UpstreamDefaults {
        /// For single upstreams.
        pub overrides: Vec<UpstreamOverride>,
        /// For all of them.
        pub defaults: Option<UpstreamOverride>,
    }

    /// Settings of one upstream, or the defaults.
    pub struct UpstreamOverride {
        /// The upstream's name; empty in defaults.
        pub name: String,
        /// Its peer; empty for our own.
        pub peer: String,
        /// Envoy listener in JSON that replaces the generated one.
        #[serde(rename = "EnvoyListenerJSON")]
        pub envoy_listener_json: String,
        /// Envoy cluster in JSON that replaces the generated one.
        #[serde(rename = "EnvoyClusterJSON")]
        pub envoy_cluster_json: String,
        /// Protocol; empty means the service's own.
        pub protocol: String,
        /// Time to connect, milliseconds; 0 means not set.
        pub connect_timeout_ms: i64,
        /// Limits.
        pub limits: Option<UpstreamLimits>,
        /// Outlier detection.
        pub passive_health_check: Option<UpstreamPassiveHealthCheck>,
        /// Gateway mode.
        pub mesh_gateway: MeshGateway,
        /// `exact_balance` or empty.
        pub balance_outbound_connections: String,
    }

    /// Limits towards an upstream; none means the proxy's own.
    pub struct UpstreamLimits {
        /// Most connections.
        pub max_connections: Option<i64>,
        /// Most requests that wait for a connection.
        pub max_pending_requests: Option<i64>,
        /// Most requests at the same time.
        pub max_concurrent_requests: Option<i64>,
    }

    /// Outlier detection towards an upstream.
    pub struct UpstreamPassiveHealthCheck {
        /// Time between evaluations; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_nanos")]
        pub interval: GoDuration,
        /// Consecutive failures until ejection; 0 means the proxy's own.
        pub max_failures: u32,
        /// Chance of ejection in percent; none means 100.
        #[serde(rename = "EnforcingConsecutive5xx")]
        pub enforcing_consecutive_5xx: Option<u32>,
        /// Most endpoints ejected at once, in percent; none means 10.
        pub max_ejection_percent: Option<u32>,
        /// Time of the first ejection, none means 30 s; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_optional_nanos")]
        pub base_ejection_time: Option<GoDuration>,
    }

    /// The `proxy-defaults` entry, named `global`.
    pub struct ProxyDefaults {
        /// `proxy-defaults`.
        pub kind: String,
        /// `global`.
        pub name: String,
        /// Defaults of every proxy's opaque settings.
        pub config: Map<String, Value>,
        /// Empty, `direct` or `transparent`.
        pub mode: String,
        /// Settings of transparent mode.
        pub transparent_proxy: TransparentProxy,
        /// Empty (strict), `strict` or `permissive`.
        #[serde(rename = "MutualTLSMode")]
        pub mutual_tls_mode: String,
        /// The default gateway mode.
        pub mesh_gateway: MeshGateway,
        /// What is served in plain text.
        pub expose: Expose,
        /// Access logging.
        pub access_logs: AccessLogs,
        /// Extensions.
        pub envoy_extensions: Vec<EnvoyExtension>,
        /// How failover targets are ordered (Enterprise).
        pub failover_policy: Option<FailoverPolicy>,
        /// Prefer near instances (Enterprise).
        pub prioritize_by_locality: Option<PrioritizeByLocality>,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
    }

    /// An extension of Envoy's configuration.
    pub struct EnvoyExtension {
        /// Such as `builtin/lua`.
        pub name: String,
        /// Whether a proxy that cannot apply it must not run.
        pub required: bool,
        /// Its settings.
        pub arguments: Map<String, Value>,
        /// Consul versions it is for; empty means any.
        pub consul_version: String,
        /// Envoy versions it is for; empty means any.
        pub envoy_version: String,
    }
}
