//! The compiled discovery chain: `POST /v1/discovery-chain/<name>`.
//!
//! Walk it from [`CompiledChain::start_node`]: routers lead to splitters or resolvers, splitters to resolvers, a
//! resolver names its target and its failover targets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config_entry::EnvoyExtension;
use crate::duration::{GoDuration, as_nanos};
use crate::proxy::{MeshGateway, TransparentProxy};
use crate::query::{Blocking, Method, Query, Tenancy, append_text, path};
use crate::route::{HeaderModifiers, Route};
use crate::wire::wire;

/// Asks for the discovery chain of a name, compiled with the overrides of one upstream. Needs `service:read` on it.
///
/// A name without instances has a chain too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DiscoveryChain {
    /// The upstream's `DestinationName`.
    pub name: String,
    /// The upstream's namespace and partition.
    pub tenancy: Tenancy,
    /// The datacenter to compile for: the upstream's `Datacenter`; empty means the agent's own.
    pub compile_dc: String,
    /// The upstream's `protocol`; empty means no override. `tcp` drops routers and splitters.
    pub override_protocol: String,
    /// The upstream's connect timeout; none means no override.
    pub override_connect_timeout: Option<Duration>,
    /// The upstream's gateway mode; empty means no override.
    pub override_mesh_gateway_mode: String,
}

impl Query for DiscoveryChain {
    type Reply = DiscoveryChainReply;

    fn method(&self) -> Method {
        Method::Post
    }

    fn path(&self) -> String {
        path("/v1/discovery-chain", &self.name)
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = self.tenancy.params();
        append_text(&mut params, "compile-dc", &self.compile_dc);
        params
    }

    fn body(&self) -> Option<Value> {
        let mut body = Map::new();
        if !self.override_protocol.is_empty() {
            body.insert("OverrideProtocol".to_owned(), self.override_protocol.as_str().into());
        }
        if let Some(timeout) = self.override_connect_timeout {
            body.insert("OverrideConnectTimeout".to_owned(), GoDuration::from(timeout).to_string().into());
        }
        if !self.override_mesh_gateway_mode.is_empty() {
            let mode = serde_json::json!({ "Mode": self.override_mesh_gateway_mode });
            body.insert("OverrideMeshGateway".to_owned(), mode);
        }
        Some(Value::Object(body))
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

wire! {
    /// The answer: one chain.
    pub struct DiscoveryChainReply {
        /// The chain.
        pub chain: CompiledChain,
    }

    /// A compiled chain.
    pub struct CompiledChain {
        /// The name it is the chain of.
        pub service_name: String,
        /// The namespace it was compiled in.
        pub namespace: String,
        /// The partition it was compiled in.
        pub partition: String,
        /// The datacenter it was compiled in.
        pub datacenter: String,
        /// Differs from other chains of the name when overrides made a difference; empty otherwise.
        pub customization_hash: String,
        /// Whether no config entry shaped it: one resolver, one target.
        pub default: bool,
        /// `tcp`, `http`, `http2` or `grpc`.
        pub protocol: String,
        /// The `Meta` of the service's `service-defaults`.
        pub service_meta: BTreeMap<String, String>,
        /// Extensions from `service-defaults` and `proxy-defaults`.
        pub envoy_extensions: Vec<EnvoyExtension>,
        /// The key in `nodes` to start at.
        pub start_node: String,
        /// The nodes by `<type>:<name>`.
        pub nodes: BTreeMap<String, ChainNode>,
        /// The targets by ID: `[subset.]service.namespace.partition.datacenter` or, for a peer,
        /// `service.namespace.partition.external.peer`.
        pub targets: BTreeMap<String, ChainTarget>,
        /// Virtual IPs Consul assigned (transparent mode).
        #[serde(rename = "AutoVirtualIPs")]
        pub auto_virtual_ips: Vec<String>,
        /// Virtual IPs users assigned (transparent mode).
        #[serde(rename = "ManualVirtualIPs")]
        pub manual_virtual_ips: Vec<String>,
    }

    /// A node: by `kind` one of `routes`, `splits` and `resolver` is filled.
    pub struct ChainNode {
        /// `router`, `splitter` or `resolver`.
        #[serde(rename = "Type")]
        pub kind: String,
        /// The name without the type; not always a service's.
        pub name: String,
        /// A router's routes: the first that matches decides; the last matches every path.
        pub routes: Vec<ChainRoute>,
        /// A splitter's splits; nested splitters arrive flattened.
        pub splits: Vec<ChainSplit>,
        /// A resolver's decision.
        pub resolver: Option<ChainResolver>,
        /// How to choose among the endpoints (resolver) or to hash (all kinds).
        pub load_balancer: Option<LoadBalancer>,
    }

    /// A route of a router.
    pub struct ChainRoute {
        /// Match and destination, as in the `service-router` entry.
        pub definition: Option<Route>,
        /// Key of the node to go on with.
        pub next_node: String,
    }

    /// A split of a splitter.
    pub struct ChainSplit {
        /// The split as in the `service-splitter` entry.
        pub definition: Option<Split>,
        /// Share of the traffic in percent, in steps of 0.01.
        pub weight: f64,
        /// Key of the node to go on with.
        pub next_node: String,
    }

    /// A split as the `service-splitter` entry has it.
    pub struct Split {
        /// Share in percent, before flattening.
        pub weight: f64,
        /// Service; empty means the splitter's own.
        pub service: String,
        /// Subset; empty means the default one.
        pub service_subset: String,
        /// Namespace (Enterprise).
        pub namespace: String,
        /// Admin partition (Enterprise).
        pub partition: String,
        /// Changes to request headers.
        pub request_headers: Option<HeaderModifiers>,
        /// Changes to response headers.
        pub response_headers: Option<HeaderModifiers>,
    }

    /// What a resolver decided.
    pub struct ChainResolver {
        /// Whether no `service-resolver` entry shaped it.
        pub default: bool,
        /// Time to establish a connection; text on the wire.
        pub connect_timeout: GoDuration,
        /// Time for a whole request, zero for the default; integer nanoseconds on the wire.
        #[serde(serialize_with = "as_nanos")]
        pub request_timeout: GoDuration,
        /// ID of the target.
        pub target: String,
        /// What to use when the target has no healthy instance.
        pub failover: Option<ChainFailover>,
    }

    /// The targets to fail over to.
    pub struct ChainFailover {
        /// IDs, in order.
        pub targets: Vec<String>,
        /// How to order them (Enterprise); absent or mode empty means as listed.
        pub policy: Option<FailoverPolicy>,
        /// Regions in order (Enterprise).
        pub regions: Vec<String>,
    }

    /// How failover targets are ordered (Enterprise).
    pub struct FailoverPolicy {
        /// `sequential` (also when empty) or `order-by-locality`.
        pub mode: String,
        /// Regions in order.
        pub regions: Vec<String>,
    }

    /// A set of instances to send to.
    pub struct ChainTarget {
        /// Its ID, as in [`CompiledChain::targets`].
        #[serde(rename = "ID")]
        pub id: String,
        /// Service name.
        pub service: String,
        /// Subset name; empty for the whole service.
        pub service_subset: String,
        /// Namespace, also part of the SPIFFE ID.
        pub namespace: String,
        /// Admin partition, also part of the SPIFFE ID.
        pub partition: String,
        /// Datacenter, also part of the SPIFFE ID; empty for a peer's.
        pub datacenter: String,
        /// Local name of the exporting peer; empty for our own.
        pub peer: String,
        /// The gateway mode.
        pub mesh_gateway: MeshGateway,
        /// Which instances belong to it.
        pub subset: Subset,
        /// Settings of transparent mode.
        pub transparent_proxy: TransparentProxy,
        /// Time to establish a connection; text on the wire.
        pub connect_timeout: GoDuration,
        /// Whether it lies outside the mesh, behind a terminating gateway.
        pub external: bool,
        /// The server name to ask for; empty for a peer's (its instances carry it).
        #[serde(rename = "SNI")]
        pub sni: String,
        /// Unique name for statistics and clusters.
        pub name: String,
        /// Prefer near instances (Enterprise).
        pub prioritize_by_locality: Option<PrioritizeByLocality>,
    }

    /// Which instances a subset has.
    pub struct Subset {
        /// Filter expression (bexpr) over health entries; empty means all.
        pub filter: String,
        /// A warning makes an instance unhealthy, too.
        pub only_passing: bool,
    }

    /// How near instances are preferred (Enterprise).
    pub struct PrioritizeByLocality {
        /// `failover`, or `none` (also when empty).
        pub mode: String,
    }

    /// How to choose among endpoints.
    pub struct LoadBalancer {
        /// `random`, `round_robin`, `least_request`, `ring_hash` or `maglev`; empty means the proxy's own choice.
        pub policy: String,
        /// For `ring_hash`.
        pub ring_hash_config: Option<RingHashConfig>,
        /// For `least_request`.
        pub least_request_config: Option<LeastRequestConfig>,
        /// What to hash, in order, for `ring_hash` and `maglev`.
        pub hash_policies: Vec<HashPolicy>,
    }

    /// Size of the hash ring.
    pub struct RingHashConfig {
        /// Fewest entries; 0 means the proxy's own choice.
        pub minimum_ring_size: u64,
        /// Most entries; 0 means the proxy's own choice.
        pub maximum_ring_size: u64,
    }

    /// For least-request balancing.
    pub struct LeastRequestConfig {
        /// How many endpoints to compare; 0 means 2.
        pub choice_count: u32,
    }

    /// One ingredient of the hash.
    pub struct HashPolicy {
        /// `header`, `cookie` or `query_parameter`; empty with `source_ip`.
        pub field: String,
        /// Its name.
        pub field_value: String,
        /// How to make the cookie if the request has none.
        pub cookie_config: Option<CookieConfig>,
        /// Hash the caller's address.
        #[serde(rename = "SourceIP")]
        pub source_ip: bool,
        /// Stop here if this ingredient was found.
        pub terminal: bool,
    }

    /// A cookie for sticky balancing.
    pub struct CookieConfig {
        /// A session cookie: no lifetime.
        pub session: bool,
        /// Lifetime; integer nanoseconds on the wire.
        #[serde(rename = "TTL", serialize_with = "as_nanos")]
        pub ttl: GoDuration,
        /// Its path.
        pub path: String,
    }
}
