//! What each query looks like on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use consul_api_types::*;
use serde_json::{Value, json};

/// The request line and the body.
fn line<Q: Query>(query: &Q) -> (String, Option<Value>) {
    let params: Vec<_> = query.params().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let separator = if params.is_empty() { "" } else { "?" };
    (format!("{} {}{separator}{}", query.method().as_str(), query.path(), params.join("&")), query.body())
}

fn tenancy(namespace: &str, partition: &str) -> Tenancy {
    Tenancy { namespace: namespace.to_owned(), partition: partition.to_owned() }
}

#[test]
fn segments_are_escaped() {
    let query = AgentServiceById { id: "a/b c?d#é%..".to_owned(), ..Default::default() };
    assert_eq!(query.path(), "/v1/agent/service/a%2Fb%20c%3Fd%23%C3%A9%25..");
    assert_eq!(query.blocking(), Blocking::Hash);
}

#[test]
fn community_edition_is_never_sent_a_tenancy() {
    let path = |tenancy| line(&Leaf { service: "web".to_owned(), tenancy }).0;
    for (namespace, partition) in [("", ""), ("default", "default"), ("", "default")] {
        assert_eq!(path(tenancy(namespace, partition)), "GET /v1/agent/connect/ca/leaf/web");
    }
    assert_eq!(path(tenancy("shop", "eu")), "GET /v1/agent/connect/ca/leaf/web?ns=shop&partition=eu");
}

#[test]
fn reading_queries() {
    let lines = [
        line(&AgentServices { filter: "Kind == \"connect-proxy\"".to_owned(), ..Default::default() }).0,
        line(&AgentChecks::default()).0,
        line(&Roots).0,
        line(&IntentionMatch { destination: "db".to_owned(), tenancy: tenancy("shop", "") }).0,
        line(&HealthConnect {
            service: "db".to_owned(),
            datacenter: "dc2".to_owned(),
            filter: "f".to_owned(),
            near: "_agent".to_owned(),
            stale: true,
            ..Default::default()
        })
        .0,
        line(&PreparedQuery { name: "any db".to_owned(), ..Default::default() }).0,
        line(&ConfigEntry::<Mesh>::new("mesh", Tenancy::default())).0,
        line(&ConfigEntry::<ServiceDefaults>::new("web", Tenancy::default())).0,
        line(&ConfigEntry::<ProxyDefaults>::new("global", Tenancy::default())).0,
        line(&ConfigEntry::<JwtProvider>::new("okta", Tenancy::default())).0,
        line(&ConfigEntries::<JwtProvider>::new(Tenancy::default())).0,
        line(&PeeringByName { name: "cluster2".to_owned() }).0,
        line(&Peerings).0,
        line(&MeshGateways).0,
    ];
    assert_eq!(
        lines,
        [
            "GET /v1/agent/services?filter=Kind == \"connect-proxy\"",
            "GET /v1/agent/checks",
            "GET /v1/agent/connect/ca/roots",
            "GET /v1/connect/intentions/match?by=destination&name=db&ns=shop",
            "GET /v1/health/connect/db?dc=dc2&filter=f&near=_agent&stale=true",
            "GET /v1/query/any%20db/execute?connect=true",
            "GET /v1/config/mesh/mesh",
            "GET /v1/config/service-defaults/web",
            "GET /v1/config/proxy-defaults/global",
            "GET /v1/config/jwt-provider/okta",
            "GET /v1/config/jwt-provider",
            "GET /v1/peering/cluster2",
            "GET /v1/peerings",
            "GET /v1/internal/federation-states/mesh-gateways",
        ]
    );
}

#[test]
fn only_a_config_entry_may_be_absent() {
    assert!(ConfigEntry::<Mesh>::new("mesh", Tenancy::default()).absent_is_value());
    assert!(!AgentServiceById::default().absent_is_value());
}

#[test]
fn posting_queries() {
    let plain = DiscoveryChain { name: "db".to_owned(), ..Default::default() };
    assert_eq!(line(&plain), ("POST /v1/discovery-chain/db".to_owned(), Some(json!({}))));
    let overridden = DiscoveryChain {
        compile_dc: "dc2".to_owned(),
        override_protocol: "http".to_owned(),
        override_connect_timeout: Some(Duration::from_millis(700)),
        override_mesh_gateway_mode: "local".to_owned(),
        ..plain
    };
    let body = json!({"OverrideProtocol": "http", "OverrideConnectTimeout": "700ms", "OverrideMeshGateway": {"Mode": "local"}});
    assert_eq!(line(&overridden), ("POST /v1/discovery-chain/db?compile-dc=dc2".to_owned(), Some(body)));
    let authorize = Authorize { target: "db".to_owned(), client_cert_uri: "spiffe://x/".to_owned(), client_cert_serial: "01".to_owned() };
    let body = json!({"Target": "db", "ClientCertURI": "spiffe://x/", "ClientCertSerial": "01"});
    assert_eq!(line(&authorize), ("POST /v1/agent/connect/authorize".to_owned(), Some(body)));
}

#[test]
fn registering_queries() {
    let beat = CheckRegistration { check_id: "web-proxy-ttl".to_owned(), ttl: "30s".to_owned(), ..Default::default() };
    let service = ServiceRegistration {
        kind: "connect-proxy".to_owned(),
        name: "web-proxy".to_owned(),
        port: 8443,
        checks: vec![beat],
        proxy: Some(Proxy { destination_service_name: "web".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let body = json!({
        "Kind": "connect-proxy", "Name": "web-proxy", "Port": 8443, "Checks": [{"CheckID": "web-proxy-ttl", "TTL": "30s"}],
        "Proxy": {"DestinationServiceName": "web"},
    });
    let register = RegisterService { service, replace_existing_checks: true, tenancy: Tenancy::default() };
    assert_eq!(line(&register), ("PUT /v1/agent/service/register?replace-existing-checks=true".to_owned(), Some(body)));
    register.decode(b"").unwrap();

    let deregister = DeregisterService { id: "web-proxy".to_owned(), ..Default::default() };
    assert_eq!(line(&deregister), ("PUT /v1/agent/service/deregister/web-proxy".to_owned(), None));
    let pass = PassCheck { id: "web-proxy-ttl".to_owned(), ..Default::default() };
    assert_eq!(line(&pass), ("PUT /v1/agent/check/pass/web-proxy-ttl".to_owned(), None));
}

#[test]
fn an_empty_sidecar_is_still_sent() {
    let connect = ConnectRegistration { sidecar_service: Some(Box::default()), ..Default::default() };
    assert_eq!(serde_json::to_value(connect).unwrap(), json!({"SidecarService": {}}));
}

#[test]
fn nothing_is_made_of_what_is_absent_unknown_or_null() {
    let service: AgentService = serde_json::from_str(r#"{"ID": "a", "Weights": {"Passing": 0}, "Tags": null, "Novelty": 1}"#).unwrap();
    assert_eq!(service.weights, Some(Weights { passing: 0, warning: 1 }));
    assert_eq!(serde_json::to_value(&service).unwrap(), json!({"ID": "a", "Weights": {"Passing": 0, "Warning": 1}}));
    assert_eq!(serde_json::to_value(AgentService::default()).unwrap(), json!({}));
}
