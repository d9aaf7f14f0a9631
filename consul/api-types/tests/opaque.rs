//! The opaque settings, in both spellings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use consul_api_types::{AgentService, Limits, PassiveHealthCheck, ProxyConfig, StickyCookie, UpstreamConfig};
use serde_json::{Map, Value, json};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn registered_proxy() -> consul_api_types::Proxy {
    let service: AgentService = serde_json::from_str(include_str!("captured/agent-service.json")).unwrap();
    service.proxy.unwrap()
}

#[test]
fn a_real_proxys_settings_are_read() {
    let (config, errors) = ProxyConfig::read(&registered_proxy().config);
    let expected = ProxyConfig {
        protocol: Some("http".to_owned()),
        bind_address: Some("127.0.0.1".to_owned()),
        local_connect_timeout: Some(Duration::from_millis(1_200)),
        local_request_timeout: Some(Duration::from_millis(2_500)),
        local_idle_timeout: Some(Duration::from_secs(60)),
        handshake_timeout: Some(Duration::from_secs(8)),
        max_inbound_connections: Some(7),
        envoy_prometheus_bind_addr: Some("127.0.0.1:9102".to_owned()),
        unknown: vec!["house_rule".to_owned()],
        ..ProxyConfig::default()
    };
    assert_eq!((config, errors), (expected, vec![]));
}

#[test]
fn central_and_registered_upstream_settings_are_read_alike() {
    let upstreams = registered_proxy().upstreams;
    let (central, errors) = UpstreamConfig::read(&upstreams[0].config);
    assert_eq!(errors, []);
    assert_eq!(central.connect_timeout, Some(Duration::from_millis(900)));
    assert_eq!(central.limits, Limits { max_connections: Some(9), max_pending_requests: Some(0), max_concurrent_requests: None });
    let check = PassiveHealthCheck {
        interval: Some(Duration::from_secs(10)),
        max_failures: Some(9),
        enforcing_consecutive_5xx: Some(50),
        max_ejection_percent: None,
        base_ejection_time: Some(Duration::from_secs(40)),
    };
    assert_eq!(central.passive_health_check, Some(check));

    let (registered, errors) = UpstreamConfig::read(&upstreams[1].config);
    assert_eq!(errors, []);
    assert_eq!(registered.limits, Limits { max_connections: Some(3), max_pending_requests: None, max_concurrent_requests: Some(5) });
    let check = registered.passive_health_check.unwrap();
    assert_eq!((check.interval, check.base_ejection_time), (Some(Duration::from_secs(22)), Some(Duration::from_secs(90))));
    assert_eq!(registered.unknown, ["color"]);
}

#[test]
fn odd_but_valid_values_are_read() {
    let (config, errors) = UpstreamConfig::read(&map(json!({
        "Protocol": "HTTP2", "ConnectTimeoutMs": 1500.0, "MeshGateway": {"Mode": "remote", "Color": 1}, "limits": null,
        "balance_outbound_connections": "", "envoy_cluster_json": "{}",
    })));
    assert_eq!(errors, []);
    let expected = UpstreamConfig {
        protocol: Some("http2".to_owned()),
        connect_timeout: Some(Duration::from_millis(1_500)),
        mesh_gateway: Some("remote".to_owned()),
        envoy_cluster_json: Some("{}".to_owned()),
        unknown: vec!["MeshGateway.Color".to_owned()],
        ..UpstreamConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn of_two_spellings_the_registrations_wins() {
    let (config, _) = UpstreamConfig::read(&map(json!({"ConnectTimeoutMs": 1, "connect_timeout_ms": 2})));
    assert_eq!(config.connect_timeout, Some(Duration::from_millis(2)));
    assert_eq!(config.unknown, Vec::<String>::new());
}

#[test]
fn every_unreadable_value_is_named() {
    let (config, errors) = UpstreamConfig::read(&map(json!({
        "protocol": "websocket", "connect_timeout_ms": "soon", "limits": {"MaxConnections": -1},
        "passive_health_check": {"interval": "10", "max_failures": 1.5, "max_ejection_percent": 101, "base_ejection_time": "-1s"},
        "mesh_gateway": "local",
    })));
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "limits.MaxConnections is -1, expected a whole number, 0 to 4294967295",
            "passive_health_check.interval is \"10\", expected a duration such as \"1m30s\", or a whole number of nanoseconds, 0 or more",
            "passive_health_check.max_failures is 1.5, expected a whole number, 0 to 4294967295",
            "passive_health_check.max_ejection_percent is 101, expected a whole number, 0 to 100",
            "passive_health_check.base_ejection_time is \"-1s\", expected a duration such as \"1m30s\", or a whole number of nanoseconds, 0 or more",
            "mesh_gateway is \"local\", expected a map",
            "protocol is \"websocket\", expected tcp, http, http2 or grpc",
            "connect_timeout_ms is \"soon\", expected a whole number of milliseconds, 0 or more",
        ]
    );
    assert_eq!(config, UpstreamConfig { passive_health_check: Some(PassiveHealthCheck::default()), ..UpstreamConfig::default() });
}

#[test]
fn proxy_settings_for_others_are_told_apart() {
    let (config, errors) = ProxyConfig::read(&map(json!({
        "bind_port": "70000", "envoy_stats_tags": ["a=b"], "envoy_stats_flush_interval": "5s", "envoy_tracing_json": "{}",
        "telemetry": {}, "Flavour": 1,
    })));
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), ["bind_port is \"70000\", expected a port, 0 to 65535"]);
    assert_eq!(config.envoy_stats_tags, ["a=b"]);
    assert_eq!(config.envoy_stats_flush_interval, Some(Duration::from_secs(5)));
    assert_eq!(config.foreign, ["envoy_tracing_json", "telemetry"]);
    assert_eq!(config.unknown, ["Flavour"]);
}

#[test]
fn settings_of_our_own_are_read_in_both_spellings() {
    let read = |config: Value| {
        let (config, errors) = UpstreamConfig::read(&map(config));
        assert_eq!((errors, config.unknown), (vec![], vec![]));
        (config.aralez_sticky_cookie, config.aralez_slow_start)
    };
    let cookie = |ttl, path: Option<&str>| Some(StickyCookie { name: "session".to_owned(), ttl, path: path.map(str::to_owned) });
    assert_eq!(read(json!({"aralez_sticky_cookie": "session"})), (cookie(None, None), None));
    assert_eq!(
        read(json!({"aralez_sticky_cookie": {"name": "session", "ttl": "1h", "path": "/shop"}, "aralez_slow_start": "30s"})),
        (cookie(Some(Duration::from_secs(3_600)), Some("/shop")), Some(Duration::from_secs(30)))
    );
    assert_eq!(
        read(json!({"AralezStickyCookie": {"Name": "session", "TTL": 60_000_000_000_u64}, "AralezSlowStart": 5_000_000_000_u64})),
        (cookie(Some(Duration::from_secs(60)), None), Some(Duration::from_secs(5)))
    );
    assert_eq!(read(json!({"aralez_sticky_cookie": "", "aralez_slow_start": null})), (None, None));
}

#[test]
fn settings_of_our_own_that_are_wrong_are_named() {
    let read = |config: Value| {
        let (config, errors) = UpstreamConfig::read(&map(config));
        assert_eq!(config.aralez_sticky_cookie.filter(|cookie| cookie.path.is_some()), None);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    const NAME: &str = "expected a cookie's name: letters, digits and !#$%&'*+-.^_`|~";
    assert_eq!(read(json!({"aralez_sticky_cookie": "a b"})), [format!("aralez_sticky_cookie is \"a b\", {NAME}")]);
    assert_eq!(read(json!({"aralez_sticky_cookie": {"ttl": "1h"}})), [format!("aralez_sticky_cookie.name is null, {NAME}")]);
    assert_eq!(read(json!({"aralez_sticky_cookie": {"name": 7}})), [format!("aralez_sticky_cookie.name is 7, {NAME}")]);
    assert_eq!(
        read(json!({"aralez_sticky_cookie": {"name": "a", "path": "/;x"}, "aralez_slow_start": "slow"})),
        [
            "aralez_sticky_cookie.path is \"/;x\", expected a path that begins with / and has no ;",
            "aralez_slow_start is \"slow\", expected a duration such as \"1m30s\", or a whole number of nanoseconds, 0 or more",
        ]
    );
    assert_eq!(read(json!({"aralez_sticky_cookie": true})), ["aralez_sticky_cookie is true, expected a map"]);
}
