use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    admin::tests::start,
    model::{
        access_log::AccessLog,
        cluster::{Cluster, Endpoint, Health, Trust},
        identity::{ServiceName, TrustDomain},
        ingress::{Action as IngressAction, Filters, Hosts, Ingress, IngressRoute, Paths, Routing},
        intention::{Action, DecidedBy, DefaultPolicy, Intention, Intentions, Pattern, Permission, Rule, Source},
        listener::{Address, Inbound, ListenerKey, Protocol, Upstream},
        route::{HeaderEdits, Leg, Route, RouteTable},
        secret::Secret,
        testing::cluster,
    },
    telemetry::{
        metrics::{ReloadOf, Reloaded},
        record::{Flag, Record},
        testing::{http, id, inbound, outbound, record},
    },
};

fn endpoint(id: &str, health: Health) -> Arc<Endpoint> {
    let address = Address::Tcp(([127, 0, 0, 1], 8080).into());
    Arc::new(Endpoint { id: id.into(), address, weight: 1, health, dial: None })
}

fn four() -> Arc<Cluster> {
    let trust = Trust::Mesh { sni: "api.test".into(), expected: Arc::new([]) };
    let endpoints = [
        ("old", Health::Passing),
        ("new", Health::Passing),
        ("shaky", Health::Warning),
        ("out", Health::Passing),
        ("down", Health::Critical),
    ];
    Arc::new(cluster("api", trust, endpoints.map(|(id, health)| endpoint(id, health))))
}

/// `web` by permission, everybody else not at all.
fn guarded() -> Listener {
    let of = |name: &str, precedence, rule| Intention {
        source: Source { peer: None, partition: "default".into(), namespace: Pattern::parse("default"), name: Pattern::parse(name) },
        destination: "web".to_owned(),
        precedence,
        rule,
        jwt: None,
    };
    let permission = Permission { action: Action::Allow, path: None, headers: Vec::new(), methods: vec!["GET".into()], jwt: None };
    let rules = vec![of("api", 9, Rule::Permissions(vec![permission])), of("*", 8, Rule::Action(Action::Deny))];
    let trust_domain = TrustDomain::parse("td.consul").unwrap();
    let intentions = Arc::new(Intentions::new(trust_domain, DefaultPolicy::Deny, Protocol::Http, rules));
    let public = inbound(AccessLog::default(), 2_000_000_000);
    let Role::Inbound(role) = public.role.clone() else { unreachable!() };
    Listener { role: Role::Inbound(Inbound { intentions, ..role }), ..public }
}

fn shown(state: &AdminState) -> Value {
    serde_json::to_value(Status::of(state)).unwrap()
}

#[tokio::test]
async fn a_sidecar_shows_who_it_is_who_may_call_and_whom_it_calls() {
    let bench = start(false);
    let upstream =
        Upstream { destination: ServiceName::local("api"), routes: Arc::new(RouteTable::direct(1, None)), clusters: vec![four()] };
    let calling = Listener { role: Role::Upstream(upstream), ..outbound() };
    let listeners = [guarded(), calling];
    let metrics = &bench.state.telemetry.metrics;
    let counting: Vec<_> = listeners.iter().map(|listener| metrics.listener(listener)).collect();
    let Role::Inbound(inbound) = &listeners[0].role else { unreachable!() };
    let hits = counting[0].hits(&inbound.intentions);
    hits.count(DecidedBy::Permission(0, 1), Action::Allow);
    hits.count(DecidedBy::Intention(1), Action::Deny);
    hits.count(DecidedBy::Default, Action::Deny);
    let caller = id("job");
    let denied = Record {
        http: Some(http(403)),
        source: Some(&caller),
        flag: Flag::Unauthorized,
        details: "intention_denied",
        ..record(&listeners[0])
    };
    bench.state.telemetry.record(&denied, &counting[0]);
    bench.publish(listeners.clone());
    let protection = json!({
        "load": {"connections": 0, "pending": 1, "requests": 2, "retries": 0},
        "ejected": [{"endpoint": "out", "cause": "consecutive_5xx", "seconds_left": 12.5}],
        "warming": [{"endpoint": "new", "share": 0.25}],
    });
    let state = AdminState { protection: Arc::new(move |_, _| Some(protection.clone())), ..bench.state.clone() };
    let shown = shown(&state);

    assert_eq!((&shown["ready"], &shown["missing"]), (&json!(true), &json!([])));
    let identity = &shown["identities"][0];
    assert_eq!(
        (&identity["service"], &identity["not_after"], &identity["lifetime_seconds"]),
        (&json!("web"), &json!("2033-05-18T03:33:20Z"), &json!(2_000_000_000))
    );
    assert_eq!(shown["identities"].as_array().unwrap().len(), 1, "once a sidecar");
    let [public, upstream] = &shown["listeners"].as_array().unwrap()[..] else { panic!("{shown}") };
    assert_eq!(
        (&public["role"], &public["traffic"]["requests"], &public["traffic"]["answers"]),
        (&json!("public"), &json!(1), &json!({"4xx": 1}))
    );
    let rules: Vec<_> = public["intentions"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| json!([r["intention"], r["permission"], r["action"], r["allowed"], r["denied"]]))
        .collect();
    let expected = [
        json!(["api -> web (precedence 9)", null, "permissions", 0, 0]),
        json!(["api -> web (precedence 9)", 1, "allow", 1, 0]),
        json!(["* -> web (precedence 8)", null, "deny", 0, 1]),
    ];
    assert_eq!(rules, expected);
    assert_eq!((&public["intentions"]["default"], &public["intentions"]["default_denied"]), (&json!("deny"), &json!(1)));
    let cluster = &upstream["clusters"][0];
    let states: Vec<_> = cluster["endpoints"].as_array().unwrap().iter().map(|e| e["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["healthy", "slow_start", "warning", "ejected", "failing"]);
    assert_eq!((&cluster["available"], &cluster["in_flight"]["requests"]), (&json!(3), &json!(2)));
    assert_eq!((&cluster["endpoints"][3]["cause"], &cluster["endpoints"][1]["share"]), (&json!("consecutive_5xx"), &json!(0.25)));
    assert_eq!(
        upstream["routes"][0],
        json!({"name": "default", "matches": "any request", "action": "forward", "filters": [], "legs": [{"share": 1.0, "clusters": ["api"]}]})
    );
    let refused = &shown["refusals"]["last"][0];
    assert_eq!(
        (&shown["refusals"]["total"], &refused["source"], &refused["reason"]),
        (&json!(1), &json!("job"), &json!("intention_denied"))
    );
    assert!(!shown.to_string().contains("the-private-key"), "{shown}");
}

fn ingress(name: &str, routing: &Arc<Routing>) -> Listener {
    let ingress = Ingress {
        tls: None,
        routing: routing.clone(),
        clusters: vec![four()],
        providers: Arc::default(),
        client: Arc::default(),
        https_port: None,
        challenges: Arc::default(),
        sealing: Secret::new("the-sealing-secret"),
    };
    let key = ListenerKey { sidecar: "ingress".into(), name: name.into() };
    Listener { key, identity: None, role: Role::Ingress(Box::new(ingress)), ..outbound() }
}

#[tokio::test]
async fn a_reverse_proxy_shows_its_routes_once_and_how_reloads_fared() {
    let bench = start(false);
    let leg = |weight| Leg { name: "l".into(), weight, headers: HeaderEdits::default(), clusters: vec![0] };
    let route = |name: &str, legs| IngressRoute {
        route: Route { name: name.into(), ..Route::to(legs) },
        further: Vec::new(),
        action: IngressAction::Forward,
        filters: Arc::new(Filters { to_https: true, body_limit: Some(1), ..Filters::default() }),
    };
    let mut paths = Paths::default();
    paths.insert("/b", 1);
    paths.insert("/", 0);
    let mut hosts = Hosts::default();
    hosts.insert("shop.example", paths);
    let routes = vec![route("one", vec![leg(1)]), route("two", vec![leg(1), leg(3)])];
    let routing = Arc::new(Routing { hosts, routes, pools: Vec::new() });
    bench.publish([ingress("http", &routing), ingress("https", &routing)]);
    let metrics = &bench.state.telemetry.metrics;
    metrics.reloaded(ReloadOf::Files, Reloaded::Applied);
    metrics.config_version("abc");
    let shown = shown(&bench.state);

    let [plain, secure] = &shown["listeners"].as_array().unwrap()[..] else { panic!("{shown}") };
    let takes: Vec<_> = plain["routes"].as_array().unwrap().iter().map(|r| r["matches"].as_str().unwrap()).collect();
    assert_eq!(takes, ["shop.example/", "shop.example/b"]);
    assert_eq!(plain["routes"][1]["legs"][1]["share"], 0.75);
    assert_eq!(plain["routes"][0]["filters"], json!(["to_https", "body_limit"]));
    assert_eq!(plain["traffic"], Value::Null, "it is not up");
    assert_eq!((&secure["same_as"], &secure["routes"], &secure["clusters"]), (&json!("ingress/http"), &json!([]), &json!([])));
    assert_eq!((&shown["identities"], &shown["configuration"]["version"]), (&json!([]), &json!("abc")));
    assert_eq!(shown["configuration"]["reloads"][0]["source"], "files");
    assert!(!shown.to_string().contains("sealing-secret"), "{shown}");
}

#[tokio::test]
async fn the_page_asks_only_this_server_and_may_run_only_its_own_script() {
    let bench = start(false);
    let (status, body) = bench.ask("GET", "/").await;
    assert_eq!(status, 200);
    assert!(body.starts_with("<!doctype html>"), "{body}");
    let called: HashSet<_> = body.split('"').filter(|part| part.starts_with("//") || part.starts_with("http")).collect();
    assert!(called.is_empty(), "{called:?}");
    assert_eq!(bench.json("/status.json").await["missing"], json!(["first snapshot"]));
    let head = bench.head("/").await;
    assert!(head.contains("default-src 'none'") && !head.contains("unsafe"), "{head}");
}
