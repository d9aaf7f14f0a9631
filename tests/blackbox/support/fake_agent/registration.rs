//! Registrations and intentions as the agent returns them, ready to be adjusted by a test.

use serde_json::{Value, json};

/// The sidecar of a service instance.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Service name, such as `web`.
    pub service: String,
    /// Service instance, such as `web-1`.
    pub service_id: String,
    /// Port of the public mTLS listener.
    pub public_port: u16,
    /// Port of the app.
    pub app_port: u16,
    /// `tcp`, `http`, `http2` or `grpc`.
    pub protocol: &'static str,
    /// See [`upstream`].
    pub upstreams: Vec<Value>,
}

impl Sidecar {
    /// The registration's own ID.
    pub fn proxy_id(&self) -> String {
        format!("{}-sidecar-proxy", self.service_id)
    }

    /// The body of `/v1/agent/service/:id`, without its `ContentHash`.
    pub fn to_json(&self) -> Value {
        json!({
            "Kind": "connect-proxy",
            "ID": self.proxy_id(),
            "Service": format!("{}-sidecar-proxy", self.service),
            "Tags": [],
            "Meta": {},
            "Port": self.public_port,
            "Address": "127.0.0.1",
            "Weights": {"Passing": 1, "Warning": 1},
            "EnableTagOverride": false,
            "Datacenter": "dc1",
            "Proxy": {
                "DestinationServiceName": self.service,
                "DestinationServiceID": self.service_id,
                "LocalServiceAddress": "127.0.0.1",
                "LocalServicePort": self.app_port,
                "Mode": "",
                "Config": {"protocol": self.protocol},
                "Upstreams": self.upstreams,
                "MeshGateway": {},
                "Expose": {},
                "AccessLogs": {},
            },
        })
    }
}

/// An upstream with a listener on 127.0.0.1:`port`.
pub fn upstream(service: &str, port: u16, protocol: &str) -> Value {
    json!({
        "DestinationType": "service",
        "DestinationName": service,
        "LocalBindPort": port,
        "Config": {"protocol": protocol},
        "MeshGateway": {},
    })
}

/// An L4 intention; `source` may be `*`.
pub fn intention(source: &str, destination: &str, action: &str) -> Value {
    json!({
        "SourceName": source,
        "SourceNS": "default",
        "SourcePartition": "default",
        "DestinationName": destination,
        "DestinationNS": "default",
        "DestinationPartition": "default",
        "SourceType": "consul",
        "Action": action,
        "Precedence": if source == "*" { 8 } else { 9 },
        "CreateIndex": 30,
        "ModifyIndex": 30,
    })
}
