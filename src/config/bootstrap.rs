//! The bootstrap file that `consul connect envoy -bootstrap` writes for Envoy: what it tells about a sidecar.
//!
//! It names the proxy, its token, and where Envoy's admin API and `/ready` are expected. It says where the agent's gRPC is, and nothing of its
//! HTTP API. Facts are those of Consul 1.20.1.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use crate::model::secret::Secret;

/// The metadata key that carries the ACL token to the agent.
const TOKEN_KEY: &str = "x-consul-token";
/// The static listener for `/ready`.
const READY_LISTENER: &str = "envoy_ready_listener";

/// What a bootstrap file tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// `node.id`: the id of the proxy's registration.
    pub proxy_id: String,
    /// `node.cluster`: the service that the proxy represents.
    pub service: Option<String>,
    /// Namespace of the service.
    pub namespace: Option<String>,
    /// Admin partition of the service.
    pub partition: Option<String>,
    /// The ACL token for the agent.
    pub token: Option<Secret>,
    /// Where the admin API is expected.
    pub admin: Option<SocketAddr>,
    /// Where `/ready` is expected.
    pub ready: Option<SocketAddr>,
}

impl Bootstrap {
    /// Reads a bootstrap; `None` if the text is something else: not JSON, without `node.id`, or without resources.
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let has_resources = value["static_resources"].is_object() || value["dynamic_resources"].is_object();
        let node = &value["node"];
        Some(Self {
            proxy_id: word(&node["id"]).filter(|_| has_resources)?,
            service: word(&node["cluster"]),
            namespace: word(&node["metadata"]["namespace"]),
            partition: word(&node["metadata"]["partition"]),
            token: token(&value["dynamic_resources"]["ads_config"]["grpc_services"]).map(Secret::new),
            admin: address(&value["admin"]),
            ready: all(&value["static_resources"]["listeners"])
                .iter()
                .find(|listener| listener["name"] == READY_LISTENER)
                .and_then(address),
        })
    }
}

/// The token of the first service that has one; Consul writes one service as an object, Envoy's own form is a list.
fn token(services: &Value) -> Option<String> {
    all(services)
        .iter()
        .flat_map(|service| all(&service["initial_metadata"]))
        .find(|entry| entry["key"] == TOKEN_KEY)
        .and_then(|entry| word(&entry["value"]))
}

/// `address.socket_address` of something that listens.
fn address(listener: &Value) -> Option<SocketAddr> {
    let socket = &listener["address"]["socket_address"];
    let ip = match socket["address"].as_str()? {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        text => text.parse().ok()?,
    };
    Some((ip, u16::try_from(socket["port_value"].as_u64()?).ok()?).into())
}

/// The elements of a list; anything else is a list of one.
fn all(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

fn word(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As Nomad 1.11 has it written by Consul 1.20.1, shortened.
    fn written() -> Value {
        json!({
            "admin": {"access_log": [], "address": {"socket_address": {"address": "127.0.0.2", "port_value": 19001}}},
            "node": {"cluster": "api", "id": "_nomad-task-1-group-g-api-9001-sidecar-proxy",
                "metadata": {"namespace": "default", "partition": "blue"}},
            "static_resources": {
                "clusters": [{"name": "local_agent"}],
                "listeners": [
                    {"name": "envoy_prometheus_metrics_listener",
                     "address": {"socket_address": {"address": "0.0.0.0", "port_value": 9102}}},
                    {"name": READY_LISTENER, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 19101}}},
                ],
            },
            "dynamic_resources": {"ads_config": {"grpc_services": {"initial_metadata": [{"key": TOKEN_KEY, "value": "s3cret"}]}}},
        })
    }

    #[test]
    fn it_names_proxy_token_admin_and_ready() {
        let bootstrap = Bootstrap::parse(&written().to_string()).unwrap();
        assert_eq!(bootstrap.proxy_id, "_nomad-task-1-group-g-api-9001-sidecar-proxy");
        assert_eq!(bootstrap.token, Some(Secret::new("s3cret")));
        assert_eq!(
            [bootstrap.admin, bootstrap.ready].map(Option::unwrap),
            [([127, 0, 0, 2], 19001), ([127, 0, 0, 1], 19101)].map(Into::into)
        );
        let names = [&bootstrap.service, &bootstrap.namespace, &bootstrap.partition];
        assert_eq!(names.map(|name| name.as_deref().unwrap()), ["api", "default", "blue"]);
        assert!(!format!("{bootstrap:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_absent_or_empty_stays_unsaid() {
        let mut bootstrap = written();
        bootstrap["dynamic_resources"]["ads_config"]["grpc_services"] = json!([{"initial_metadata": [{"key": TOKEN_KEY, "value": ""}]}]);
        bootstrap["static_resources"].as_object_mut().unwrap().remove("listeners");
        bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(70_000);
        bootstrap["node"].as_object_mut().unwrap().remove("metadata");
        let Bootstrap { token, ready, admin, namespace, .. } = Bootstrap::parse(&bootstrap.to_string()).unwrap();
        assert_eq!((token, ready, admin, namespace), (None, None, None, None));
        bootstrap["admin"]["address"]["socket_address"] = json!({"address": "localhost", "port_value": 1});
        assert_eq!(Bootstrap::parse(&bootstrap.to_string()).unwrap().admin, Some(([127, 0, 0, 1], 1).into()));
    }

    #[test]
    fn other_files_are_told_from_it_by_their_content() {
        for other in [
            "proxy_address_http: 127.0.0.1:8080\n",
            r#"{"proxy_address_http": "127.0.0.1:8080"}"#,
            r#"{"node": {"id": "web"}}"#,
            r#"{"node": {"id": ""}, "static_resources": {}}"#,
            r#"{"static_resources": {}}"#,
            "[]",
            "",
        ] {
            assert_eq!(Bootstrap::parse(other), None, "{other}");
        }
    }
}
