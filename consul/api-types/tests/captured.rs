//! Every answer captured from the real agent is read, printed and read again without loss.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use consul_api_types::{
    AgentService, Authorization, CaRoots, CompiledChain, DiscoveryChainReply, GatewaysByDatacenter, GoDuration, HealthCheck,
    IntentionMatches, JwtProvider, LeafCert, Mesh, Meta, Peering, PreparedQueryResult, ProxyDefaults, ServiceDefaults, ServiceEntry,
    Weights,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Keys the agent sends and the crate has no use for.
const NOT_MODELLED: [&str; 8] = ["Backend", "ConsistencyLevel", "DNS", "Definition", "Hash", "Index", "KnownLeader", "LastContact"];

fn file(name: &str) -> String {
    let path = format!("{}/tests/captured/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Reads a captured answer and proves that printing it loses and invents nothing.
fn captured<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(name: &str) -> T {
    let text = file(&format!("{name}.json"));
    let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let printed = serde_json::to_value(&read).unwrap();
    assert_eq!(serde_json::from_value::<T>(printed.clone()).unwrap(), read, "{name}");
    let original: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(only_in("", &original, &printed), Vec::<String>::new(), "{name}: lost");
    assert_eq!(only_in("", &printed, &original), Vec::<String>::new(), "{name}: invented");
    read
}

/// The paths of the values that `left` has and `right` has not, or has differently. An empty value equals an absent one.
fn only_in(path: &str, left: &Value, right: &Value) -> Vec<String> {
    match (left, right) {
        (Value::Object(left), right) => left
            .iter()
            .filter(|(key, _)| !NOT_MODELLED.contains(&key.as_str()))
            .flat_map(|(key, value)| only_in(&format!("{path}/{key}"), value, right.get(key).unwrap_or(&Value::Null)))
            .collect(),
        (Value::Array(left), right) => {
            let right = right.as_array().map(Vec::as_slice).unwrap_or_default();
            let item = |index| right.get(index).unwrap_or(&Value::Null);
            left.iter().enumerate().flat_map(|(index, value)| only_in(&format!("{path}/{index}"), value, item(index))).collect()
        }
        (Value::Number(left), Value::Number(right)) if left.as_f64() == right.as_f64() => Vec::new(),
        (left, right) if left == right => Vec::new(),
        (Value::Null | Value::Bool(false), Value::Null) => Vec::new(),
        (Value::String(text), Value::Null) if text.is_empty() => Vec::new(),
        (Value::Number(number), Value::Null) if number.as_f64() == Some(0.0) => Vec::new(),
        _ => vec![format!("{path}: {left} / {right}")],
    }
}

fn headers(name: &str) -> Meta {
    let text = file(&format!("{name}.headers"));
    let find = |name: &str| {
        let mut headers = text.lines().filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    Meta::read(find)
}

fn chain(name: &str) -> CompiledChain {
    captured::<DiscoveryChainReply>(name).chain
}

#[test]
fn registration() {
    let service: AgentService = captured("agent-service");
    assert_eq!((service.kind.as_str(), service.service.as_str()), ("connect-proxy", "web-sidecar-proxy"));
    let hash = headers("agent-service").content_hash;
    assert_eq!(hash.as_deref(), Some(service.content_hash.as_str()));
    let proxy = service.proxy.unwrap();
    assert_eq!((proxy.destination_service_name.as_str(), proxy.destination_service_id.as_str()), ("web", "web-1"));
    assert_eq!((proxy.local_service_address.as_str(), proxy.local_service_port), ("127.0.0.1", 4));
    assert_eq!(proxy.mesh_gateway.mode, "local");
    assert_eq!(proxy.access_logs.unwrap().sink, "stderr");
    assert!(proxy.expose.checks);
    assert_eq!(proxy.expose.paths[0].protocol, "http2");
    let [api, db, query] = proxy.upstreams.as_slice() else { panic!("{:?}", proxy.upstreams) };
    assert_eq!((api.local_bind_port, api.mesh_gateway.mode.as_str()), (9191, "remote"));
    assert_eq!((db.local_bind_socket_path.as_str(), db.local_bind_socket_mode.as_str()), ("db.sock", "0600"));
    assert_eq!((query.destination_type.as_str(), query.local_bind_address.as_str()), ("prepared_query", "127.0.0.2"));
}

#[test]
fn all_registrations_and_checks() {
    let services: BTreeMap<String, AgentService> = captured("agent-services");
    assert!(services["cache"].connect.as_ref().unwrap().native);
    assert_eq!(services["cache"].weights, Some(Weights { passing: 10, warning: 2 }));
    assert_eq!(services["db-v1"].tagged_addresses["wan"].port, 443);
    let checks: BTreeMap<String, HealthCheck> = captured("agent-checks");
    assert_ne!(checks["web-http"].exposed_port, 0);
    assert_eq!(checks["beat-v2"].output, "slow");
}

#[test]
fn certificates() {
    let roots: CaRoots = captured("roots");
    assert_eq!(roots.roots[0].id, roots.active_root_id);
    assert!(roots.roots[0].active);
    assert!(roots.roots[0].root_cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    let leaf: LeafCert = captured("leaf");
    assert_eq!(leaf.service_uri, format!("spiffe://{}/ns/default/dc/dc1/svc/web", roots.trust_domain));
    assert!(leaf.private_key_pem.expose().contains("BEGIN EC PRIVATE KEY"));
    assert!(!format!("{leaf:?}").contains("PRIVATE KEY"));
    assert_eq!(headers("leaf").index, Some(leaf.modify_index));
    assert!(headers("leaf").cache_age.is_some());
}

#[test]
fn intentions() {
    let matches: IntentionMatches = captured("intentions");
    let [web, far, any, every] = matches.0["db"].as_slice() else { panic!("{matches:?}") };
    assert_eq!((web.precedence, web.action.as_str(), web.permissions.len()), (9, "", 2));
    let http = web.permissions[1].http.as_ref().unwrap();
    assert_eq!((http.path_regex.as_str(), http.methods.as_slice()), ("/a.*", ["GET".to_owned()].as_slice()));
    assert!(http.header[0].contains == "y" && http.header[0].invert && http.header[0].ignore_case);
    assert!(web.unknown.is_empty() && web.permissions.iter().all(|permission| permission.unknown.is_empty()));
    assert_eq!(web.jwt.as_ref().unwrap().providers[0].verify_claims[0].path, ["perms", "role"]);
    assert_eq!((far.source_peer.as_str(), far.action.as_str()), ("cluster2", "allow"));
    assert_eq!((any.source_name.as_str(), any.action.as_str(), any.precedence), ("*", "deny", 8));
    assert_eq!((every.destination_name.as_str(), every.precedence), ("*", 5));
    assert_eq!(captured::<IntentionMatches>("intentions-none").0["api"].len(), 1);
}

#[test]
fn a_condition_of_a_newer_agent_is_not_lost() {
    let json = r#"{"db": [{"SourceName": "web", "Permissions": [{"Action": "allow", "HTTP": {"Weekday": "Sunday"}}]}], "api": null}"#;
    let matches: IntentionMatches = serde_json::from_str(json).unwrap();
    let http = matches.0["db"][0].permissions[0].http.as_ref().unwrap();
    assert_eq!(http.unknown["Weekday"], "Sunday");
    assert!(matches.0["api"].is_empty());
}

#[test]
fn authorization() {
    let default: Authorization = captured("authorize-default");
    assert_eq!((default.authorized, default.reason.as_str()), (true, Authorization::BY_ACL_DEFAULT));
    let matched: Authorization = captured("authorize-matched");
    assert!(!matched.authorized && matched.reason.starts_with(Authorization::BY_INTENTION));
}

#[test]
fn chain_without_entries_and_with_overrides() {
    let default = chain("chain-default");
    let resolver = default.nodes[&default.start_node].resolver.as_ref().unwrap();
    assert!(default.default && resolver.default);
    assert_eq!(resolver.connect_timeout, GoDuration::from_millis(5_000));
    let overridden = chain("chain-overridden");
    assert_eq!(overridden.protocol, "tcp");
    assert!(!overridden.customization_hash.is_empty());
    let target = &overridden.targets["v1.db.default.default.dc1"];
    assert_eq!((target.connect_timeout, target.mesh_gateway.mode.as_str()), (GoDuration::from_millis(700), "remote"));
}

#[test]
fn chain_with_failover_and_redirect() {
    let chain_db = chain("chain-resolver");
    let node = &chain_db.nodes[&chain_db.start_node];
    let resolver = node.resolver.as_ref().unwrap();
    assert_eq!(resolver.connect_timeout, GoDuration::from_millis(3_000));
    assert_eq!(resolver.request_timeout, GoDuration::from_millis(7_000));
    assert_eq!(resolver.failover.as_ref().unwrap().targets, ["v2.db.default.default.dc1", "cache.default.default.dc1"]);
    assert!(chain_db.targets[&resolver.target].subset.only_passing);
    assert!(chain_db.targets[&resolver.target].sni.starts_with("v1.db.default.dc1.internal."));
    let balancer = node.load_balancer.as_ref().unwrap();
    assert_eq!(balancer.ring_hash_config.as_ref().unwrap().minimum_ring_size, 64);
    assert_eq!(balancer.hash_policies[1].cookie_config.as_ref().unwrap().ttl, GoDuration::from_millis(30_000));
    assert!(balancer.hash_policies[2].source_ip && balancer.hash_policies[2].terminal);
    assert!(chain("chain-redirect").targets.contains_key("api.default.default.dc1"));
}

#[test]
fn chain_with_splits_and_routes() {
    let split = chain("chain-splitter");
    let [big, small] = split.nodes[&split.start_node].splits.as_slice() else { panic!("{split:?}") };
    assert_eq!((big.weight, small.weight), (99.5, 0.5));
    let headers = big.definition.as_ref().unwrap().request_headers.as_ref().unwrap();
    assert_eq!(headers.set["x-share"], "big");
    let routed = chain("chain-router");
    let [admin, rest] = routed.nodes[&routed.start_node].routes.as_slice() else { panic!("{routed:?}") };
    let definition = admin.definition.as_ref().unwrap();
    let http = definition.matches.as_ref().unwrap().http.as_ref().unwrap();
    assert_eq!((http.path_prefix.as_str(), http.query_param[0].regex.as_str()), ("/admin", "[0-9]+"));
    let destination = definition.destination.as_ref().unwrap();
    assert_eq!(destination.request_timeout, GoDuration::from_millis(15_000));
    assert_eq!(destination.idle_timeout, GoDuration::from_nanos(-1_000_000_000));
    assert_eq!(destination.retry_on_status_codes, [503]);
    assert!(routed.nodes.contains_key(&rest.next_node));
}

#[test]
fn instances() {
    let entries: Vec<ServiceEntry> = captured("health");
    assert_eq!(entries.len(), 2);
    let warned = entries.iter().find(|entry| entry.service.id == "db-v2-sidecar-proxy").unwrap();
    assert!(warned.checks.iter().any(|check| check.check_id == "beat-v2" && check.status == "warning"));
    assert_eq!(warned.node.node, "node-1");
    assert_eq!(warned.service.locality.as_ref().unwrap().zone, "a");
    let native: Vec<ServiceEntry> = captured("health-native");
    assert!(native[0].service.connect.as_ref().unwrap().native);
    assert!(captured::<Vec<ServiceEntry>>("health-empty").is_empty());
    let streaming = headers("health-streaming");
    assert_eq!((streaming.streaming, streaming.known_leader, streaming.last_contact), (true, Some(false), Some(Duration::ZERO)));
    let query: PreparedQueryResult = captured("prepared-query");
    assert_eq!((query.service.as_str(), query.nodes.len(), query.failovers), ("db", 2, 0));
}

#[test]
fn config_entries() {
    let mesh: Mesh = captured("mesh");
    let tls = mesh.tls.unwrap();
    assert_eq!(tls.incoming.unwrap().cipher_suites, ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
    assert_eq!(tls.outgoing.unwrap().tls_max_version, "TLSv1_3");
    let http = mesh.http.unwrap();
    assert!(http.sanitize_x_forwarded_client_cert);
    let normalization = http.incoming.unwrap().request_normalization.unwrap();
    assert!(normalization.merge_slashes);
    assert_eq!(normalization.headers_with_underscores_action, "REJECT_REQUEST");
    let service: ServiceDefaults = captured("service-defaults");
    assert_eq!((service.mutual_tls_mode.as_str(), service.local_request_timeout_ms), ("permissive", 2_500));
    let upstream = &service.upstream_config.unwrap().overrides[0];
    assert_eq!(upstream.limits.as_ref().unwrap().max_pending_requests, Some(0));
    let check = upstream.passive_health_check.as_ref().unwrap();
    assert_eq!(check.base_ejection_time, Some(GoDuration::from_millis(40_000)));
    let defaults: ProxyDefaults = captured("proxy-defaults");
    assert_eq!(defaults.config["local_connect_timeout_ms"], 1_200);
    assert!(headers("config-absent").index.is_some());
}

#[test]
fn token_issuers() {
    let local: JwtProvider = captured("jwt-local");
    assert_eq!(local.json_web_key_set.unwrap().local.unwrap().jwks, "eyJrZXlzIjpbXX0=");
    let remote: JwtProvider = captured("jwt-remote");
    assert_eq!((remote.issuer.as_str(), remote.clock_skew_seconds), ("https://issuer.example", 10));
    assert!(remote.locations[0].header.as_ref().unwrap().forward);
    let keys = remote.json_web_key_set.unwrap().remote.unwrap();
    assert_eq!((keys.request_timeout_ms, keys.cache_duration), (1_500, GoDuration::from_millis(600_000)));
    assert_eq!(keys.retry_policy.unwrap().retry_policy_back_off.unwrap().max_interval, GoDuration::from_millis(9_000));
    assert_eq!(keys.jwks_cluster.unwrap().tls_certificates.unwrap().trusted_ca.unwrap().filename, "ca.pem");
}

#[test]
fn other_clusters() {
    let peering: Peering = captured("peering");
    assert_eq!((peering.name.as_str(), peering.state.as_str()), ("cluster2", "PENDING"));
    assert_eq!(captured::<Vec<Peering>>("peerings"), [peering]);
    assert_eq!(captured::<GatewaysByDatacenter>("mesh-gateways"), GatewaysByDatacenter::default());
}
