//! Typed structs and queries of the Consul agent's HTTP API, as a Connect sidecar uses it. No I/O.
//!
//! - A question is a struct that implements [`Query`]: method, path, parameters, body, how it can be held, and the type
//!   of its answer. Any HTTP client can ask it.
//! - An answer is a struct in Consul's own words. Unknown keys are ignored, missing ones and `null` are the default,
//!   and it serializes back in the spelling it was read in (defaults left out).
//! - The opaque `Config` maps of a proxy and its upstreams come in two spellings; [`ProxyConfig`] and
//!   [`UpstreamConfig`] read both.
//! - [`Meta`] is what the response headers say; [`GoDuration`] is Go's duration in both its forms.
//!
//! Facts are those of Consul 1.20.1; the captured answers under `tests/captured` come from it.

mod agent_service;
mod authorize;
mod chain;
mod config_entry;
mod duration;
mod gateway;
mod health;
mod intention;
mod jwt_provider;
mod leaf;
mod meta;
mod opaque;
mod peering;
mod prepared_query;
mod proxy;
mod query;
mod register;
mod roots;
mod route;
mod wire;

pub use agent_service::{AgentService, AgentServiceById, AgentServices, Connect, Locality, PeerMeta, ServiceAddress, Weights};
pub use authorize::{Authorization, Authorize};
pub use chain::{
    ChainFailover, ChainNode, ChainResolver, ChainRoute, ChainSplit, ChainTarget, CompiledChain, CookieConfig, DiscoveryChain,
    DiscoveryChainReply, FailoverPolicy, HashPolicy, LeastRequestConfig, LoadBalancer, PrioritizeByLocality, RingHashConfig, Split, Subset,
};
pub use config_entry::{
    ConfigEntries, ConfigEntry, ConfigKind, EnvoyExtension, Mesh, MeshHttp, MeshHttpDirection, MeshPeering, MeshTls, MeshTlsDirection,
    MeshTransparentProxy, ProxyDefaults, RequestNormalization, ServiceDefaults, UpstreamDefaults, UpstreamLimits, UpstreamOverride,
    UpstreamPassiveHealthCheck,
};
pub use duration::{DurationError, GoDuration};
pub use gateway::{GatewaysByDatacenter, MeshGateways};
pub use health::{AgentChecks, HealthCheck, HealthConnect, HealthService, Node, ServiceEntry};
pub use intention::{
    HeaderPermission, HttpPermission, Intention, IntentionMatch, IntentionMatches, JwtRequiredProvider, JwtRequirement, Permission,
    VerifyClaim,
};
pub use jwt_provider::{
    JwtBackOff, JwtCache, JwtCertificateProvider, JwtCluster, JwtForwarding, JwtHeader, JwtKeySet, JwtLocalKeys, JwtLocation, JwtName,
    JwtProvider, JwtRemoteKeys, JwtRetryPolicy, JwtTrust, JwtTrustedCa,
};
pub use leaf::{Leaf, LeafCert};
pub use meta::Meta;
pub use opaque::{ConfigError, Limits, PassiveHealthCheck, ProxyConfig, StickyCookie, UpstreamConfig};
pub use peering::{Peering, PeeringByName, PeeringRemote, PeeringStream, Peerings};
pub use prepared_query::{PreparedQuery, PreparedQueryResult};
pub use proxy::{AccessLogs, Expose, ExposePath, MeshGateway, Proxy, TransparentProxy, Upstream};
pub use query::{Blocking, Method, Query, Tenancy};
pub use register::{CheckRegistration, ConnectRegistration, DeregisterService, PassCheck, RegisterService, ServiceRegistration};
pub use roots::{CaRoot, CaRoots, Roots};
pub use route::{HeaderMatch, HeaderModifiers, HttpMatch, QueryParamMatch, Route, RouteDestination, RouteMatch};
pub use wire::Secret;
