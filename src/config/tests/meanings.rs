//! What keys mean, in the values of the model.

use std::time::Duration;

use serde_json::json;

use super::routes;
use crate::{
    config::{
        kubernetes::{Access, Kubernetes},
        upstreams::Upstreams,
    },
    model::{
        balance::BalancePolicy,
        identity::ServiceName,
        ingress::{Action, IngressRoute, PoolSource, pool::MeshService},
    },
};

/// A routes file whose one path has these keys, with what stands above it.
fn file(top: &str, host: &str, path: &str) -> String {
    format!("{top}\nupstreams:\n  a.test:\n    {host}\n    paths:\n      /api: {path}\n")
}

fn route(top: &str, host: &str, path: &str) -> IngressRoute {
    routes(&file(top, host, path)).unwrap().routing.routes.remove(0)
}

#[test]
fn headers_add_up_and_the_inner_level_goes_before() {
    let route = route(
        "headers: [\"X-A: global\", \"X-B: global\", \"X-C: global\"]\nrequest_headers: {remove: [x-secret]}",
        "headers: [\"X-B: host\"]",
        "{servers: [\"b:1\"], headers: [\"X-Own: 1:2\"], response_headers: {remove: X-C, add: {X-D: d}}, server_headers: [\"X-Up: 1\"]}",
    );
    let text = |text: &str| json!({"pieces": [{"text": text}]});
    assert_eq!(
        json!(route.route.headers),
        json!({
            "request": {"add": [], "set": [["x-up", text("1")]], "remove": ["x-secret"]},
            "response": {"add": [["x-d", text("d")]], "set": [["x-a", text("global")], ["x-b", text("host")], ["x-own", text("1:2")]], "remove": ["x-c"]},
        })
    );
}

#[test]
fn a_path_goes_before_its_host_and_a_host_before_the_file() {
    let limits = |top: &str, host: &str, path: &str| {
        let route = route(top, host, &format!("{{servers: [\"b:1\"]{path}}}"));
        route.filters.limits.iter().map(|limit| (limit.scope.to_string(), limit.rate)).collect::<Vec<_>>()
    };
    assert_eq!(limits("rate_limit: 1", "", ""), [("global".to_owned(), 1)]);
    assert_eq!(limits("rate_limit: 1", "rate_limit: 2", ""), [("a.test".to_owned(), 2)]);
    assert_eq!(limits("rate_limit: 1", "rate_limit: 2", ", rate_limit: {rate: 3}"), [("a.test/api".to_owned(), 3)]);
    assert_eq!(limits("rate_limit: 1", "rate_limit: 2", ", rate_limit: false"), []);
    let auth =
        |path: &str| route("authorization: {type: apikey, creds: k}", "", &format!("{{servers: [\"b:1\"]{path}}}")).filters.auth.clone();
    assert_eq!(auth("").unwrap().scope.as_ref(), "global");
    assert_eq!(auth(", authorization: {type: basic, creds: \"a:b\"}").unwrap().scope.as_ref(), "a.test/api");
    assert_eq!(auth(", authorization: false"), None);
}

#[test]
fn rewriting_replaces_the_prefix_at_its_slash() {
    for (keys, path, rewritten) in [
        ("strip_prefix: true", "/api/x", "/x"),
        ("strip_prefix: true", "/api/", "/"),
        ("strip_prefix: true", "/api", "/"),
        ("rewrite: /v2", "/api/x", "/v2/x"),
        ("rewrite: /v2/", "/api/x", "/v2/x"),
        ("rewrite: /v2", "/api", "/v2"),
    ] {
        let route = route("", "", &format!("{{servers: [\"b:1\"], {keys}}}"));
        assert_eq!(route.route.rewritten(path).as_deref(), Some(rewritten), "{keys} {path}");
    }
    assert_eq!(route("", "", "{servers: [\"b:1\"]}").route.rewritten("/api/x"), None);
}

#[test]
fn servers_have_schemes_weights_and_backups() {
    let text = file(
        "",
        "",
        "{servers: [\"b:1\", \"https://c\", \"[::1]:2\", \"unix:/run/s\", {address: \"grpcs://d:3\", weight: 5}, {address: \"e:4\", backup: true}]}",
    );
    let pools = routes(&text).unwrap().routing.pools;
    let servers = |at: usize| match &pools[at].source {
        PoolSource::Servers(servers) => json!(servers),
        PoolSource::Consul(_) | PoolSource::Mesh(_) | PoolSource::Kubernetes(_) => panic!("servers"),
    };
    assert_eq!(pools.iter().map(|pool| pool.id.to_string()).collect::<Vec<_>>(), ["a.test/api", "a.test/api#backup"]);
    assert_eq!(
        servers(0),
        json!([
            {"host": {"name": ["b", 1]}, "scheme": null, "weight": 1},
            {"host": {"name": ["c", 443]}, "scheme": "https", "weight": 1},
            {"host": {"ip": ["::1", 2]}, "scheme": null, "weight": 1},
            {"host": {"unix": "/run/s"}, "scheme": "http", "weight": 1},
            {"host": {"name": ["d", 3]}, "scheme": "grpcs", "weight": 5},
        ])
    );
    assert_eq!(servers(1), json!([{"host": {"name": ["e", 4]}, "scheme": null, "weight": 1}]));
}

#[test]
fn what_is_not_said_has_the_stated_defaults() {
    let routing = routes(&file("", "", "{servers: [\"b:1\"]}")).unwrap().routing;
    let (route, pool) = (&routing.routes[0], &routing.pools[0]);
    assert_eq!((route.route.timeout, route.route.idle_timeout), (None, Some(Duration::from_secs(60))));
    assert_eq!((pool.connect_timeout, pool.limits.requests), (Duration::from_secs(5), u32::MAX));
    let health = pool.health.as_ref().unwrap();
    assert_eq!(
        (health.interval, health.timeout, health.healthy_after, health.unhealthy_after),
        (Duration::from_secs(2), Duration::from_secs(2), 1, 2)
    );
    assert!(pool.tls.verify);
    assert_eq!(route.filters.as_ref(), &Default::default());
}

#[test]
fn pools_are_as_their_keys_say() {
    let keys = "servers: [\"b:1\"], balance: ring_hash, hash_by: [\"header:X-User\", \"cookie:s\", client], slow_start: 10s, connect_timeout: 200ms, \
        healthcheck: {path: /up, expect: [200, \"300-308\"], interval: 1s, timeout: 500ms, healthy_after: 3, unhealthy_after: 4}, \
        passive_health: {max_failures: 2}, limits: {requests: 9}, tls_verify: false, tls_server_name: B.test, proxy_header: v2, \
        sticky_sessions: {cookie: c, max_age: 1h}, timeout: 3s, idle_timeout: false, retries: {attempts: 2, on: [5xx], statuses: [503]}";
    let routing = routes(&file("", "", &format!("{{{keys}}}"))).unwrap().routing;
    let (route, pool) = (&routing.routes[0].route, json!(routing.pools[0]));
    assert_eq!(route.hash.len(), 3);
    assert_eq!((route.timeout, route.idle_timeout), (Some(Duration::from_secs(3)), None));
    assert_eq!(json!(route.retry), json!({"retries": 2, "on": ["5xx"], "statuses": [503]}));
    assert!(matches!(routing.pools[0].balance.policy, BalancePolicy::RingHash { .. }));
    assert_eq!(routing.pools[0].balance.sticky.as_ref().unwrap().life.ttl, Some(Duration::from_secs(3600)));
    assert_eq!(pool["health"]["probe"]["http"]["expect"], json!([{"start": 200, "end": 200}, {"start": 300, "end": 308}]));
    assert_eq!((&pool["tls"]["verify"], &pool["tls"]["name"], &pool["proxy_header"]), (&json!(false), &json!("b.test"), &json!("v2")));
    assert_eq!((&pool["limits"]["requests"], &pool["passive"]["max_failures"]), (&json!(9), &json!(2)));
}

#[test]
fn a_path_may_redirect_or_serve_files() {
    let redirect = route("", "", "{redirect_to: \"https://b.test/x\", redirect_status: 308, servers: [\"b:1\"]}");
    assert_eq!(json!(redirect.action), json!({"redirect": {"to": "https://b.test/x", "status": 308, "exact": false}}));
    let Action::Files(files) =
        route("", "", "{files: {root: /www, index: [a.html, b.html], listing: true, precompressed: true, cache_control: no-cache}}").action
    else {
        panic!("files")
    };
    assert_eq!(
        json!(files),
        json!({"root": "/www", "index": ["a.html", "b.html"], "listing": true, "precompressed": true, "cache_control": "no-cache", "strip": "/api"})
    );
}

#[test]
fn neither_debug_nor_json_shows_a_secret() {
    let text = file("", "", "{servers: [\"b:1\"], authorization: {type: basic, creds: [\"a:hidden-1\"]}}");
    let routing = routes(&text).unwrap().routing;
    let shown = format!("{routing:?}{}", json!(routing));
    assert!(!shown.contains("hidden-1"), "{shown}");
}

#[test]
fn a_service_is_called_through_its_sidecars_where_that_is_said_last() {
    let source = |section: &str, keys: &str| {
        let text = format!("consul: {{{section}}}\nupstreams: {{a.test: {{paths: {{/: {{consul: {{service: api{keys}}}}}}}}}}}\n");
        let pool = routes(&text).unwrap().routing.pools.remove(0);
        (pool.health.is_some(), pool.source.clone())
    };
    let mesh = |caller: &str, namespace: &str, datacenter: Option<&str>| {
        let service = ServiceName { namespace: namespace.into(), ..ServiceName::local("api") };
        let service = MeshService { caller: ServiceName::local(caller), service, datacenter: datacenter.map(Into::into) };
        (false, PoolSource::Mesh(service))
    };
    assert_eq!(source("", ", connect: true"), mesh("aralez", "default", None));
    assert_eq!(source("connect: true, service: edge", ""), mesh("edge", "default", None));
    assert_eq!(source("service: edge", ", connect: true, dc: dc2, namespace: shop"), mesh("edge", "shop", Some("dc2")));
    assert!(matches!(source("connect: true", ", connect: false"), (true, PoolSource::Consul(_))));
}

#[test]
fn services_of_kubernetes_are_read_in_both_forms() {
    let text = "provider: kubernetes\nrate_limit: 5\nkubernetes:\n  servers: [\"10.0.0.1:6443\"]\n  tokenpath: /token\n  namespaces: [b, a]\n  status_address: 192.0.2.7\n  \
                services:\n    - {hostname: a.test, path: /x, service_name: web, port: \"80\"}\nupstreams:\n  b.test:\n    paths:\n      \
                /: {kubernetes: {service: api, namespace: n, port: http, scheme: h2c}}\n";
    let Upstreams { routing, kubernetes, .. } = routes(text).unwrap();
    let sources: Vec<_> = routing.pools.iter().map(|pool| json!([pool.id, pool.source, pool.health.is_some()])).collect();
    assert_eq!(
        json!(sources),
        json!([
            ["b.test/", {"kubernetes": {"namespace": "n", "name": "api", "port": "http", "scheme": "h2c"}}, true],
            ["a.test/x", {"kubernetes": {"namespace": "default", "name": "web", "port": 80, "scheme": null}}, true],
        ])
    );
    let Kubernetes { cluster, template } = kubernetes.unwrap();
    let access = Access::Server {
        url: "https://10.0.0.1:6443".parse().unwrap(),
        token_file: "/token".into(),
        ca_file: "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into(),
    };
    assert_eq!((cluster.access, cluster.namespaces), (access, vec!["a".to_owned(), "b".to_owned()]));
    let ingresses = cluster.ingresses.unwrap();
    assert_eq!((&*ingresses.controller, &*ingresses.status[0]), ("aralez/ingress-controller", "192.0.2.7"));
    // What holds for all paths holds for Ingresses; their servers are the kubelet's to probe.
    assert_eq!((template.filters.limits[0].rate, &template.pool.health), (5, &None));
    // Without the provider Ingresses are no routes; without either nothing is watched.
    let named = "upstreams: {a.test: {paths: {/: {kubernetes: {service: api}}}}}\n";
    assert_eq!(routes(named).unwrap().kubernetes.unwrap().cluster.ingresses, None);
    assert_eq!(routes("upstreams: {a.test: {paths: {/: {servers: [\"b:1\"]}}}}\n").unwrap().kubernetes, None);
}
