//! What `compile` promises.

use std::net::SocketAddr;

use std::time::Duration;

use super::*;
use crate::model::{
    access_log::AccessLog,
    balance::BalancePolicy,
    cluster::TargetId,
    intention::{Action, Pattern, Rule, Source},
    listener::Address,
    metrics::MetricsConfig,
    registration::{EndpointsByTarget, Naming, UpstreamKey},
    route::RouteTable,
    testing::Ca,
    tracing::TracingSettings,
};

const ID: &str = "web-sidecar-proxy";
const TARGET: &str = "api.default.default.dc1";

fn tcp(port: u16) -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn registration(upstream_port: u16) -> Registration {
    Registration {
        proxy_id: ID.into(),
        service: ServiceName::local("web"),
        datacenter: "dc1".into(),
        bind: Bind { address: tcp(21000), mode: None },
        protocol: Protocol::Http,
        app: tcp(8080),
        local_connect_timeout: Duration::from_secs(5),
        local_request_timeout: None,
        local_idle_timeout: None,
        max_inbound_connections: None,
        exposed: Vec::new(),
        exposes_checks: None,
        access_log: AccessLog::default(),
        upstreams: vec![UpstreamConfig::new(
            UpstreamKey("api".into()),
            ServiceName::local("api"),
            Bind { address: tcp(upstream_port), mode: None },
        )],
        metrics: MetricsConfig::nowhere(ServiceName::local("web"), "dc1"),
        tracing: TracingSettings::default(),
        problems: Vec::new(),
        ignored: Vec::new(),
    }
}

fn target() -> Target {
    Target {
        id: TargetId(TARGET.into()),
        service: ServiceName::local("api"),
        datacenter: "dc1".into(),
        naming: Naming::Chain("api.default.dc1.internal.test".into()),
        connect_timeout: Duration::from_secs(5),
        balance: BalancePolicy::default(),
        filter: "".into(),
        only_passing: false,
    }
}

/// A chain that fails over from each target to the next.
fn chain(targets: Vec<Target>) -> Chain {
    let routes = Arc::new(RouteTable::direct(targets.len(), None));
    Chain { protocol: Protocol::Http, routes, targets, problems: Vec::new() }
}

fn endpoints(ports: &[u16]) -> EndpointsByTarget {
    let endpoint = |port: &u16| {
        Arc::new(Endpoint { id: port.to_string().into(), address: tcp(*port), weight: 1, health: Health::Passing, dial: None })
    };
    BTreeMap::from([(TargetId(TARGET.into()), ports.iter().map(endpoint).collect())])
}

fn sidecar(ca: &Ca) -> SidecarInputs {
    let chain = chain(vec![target()]);
    let upstream = UpstreamInputs { chain: Some(Ok(Arc::new(chain))), endpoints: endpoints(&[1]), ..UpstreamInputs::default() };
    SidecarInputs {
        registration: Some(Arc::new(registration(9191))),
        leaf: Some(ca.leaf("web")),
        roots: Some(ca.roots()),
        intentions: Some(Vec::new()),
        default_policy: Some(DefaultPolicy::Allow),
        mesh: Some(MeshConfig::default()),
        tokens: TokenInputs::default(),
        upstreams: BTreeMap::from([(UpstreamKey("api".into()), upstream)]),
        ..SidecarInputs::default()
    }
}

fn compiled(sidecar: &SidecarInputs, last: &Snapshot) -> Compiled {
    compile(&Inputs { sidecars: BTreeMap::from([(ID.into(), sidecar.clone())]), ..Inputs::default() }, last)
}

fn listener<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Listener> {
    &snapshot.listeners[&ListenerKey { sidecar: ID.into(), name: name.into() }]
}

fn identity<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Identity> {
    listener(snapshot, name).identity.as_ref().unwrap()
}

#[test]
fn nothing_listens_before_everything_has_arrived_and_what_is_missing_is_named() {
    let ca = Ca::new();
    let full = sidecar(&ca);
    type Remove = fn(&mut SidecarInputs);
    let without: [(&str, Remove); 7] = [
        ("registration", |s| s.registration = None),
        ("leaf", |s| s.leaf = None),
        ("roots", |s| s.roots = None),
        ("intentions", |s| s.intentions = None),
        ("default intention policy", |s| s.default_policy = None),
        ("mesh entry", |s| s.mesh = None),
        ("upstream api: discovery chain", |s| s.upstreams.clear()),
    ];
    for (what, remove) in without {
        let mut partial = full.clone();
        remove(&mut partial);
        let compiled = compiled(&partial, &Snapshot::default());
        assert_eq!(compiled.missing, [format!("{ID}: {what}")]);
        assert!(compiled.snapshot.listeners.is_empty(), "{what}");
    }
    let complete = compiled(&full, &Snapshot::default());
    assert_eq!((complete.missing.len(), complete.snapshot.listeners.len(), complete.snapshot.generation), (0, 2, 1));
}

#[test]
fn what_did_not_change_keeps_its_arc() {
    let ca = Ca::new();
    let mut inputs = sidecar(&ca);
    let first = compiled(&inputs, &Snapshot::default()).snapshot;
    inputs.upstreams.get_mut(&UpstreamKey("api".into())).unwrap().endpoints = endpoints(&[1, 2]);
    let second = compiled(&inputs, &first).snapshot;
    assert!(Arc::ptr_eq(listener(&first, "public"), listener(&second, "public")));
    assert!(!Arc::ptr_eq(listener(&first, "upstream:api"), listener(&second, "upstream:api")));
    assert!(Arc::ptr_eq(identity(&first, "public"), identity(&second, "upstream:api")));
}

#[test]
fn a_new_upstream_that_has_not_arrived_holds_nothing_back_once_started() {
    let ca = Ca::new();
    let mut inputs = sidecar(&ca);
    let first = compiled(&inputs, &Snapshot::default()).snapshot;
    let mut registration = registration(9191);
    let mut billing = registration.upstreams[0].clone();
    billing.key = UpstreamKey("billing".into());
    billing.bind.address = tcp(9192);
    registration.upstreams.push(billing);
    inputs.registration = Some(Arc::new(registration));
    inputs.intentions = Some(vec![deny_all()]);
    let second = compiled(&inputs, &first);
    assert_eq!(second.missing, [format!("{ID}: upstream billing: discovery chain")]);
    assert_eq!(second.snapshot.listeners.len(), 2);
    let Role::Inbound(inbound) = &listener(&second.snapshot, "public").role else { panic!() };
    assert!(inbound.intentions.authorize(&crate::model::testing::id("x")).is_err(), "the deny came through");
}

fn deny_all() -> Intention {
    let source = Source { peer: None, partition: "default".into(), namespace: Pattern::Any, name: Pattern::Any };
    Intention { source, destination: "web".into(), precedence: 8, rule: Rule::Action(Action::Deny), jwt: None }
}

#[test]
fn a_bad_leaf_never_replaces_a_good_one() {
    let ca = Ca::new();
    let mut inputs = sidecar(&ca);
    let first = compiled(&inputs, &Snapshot::default()).snapshot;
    let good = identity(&first, "public").leaf.clone();
    let mut strangers_key = ca.leaf("web");
    strangers_key.key = ca.leaf("web").key;
    for (what, bad) in [("another CA", Ca::new().leaf("web")), ("another service", ca.leaf("api")), ("another key", strangers_key)] {
        inputs.leaf = Some(bad.clone());
        let next = compiled(&inputs, &first).snapshot;
        assert_eq!(identity(&next, "public").leaf, good, "{what}");
        assert_eq!(next.problems.len(), 1, "{what}");
        let start = compiled(&inputs, &Snapshot::default());
        assert!(start.snapshot.listeners.is_empty(), "{what}: nothing may start with it");
        assert_eq!(start.missing, [format!("{ID}: usable leaf")]);
    }
}

#[test]
fn a_removed_root_loses_its_trust_even_before_the_new_leaf_is_there() {
    let (old, new) = (Ca::new(), Ca::new());
    let mut inputs = sidecar(&old);
    let first = compiled(&inputs, &Snapshot::default()).snapshot;
    inputs.roots = Some(new.roots());
    let second = compiled(&inputs, &first).snapshot;
    assert_eq!(identity(&second, "public").roots, new.roots());
    inputs.leaf = Some(new.leaf("web"));
    let third = compiled(&inputs, &second).snapshot;
    assert_eq!(identity(&third, "public").leaf, inputs.leaf.unwrap());
    assert!(third.problems.is_empty());
}

#[test]
fn an_upstream_without_a_usable_chain_keeps_its_last_form_with_the_new_leaf() {
    let ca = Ca::new();
    let mut inputs = sidecar(&ca);
    let first = compiled(&inputs, &Snapshot::default()).snapshot;
    inputs.upstreams.get_mut(&UpstreamKey("api".into())).unwrap().chain = Some(Err("routers are not supported yet".into()));
    inputs.leaf = Some(ca.leaf("web"));
    let second = compiled(&inputs, &first).snapshot;
    assert_eq!(identity(&second, "upstream:api").leaf, inputs.leaf.clone().unwrap());
    assert_eq!(second.problems[0].path, "upstream api");
    let start = compiled(&inputs, &Snapshot::default());
    assert_eq!((start.snapshot.listeners.len(), start.missing.len()), (1, 0), "it does not hold the sidecar back");
}

#[test]
fn an_upstream_whose_newer_chain_cannot_be_followed_is_served_by_the_good_one_and_named() {
    let mut inputs = sidecar(&Ca::new());
    inputs.upstreams.get_mut(&UpstreamKey("api".into())).unwrap().refused = Some("route 1: Match.HTTP.PathRegex: no".into());
    let snapshot = compiled(&inputs, &Snapshot::default()).snapshot;
    assert_eq!((snapshot.listeners.len(), snapshot.problems[0].why.as_str()), (2, "route 1: Match.HTTP.PathRegex: no"));
}

#[test]
fn two_listeners_on_one_address_are_one_listener_and_a_problem() {
    let ca = Ca::new();
    let mut inputs = sidecar(&ca);
    inputs.registration = Some(Arc::new(registration(21000)));
    let snapshot = compiled(&inputs, &Snapshot::default()).snapshot;
    assert_eq!(snapshot.listeners.len(), 1);
    assert_eq!(snapshot.problems[0].why, "127.0.0.1:21000 is taken by listener web-sidecar-proxy/public");
}

#[test]
fn a_target_whose_instances_cannot_be_listed_serves_nothing_but_the_next_one_does() {
    let ca = Ca::new();
    let mut inputs = sidecar(&ca);
    let upstream = inputs.upstreams.get_mut(&UpstreamKey("api".into())).unwrap();
    let far = Target { id: TargetId("api.default.default.dc9".into()), datacenter: "dc9".into(), ..target() };
    upstream.chain = Some(Ok(Arc::new(chain(vec![far.clone(), target()]))));
    upstream.failed.insert(far.id, "No path to datacenter".into());
    let compiled = compiled(&inputs, &Snapshot::default());
    assert!(compiled.missing.is_empty());
    let Role::Upstream(upstream) = &listener(&compiled.snapshot, "upstream:api").role else { panic!() };
    let healthy: Vec<bool> = upstream.clusters.iter().map(|c| c.is_healthy()).collect();
    assert_eq!(healthy, [false, true]);
}
