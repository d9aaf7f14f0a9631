#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    control::kubernetes::{endpoints::endpoints, objects::Kind},
    model::{
        balance::{Balance, Limits, PassiveHealth},
        ingress::{Filters, Paths},
    },
};

const CONTROLLER: &str = "aralez/ingress-controller";

fn template() -> RouteTemplate {
    RouteTemplate {
        route: Route { timeout: Some(Duration::from_secs(7)), ..Route::to(Vec::new()) },
        filters: Arc::new(Filters { to_https: true, ..Filters::default() }),
        pool: Pool {
            id: TargetId("".into()),
            source: PoolSource::Servers(Vec::new()),
            balance: Balance::default(),
            limits: Limits::default(),
            passive: PassiveHealth::default(),
            health: None,
            tls: Arc::default(),
            connect_timeout: Duration::from_secs(5),
            proxy_header: None,
        },
    }
}

fn apply<K: Kind>(objects: &mut Objects, object: Value) {
    K::store(objects).apply(serde_json::from_value(object).unwrap());
}

/// A cluster with our class `edge`, another's `other`, and these Ingresses.
fn cluster(ingresses: Vec<Value>) -> Objects {
    let mut objects = Objects::default();
    apply::<IngressClass>(&mut objects, json!({"metadata": {"name": "edge"}, "spec": {"controller": CONTROLLER}}));
    apply::<IngressClass>(&mut objects, json!({"metadata": {"name": "other"}, "spec": {"controller": "somebody/else"}}));
    ingresses.into_iter().for_each(|ingress| apply::<Ingress>(&mut objects, ingress));
    objects
}

/// An Ingress of class `edge` that was created in this second.
fn ingress(name: &str, second: u8, spec: Value) -> Value {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("ingressClassName").or_insert(json!("edge"));
    json!({"metadata": {"name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}, "spec": spec})
}

fn to(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// A rule of a host: path, type, service.
fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths.iter().map(|(path, kind, name)| json!({"path": path, "pathType": kind, "backend": to(name)})).collect();
    json!({"host": host, "http": {"paths": paths}})
}

fn translated(objects: &Objects, files: &Routing) -> Translation {
    translate(objects, files, CONTROLLER, &template(), &[], 0)
}

/// The Service that a request goes to.
fn taken(routing: &Routing, host: &str, path: &str) -> Option<String> {
    let route = &routing.routes[routing.hosts.find(host)?.find(path)?];
    let pool = &routing.pools[route.route.legs[0].clusters[0]];
    Some(match &pool.source {
        PoolSource::Kubernetes(service) => service.name.to_string(),
        PoolSource::Servers(_) | PoolSource::Consul(_) | PoolSource::Mesh(_) => "-".to_owned(),
    })
}

fn assert_taken(routing: &Routing, table: &[(&str, &str, Option<&str>)]) {
    for (host, path, service) in table {
        assert_eq!(taken(routing, host, path).as_deref(), *service, "{host}{path}");
    }
}

#[test]
fn hosts_and_path_types_are_those_of_the_api() {
    let objects = cluster(vec![ingress(
        "one",
        1,
        json!({"rules": [
            rule("a.test", &[("/", "Prefix", "root"), ("/foo", "Exact", "exact"), ("/foo", "Prefix", "foo"), ("/bar/", "Prefix", "bar"),
                ("/any", "ImplementationSpecific", "any"), ("/slash/", "Exact", "slash")]),
            rule("*.a.test", &[("/", "Prefix", "wild")]),
            rule("only.test", &[("/x", "Exact", "x")]),
        ]}),
    )]);
    let Translation { routing, problems, .. } = translated(&objects, &Routing::default());
    assert_eq!(problems, []);
    assert_taken(
        &routing,
        &[
            ("a.test", "/", Some("root")),
            ("a.test", "/foo", Some("exact")),
            ("a.test", "/foo/", Some("foo")),
            ("a.test", "/foo/x", Some("foo")),
            ("a.test", "/foobar", Some("root")),
            ("a.test", "/bar", Some("bar")),
            ("a.test", "/bar/x", Some("bar")),
            ("a.test", "/any/x", Some("any")),
            ("a.test", "/slash", Some("root")),
            ("a.test", "/slash/", Some("slash")),
            ("b.a.test", "/x", Some("wild")),
            ("c.b.a.test", "/x", None),
            ("only.test", "/x", Some("x")),
            ("only.test", "/x/y", None),
            ("else.test", "/", None),
        ],
    );
    let route = &routing.routes[0];
    assert_eq!((&*route.route.name, route.route.timeout, route.filters.to_https), ("a.test/", Some(Duration::from_secs(7)), true));
    let ids: std::collections::BTreeSet<_> = routing.pools.iter().map(|pool| &pool.id).collect();
    assert_eq!(ids.len(), routing.pools.len());
}

#[test]
fn what_no_rule_takes_goes_to_the_default_backend() {
    let objects = cluster(vec![
        ingress("rules", 1, json!({"defaultBackend": to("fallback"), "rules": [rule("a.test", &[("/x", "Prefix", "x")])]})),
        ingress(
            "root",
            2,
            json!({"rules": [rule("b.test", &[("/", "Prefix", "b")]), {"http": {"paths": [
            {"path": "/every", "pathType": "Prefix", "backend": to("every")}]}}]}),
        ),
        ingress("second", 3, json!({"defaultBackend": to("late")})),
    ]);
    let Translation { routing, problems, .. } = translated(&objects, &Routing::default());
    assert_taken(
        &routing,
        &[
            ("a.test", "/x", Some("x")),
            ("a.test", "/y", Some("fallback")),
            ("b.test", "/y", Some("b")),
            ("else.test", "/", Some("fallback")),
            ("else.test", "/every/x", Some("every")),
        ],
    );
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!((&*problem.path, &*problem.why), ("Ingress shop/second", "the path / of host DEFAULT belongs to Ingress shop/rules"));
}

#[test]
fn a_host_called_default_is_only_itself() {
    let rules = json!([
        rule("default", &[("/", "Prefix", "named")]),
        rule("*", &[("/", "Prefix", "star")]),
        rule("DEFAULT", &[("/x", "Prefix", "x")])
    ]);
    let mut ingresses = vec![ingress("one", 1, json!({"rules": rules}))];
    let Translation { routing, .. } = translated(&cluster(ingresses.clone()), &Routing::default());
    assert_taken(&routing, &[("default", "/", Some("named")), ("else.test", "/", None), ("1.2.3.4", "/", None)]);
    // Nor does it take the place of the rules without a host.
    ingresses.push(ingress(
        "two",
        2,
        json!({"rules": [{"http": {"paths": [{"path": "/x", "pathType": "Prefix", "backend": to("every")}]}}]}),
    ));
    let Translation { routing, problems, .. } = translated(&cluster(ingresses), &Routing::default());
    assert_eq!(problems, []);
    assert_taken(&routing, &[("default", "/", Some("named")), ("default", "/x", Some("x")), ("else.test", "/x", Some("every"))]);
    assert_eq!(routing.pools.iter().map(|pool| &pool.id).collect::<std::collections::BTreeSet<_>>().len(), routing.pools.len());
}

#[test]
fn paths_are_matched_as_clients_send_them() {
    let paths = [("/", "Prefix", "root"), ("/café", "Prefix", "cafe"), ("/a b", "Exact", "space"), ("/%E2%82%AC", "Prefix", "euro")];
    let objects = cluster(vec![ingress("one", 1, json!({"rules": [rule("a.test", &paths)]}))]);
    let Translation { routing, problems, .. } = translated(&objects, &Routing::default());
    assert_eq!(problems, []);
    for (sent, service) in [("/caf%C3%A9/x", "cafe"), ("/a%20b", "space"), ("/%E2%82%AC", "euro"), ("/caf", "root")] {
        let asked = path::normalize(sent, &NORMALIZATION).unwrap().path_and_query;
        assert_eq!(taken(&routing, "a.test", &asked).as_deref(), Some(service), "{sent}");
    }
}

#[test]
fn classes_say_whose_an_ingress_is() {
    let of = |name: &str, class: Value, old: Option<&str>| {
        let mut ingress = ingress(name, 1, json!({"rules": [rule(&format!("{name}.test"), &[("/", "Prefix", name)])]}));
        ingress["spec"]["ingressClassName"] = class;
        ingress["metadata"]["annotations"] = json!(old.map(|old| json!({"kubernetes.io/ingress.class": old})));
        ingress
    };
    let mut objects = cluster(vec![
        of("ours", json!("edge"), None),
        of("theirs", json!("other"), None),
        of("unknown", json!("nobody"), None),
        of("old", Value::Null, Some("edge")),
        of("both", json!("other"), Some("edge")),
        of("none", Value::Null, None),
    ]);
    let names = |objects: &Objects| ours(objects, CONTROLLER).iter().map(|ingress| ingress.name_any()).collect::<Vec<_>>();
    assert_eq!(names(&objects), ["old", "ours"]);
    let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    let class =
        |name: &str, controller: &str| json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}});
    apply::<IngressClass>(&mut objects, class("other", "somebody/else"));
    assert_eq!(names(&objects), ["old", "ours"]);
    apply::<IngressClass>(&mut objects, class("edge", CONTROLLER));
    assert_eq!(names(&objects), ["none", "old", "ours"]);
}

#[test]
fn who_came_first_keeps_a_path() {
    let objects = cluster(vec![
        ingress("b-young", 9, json!({"rules": [rule("a.test", &[("/x", "Prefix", "young"), ("/own", "Prefix", "own")])]})),
        ingress("c-old", 1, json!({"rules": [rule("a.test", &[("/x/", "Prefix", "old"), ("/file", "Prefix", "shadowed")])]})),
    ]);
    let mut files = Routing::default();
    let mut paths = Paths::default();
    paths.insert("/file", 0);
    files.hosts.insert("A.test", paths);
    files.pools.push(Arc::new(Pool { id: TargetId("a.test/file".into()), ..template().pool }));
    let leg = Leg { name: "a.test/file".into(), weight: 10_000, headers: HeaderEdits::default(), clusters: vec![0] };
    files.routes.push(IngressRoute { route: Route::to(vec![leg]), further: Vec::new(), action: Action::Forward, filters: Arc::default() });
    let Translation { routing, problems, .. } = translated(&objects, &files);
    assert_taken(
        &routing,
        &[("a.test", "/x", Some("old")), ("a.test", "/own", Some("own")), ("a.test", "/file", Some("-")), ("a.test", "/", None)],
    );
    let told: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.why)).collect();
    assert_eq!(
        told,
        [
            "Ingress shop/c-old: the path /file of host a.test belongs to the routes file",
            "Ingress shop/b-young: the path /x of host a.test belongs to Ingress shop/c-old",
        ]
    );
}

#[test]
fn what_cannot_be_used_is_told_and_holds_nothing_else_back() {
    let tls = json!([{"hosts": ["a.test"], "secretName": "absent"}, {"secretName": "broken"}]);
    let resource = json!({"resource": {"kind": "Bucket", "name": "files"}});
    let paths = json!([
        {"path": "/a%00", "pathType": "ImplementationSpecific", "backend": to("up")},
        {"path": "/q?x=1", "pathType": "ImplementationSpecific", "backend": to("query")},
        {"path": "/bucket", "pathType": "Prefix", "backend": resource},
        {"path": "/", "pathType": "Prefix", "backend": to("good")},
    ]);
    let mut objects = cluster(vec![ingress("one", 1, json!({"tls": tls, "rules": [{"host": "a.test", "http": {"paths": paths}}]}))]);
    apply::<Secret>(&mut objects, json!({"metadata": {"name": "broken", "namespace": "shop"}, "data": {"tls.crt": "eA=="}}));
    let Translation { routing, problems, certificates } = translated(&objects, &Routing::default());
    assert_taken(&routing, &[("a.test", "/x", Some("good")), ("a.test", "/bucket", Some("-"))]);
    assert_eq!(certificates, []);
    let told: Vec<_> = problems.iter().map(|problem| &*problem.why).collect();
    for part in [
        "no request ever has the path \"/a%00\"",
        "no request ever has the path \"/q?x=1\"",
        "a backend is no Service",
        "no Secret absent",
        "it has no tls.key",
    ] {
        assert!(told.iter().any(|why| why.contains(part)), "{part}: {told:?}");
    }
}

fn service(ports: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": ports}})
}

fn slice(name: &str, of: &str, ports: Value, endpoints: Value) -> Value {
    let labels = json!({"kubernetes.io/service-name": of});
    json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints})
}

fn found(objects: &Objects, port: Option<ServicePort>) -> Result<String, String> {
    let wanted = KubernetesService { namespace: "shop".into(), name: "web".into(), port, scheme: None };
    endpoints(objects, &wanted).map(|list| list.iter().map(|endpoint| &*endpoint.id).collect::<Vec<_>>().join(" "))
}

#[test]
fn endpoints_are_those_of_the_port_that_are_ready() {
    let at = |ip: &str, conditions: Value| json!({"addresses": [ip], "conditions": conditions});
    let mut objects = Objects::default();
    let named = |name: &str| Some(ServicePort::Name(name.into()));
    assert!(found(&objects, None).unwrap_err().contains("there is no Service web"));
    apply::<Service>(
        &mut objects,
        service(
            json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81, "appProtocol": "https"}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
        ),
    );
    let ports = json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}]);
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    let list = json!([
        at("10.0.0.2", json!({"ready": true})),
        at("10.0.0.1", json!({})),
        at("10.0.0.3", json!({"ready": false})),
        at("10.0.0.4", ending),
        {"addresses": ["10.0.0.5", "10.0.0.6"], "conditions": {"ready": true}},
    ]);
    apply::<EndpointSlice>(&mut objects, slice("web-1", "web", ports.clone(), list));
    apply::<EndpointSlice>(
        &mut objects,
        slice("web-2", "web", json!([{"name": "http", "port": 8081}]), json!([at("10.0.1.1", json!({}))])),
    );
    apply::<EndpointSlice>(&mut objects, slice("api-1", "api", ports.clone(), json!([at("10.0.9.9", json!({}))])));
    for (port, wanted) in [
        (Some(ServicePort::Number(80)), Ok("10.0.0.1:8080 10.0.0.2:8080 10.0.0.5:8080 10.0.1.1:8081")),
        (named("admin"), Ok("10.0.0.1:9090 10.0.0.2:9090 10.0.0.5:9090")),
        (Some(ServicePort::Number(8080)), Err("the Service has no port 8080")),
        (named("dns"), Err("the Service has no port dns")),
        (None, Err("the Service has not one port but several, or none: say which")),
    ] {
        assert_eq!(found(&objects, port.clone()), wanted.map(ToOwned::to_owned).map_err(ToOwned::to_owned), "{port:?}");
    }
    // While none is ready, those that still serve.
    apply::<EndpointSlice>(&mut objects, slice("web-2", "api", json!([{"name": "http", "port": 8081}]), json!([])));
    let left =
        json!([at("10.0.0.3", json!({"ready": false})), at("10.0.0.4", json!({"ready": false, "serving": true, "terminating": true}))]);
    apply::<EndpointSlice>(&mut objects, slice("web-1", "web", ports, left));
    assert_eq!(found(&objects, named("http")).unwrap(), "10.0.0.4:8080");
    // One port needs no name.
    apply::<Service>(&mut objects, service(json!([{"port": 80}])));
    assert_eq!(found(&objects, None).unwrap(), "");
    apply::<EndpointSlice>(&mut objects, slice("web-1", "web", json!([{"port": 1}]), json!([at("10.0.0.1", json!({}))])));
    assert_eq!(found(&objects, None).unwrap(), "10.0.0.1:1");
    apply::<Service>(
        &mut objects,
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "x.test"}}),
    );
    assert!(found(&objects, None).unwrap_err().contains("ExternalName"));
}

#[test]
fn the_scheme_is_what_the_service_says() {
    for (protocol, wanted) in [
        (Value::Null, Scheme::Http),
        (json!("http"), Scheme::Http),
        (json!("kubernetes.io/h2c"), Scheme::H2c),
        (json!("https"), Scheme::Https),
        (json!("HTTPS"), Scheme::Https),
        (json!("gRPC"), Scheme::Grpc),
        (json!("grpc"), Scheme::Grpc),
        (json!("kubernetes.io/ws"), Scheme::Http),
    ] {
        let mut objects = cluster(vec![ingress("one", 1, json!({"rules": [rule("a.test", &[("/", "Prefix", "web")])]}))]);
        apply::<Service>(&mut objects, service(json!([{"port": 80, "appProtocol": protocol}])));
        let Translation { routing, .. } = translated(&objects, &Routing::default());
        let PoolSource::Kubernetes(found) = &routing.pools[0].source else { panic!("{protocol}") };
        assert_eq!(found.scheme, Some(wanted), "{protocol}");
    }
}
