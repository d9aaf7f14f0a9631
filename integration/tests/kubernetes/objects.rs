//! What users and controllers put into a cluster, in namespace `default` unless it is said.

use aralez_integration::apps::App;
use aralez_integration::net::Address;
use aralez_integration::web_pki::Pair;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

/// The class of Ingresses that are ours.
pub const CLASS: &str = "aralez";

/// An IngressClass of a controller.
pub fn class(name: &str, controller: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}})
}

/// A Service with port 80, `http`.
pub fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

/// The EndpointSlice of a Service, whose one pod is this app.
pub fn slice(service: &str, app: &App) -> Value {
    let Address::Tcp(address) = &app.address else { panic!("{}", app.address) };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": address.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true, "serving": true, "terminating": false}}]})
}

/// The backend `http` of a Service.
pub fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"name": "http"}}})
}

/// An Ingress of a host whose path prefixes go to these Services.
pub fn ingress(name: &str, class: Option<&str>, host: &str, paths: &[(&str, &str)]) -> Value {
    let paths: Vec<Value> = paths.iter().map(|(path, to)| json!({"path": path, "pathType": "Prefix", "backend": backend(to)})).collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"ingressClassName": class, "rules": [{"host": host, "http": {"paths": paths}}]}})
}

/// A certificate.
pub fn secret(name: &str, pair: &Pair) -> Value {
    let data = |text: &str| BASE64_STANDARD.encode(text);
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": data(&pair.crt), "tls.key": data(&pair.key)}})
}

/// The same object in a namespace.
pub fn within(namespace: &str, mut object: Value) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    object
}

/// A rule of a role: list and watch these.
pub fn reads(group: &str, resources: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]})
}

/// A role, with its binding to the service account `account` of namespace `default`; of a namespace, or of the cluster.
pub fn role(name: &str, namespace: Option<&str>, rules: &[Value], account: &str) -> [Value; 2] {
    const API: &str = "rbac.authorization.k8s.io";
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let version = format!("{API}/v1");
    let role = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "rules": rules});
    let binding = json!({"apiVersion": version, "kind": format!("{kind}Binding"), "metadata": {"name": name},
        "roleRef": {"apiGroup": API, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}]});
    [role, binding].map(|object| namespace.map_or_else(|| object.clone(), |namespace| within(namespace, object.clone())))
}

/// A service account.
pub fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}
