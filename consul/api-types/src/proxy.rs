//! The proxy block of a registration: what a sidecar must do.
//!
//! `GET /v1/agent/service/<id>` gives it merged with central configuration, but without `EnvoyExtensions` and
//! `MutualTLSMode`: those are only in the config entries.

use serde_json::{Map, Value};

use crate::wire::wire;

wire! {
    /// What a sidecar is told.
    pub struct Proxy {
        /// The service represented: its name is the identity for leaf and intentions.
        pub destination_service_name: String,
        /// The ID of the instance represented, on the same agent.
        #[serde(rename = "DestinationServiceID")]
        pub destination_service_id: String,
        /// Where the application listens; empty means `127.0.0.1`.
        pub local_service_address: String,
        /// The application's port; 0 when it has none.
        pub local_service_port: i64,
        /// Path of the application's Unix socket; it wins over address and port.
        pub local_service_socket_path: String,
        /// Empty or `direct` (explicit upstreams), or `transparent`.
        pub mode: String,
        /// Settings of transparent mode.
        pub transparent_proxy: Option<TransparentProxy>,
        /// The opaque settings; [`ProxyConfig::read`](crate::ProxyConfig::read) reads them.
        pub config: Map<String, Value>,
        /// What the application calls.
        pub upstreams: Vec<Upstream>,
        /// The default gateway mode of upstreams.
        pub mesh_gateway: MeshGateway,
        /// Paths and checks served without TLS and intentions.
        pub expose: Expose,
        /// Access logging, from `proxy-defaults`.
        pub access_logs: Option<AccessLogs>,
    }

    /// One upstream of a sidecar.
    ///
    /// One with neither port nor socket path is synthetic: central configuration made it in transparent mode, the one
    /// named `*` carries defaults.
    pub struct Upstream {
        /// `service` (also when empty) or `prepared_query`.
        pub destination_type: String,
        /// Name of the service or prepared query.
        pub destination_name: String,
        /// Namespace of the destination (Enterprise); empty means the proxy's.
        pub destination_namespace: String,
        /// Admin partition of the destination (Enterprise); empty means the proxy's.
        pub destination_partition: String,
        /// Local name of the peer that exports the destination; excludes `datacenter`.
        pub destination_peer: String,
        /// Datacenter in which the discovery chain is compiled; empty means the proxy's.
        pub datacenter: String,
        /// Address of the local listener; empty means `127.0.0.1`.
        pub local_bind_address: String,
        /// Port of the local listener; 0 when it is a socket.
        pub local_bind_port: i64,
        /// Path of the local listener's Unix socket; excludes address and port.
        pub local_bind_socket_path: String,
        /// File mode of that socket, octal text such as `0600`.
        pub local_bind_socket_mode: String,
        /// The opaque settings; [`UpstreamConfig::read`](crate::UpstreamConfig::read) reads them.
        pub config: Map<String, Value>,
        /// Gateway mode; empty means the proxy's.
        pub mesh_gateway: MeshGateway,
    }

    /// Settings of transparent mode.
    pub struct TransparentProxy {
        /// Port that redirected connections arrive on; 0 means 15001.
        pub outbound_listener_port: i64,
        /// Whether others dial this instance by its own address.
        pub dialed_directly: bool,
    }

    /// Whether traffic passes through mesh gateways.
    pub struct MeshGateway {
        /// Empty (not set), `none`, `local` (own datacenter's gateways) or `remote` (the destination's).
        pub mode: String,
    }

    /// What is served in plain text beside the mesh.
    pub struct Expose {
        /// Every HTTP and gRPC check of the service.
        pub checks: bool,
        /// Single paths.
        pub paths: Vec<ExposePath>,
    }

    /// One path served in plain text.
    pub struct ExposePath {
        /// Port of its listener, on the proxy's address.
        pub listener_port: i64,
        /// The exact path.
        pub path: String,
        /// The application's port.
        pub local_path_port: i64,
        /// `http` (also when empty) or `http2`.
        pub protocol: String,
        /// The agent made it from a check.
        pub parsed_from_check: bool,
    }

    /// Access logging.
    pub struct AccessLogs {
        /// Whether requests and connections are logged.
        pub enabled: bool,
        /// Leave out connections that no filter chain took.
        pub disable_listener_logs: bool,
        /// `stdout` (also when empty), `stderr` or `file`.
        #[serde(rename = "Type")]
        pub sink: String,
        /// The file's path, for `file`.
        pub path: String,
        /// Own format: JSON text whose string values hold `%…%` operators; excludes `text_format`.
        #[serde(rename = "JSONFormat")]
        pub json_format: String,
        /// Own format: one line of text with `%…%` operators; excludes `json_format`.
        pub text_format: String,
    }
}
