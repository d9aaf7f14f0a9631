//! What becomes of pools in the mesh.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    model::{
        access_log::AccessLog,
        balance::{Balance, Limits, PassiveHealth},
        cluster::{Endpoint, Health, Trust},
        format::Format,
        ingress::{Action, Filters, Hosts, IngressListeners, IngressRoute},
        listener::{Address, Bind, Listener},
        matching::{PathMatch, TextMatch},
        registration::Naming,
        route::RouteTable,
        secret::Secret,
        testing::{Ca, id},
        tracing::TracingSettings,
    },
    snapshot::{Credentials, Inputs, compile::Compiled},
};

fn pool(name: &str, source: PoolSource) -> Arc<Pool> {
    Arc::new(Pool {
        id: TargetId(name.into()),
        source,
        balance: Balance::default(),
        limits: Limits::default(),
        passive: PassiveHealth::default(),
        health: None,
        tls: Arc::default(),
        connect_timeout: Duration::from_secs(5),
        proxy_header: None,
    })
}

fn in_mesh(service: &str) -> PoolSource {
    PoolSource::Mesh(MeshService { caller: ServiceName::local("edge"), service: ServiceName::local(service), datacenter: None })
}

fn leg(clusters: &[usize]) -> Leg {
    Leg { name: "leg".into(), weight: 10_000, headers: HeaderEdits::default(), clusters: clusters.to_vec() }
}

/// A reverse proxy with the route `/` to the service `api`, and `/old` to a server.
fn inputs(ca: &Ca) -> IngressInputs {
    let route = |place: usize| IngressRoute {
        route: Route { name: "a.test/".into(), timeout: None, ..Route::to(vec![leg(&[place])]) },
        further: Vec::new(),
        action: Action::Forward,
        filters: Arc::new(Filters::default()),
    };
    let pools = vec![pool("a.test/", in_mesh("api")), pool("a.test/old", PoolSource::Servers(Vec::new()))];
    IngressInputs {
        listeners: Some(Arc::new(IngressListeners {
            http: Some(Bind { address: Address::Tcp(([127, 0, 0, 1], 80).into()), mode: None }),
            tls: None,
            files: None,
            client: Arc::default(),
            access_log: Arc::new(AccessLog::default()),
            tracing: TracingSettings::default(),
            sealing: Secret::new("s"),
        })),
        routing: Some(Arc::new(Routing { hosts: Hosts::default(), routes: vec![route(0), route(1)], pools })),
        services: BTreeMap::from([(TargetId("a.test/".into()), Arc::new(known(&["api", "spare"], &[&[0, 1]])))]),
        credentials: Credentials { leaf: Some(ca.leaf("edge")), roots: Some(ca.roots()), ..Credentials::default() },
        ..IngressInputs::default()
    }
}

/// A chain with these targets, each with one instance, and legs to them.
fn known(targets: &[&str], legs: &[&[usize]]) -> UpstreamInputs {
    let target = |service: &&str| Target {
        id: TargetId((*service).into()),
        service: ServiceName::local(service),
        datacenter: "dc1".into(),
        naming: Naming::Chain(format!("{service}.internal").into()),
        connect_timeout: Duration::from_secs(1),
        balance: BalancePolicy::default(),
        filter: "".into(),
        only_passing: false,
    };
    let targets: Vec<Target> = targets.iter().map(target).collect();
    let endpoint = |id: &TargetId| Endpoint {
        id: id.0.clone(),
        address: Address::Tcp(([127, 0, 0, 1], 1).into()),
        weight: 1,
        health: Health::Passing,
        dial: None,
    };
    let endpoints = targets.iter().map(|target| (target.id.clone(), Arc::from([Arc::new(endpoint(&target.id))]))).collect();
    let routes = Arc::new(RouteTable { routes: vec![Route::to(legs.iter().map(|clusters| leg(clusters)).collect())] });
    let chain = Chain { protocol: Protocol::Grpc, routes, targets, problems: Vec::new() };
    UpstreamInputs { chain: Some(Ok(Arc::new(chain))), endpoints, ..UpstreamInputs::default() }
}

fn compiled(ingress: IngressInputs, last: &Snapshot) -> (Compiled, Arc<Listener>) {
    let out = super::super::compile(&Inputs { ingress: Some(ingress), ..Inputs::default() }, last);
    let listener = out.snapshot.listeners.values().next().unwrap().clone();
    (out, listener)
}

fn role(listener: &Listener) -> &crate::model::ingress::Ingress {
    let Role::Ingress(ingress) = &listener.role else { panic!("another role") };
    ingress
}

#[test]
fn a_chain_becomes_clusters_and_legs_and_servers_stay_what_they_are() {
    let (out, listener) = compiled(inputs(&Ca::new()), &Snapshot::default());
    assert_eq!((out.missing, out.unserved, out.snapshot.problems.len()), (Vec::<String>::new(), Vec::<String>::new(), 0));
    let ingress = role(&listener);
    let names: Vec<&str> = ingress.clusters.iter().map(|cluster| &*cluster.target.0).collect();
    assert_eq!(names, ["a.test/#api", "a.test/old", "a.test/#spare"]);
    let legs = |route: usize| ingress.routing.routes[route].routes()[0].legs.iter().map(|leg| leg.clusters.clone()).collect::<Vec<_>>();
    assert_eq!((legs(0), legs(1)), (vec![vec![0, 2]], vec![vec![1]]));
    let api = &ingress.clusters[0];
    assert_eq!(api.trust, Trust::Mesh { sni: "api.internal".into(), expected: Arc::new([id("api")]) });
    assert_eq!((api.protocol, api.connect_timeout, api.endpoints.len()), (Protocol::Grpc, Duration::from_secs(1), 1));
    assert!(matches!(ingress.clusters[1].trust, Trust::Servers { .. }));
    assert_eq!(listener.identity.as_ref().unwrap().leaf.id, id("edge"));
}

#[test]
fn splits_are_legs_and_a_plain_chain_leaves_the_routing_alone() {
    let ca = Ca::new();
    let with = |known: UpstreamInputs| {
        let ingress = IngressInputs { services: BTreeMap::from([(TargetId("a.test/".into()), Arc::new(known))]), ..inputs(&ca) };
        let routing = ingress.routing.clone().unwrap();
        (compiled(ingress, &Snapshot::default()).1, routing)
    };
    let (listener, _) = with(known(&["api", "next"], &[&[0], &[1]]));
    let legs = &role(&listener).routing.routes[0].routes()[0].legs;
    assert_eq!(legs.iter().map(|leg| leg.clusters.clone()).collect::<Vec<_>>(), [[0], [2]]);
    let (listener, routing) = with(known(&["api"], &[&[0]]));
    assert!(Arc::ptr_eq(&role(&listener).routing, &routing));
}

#[test]
fn routes_of_a_router_stand_behind_the_path_which_has_the_last_word() {
    let ca = Ca::new();
    let mut ingress = inputs(&ca);
    let set = |value: &str| Edits { set: vec![("x-a".into(), Format::text(value))], ..Edits::default() };
    let mut routing = Routing::clone(ingress.routing.as_ref().unwrap());
    routing.routes[0].route.timeout = Some(Duration::from_secs(20));
    routing.routes[0].route.headers.request = set("path");
    ingress.routing = Some(Arc::new(routing));
    let mut known = known(&["api", "v2"], &[&[0]]);
    let prefix = PathMatch { text: TextMatch::Prefix("/v2".into()), ignore_case: false };
    let long = Route { name: "route 2".into(), timeout: None, ..Route::to(vec![leg(&[1])]) };
    let mut v2 = Route { name: "route 1".into(), rewrite: Some("/".into()), timeout: Some(Duration::from_secs(3)), ..long.clone() };
    (v2.matches.path, v2.headers.request) = (Some(prefix), set("chain"));
    let Some(Ok(chain)) = &mut known.chain else { panic!("a chain") };
    let chain = Arc::make_mut(chain);
    chain.routes = Arc::new(RouteTable { routes: vec![v2.clone(), long, chain.routes.routes[0].clone()] });
    ingress.services = BTreeMap::from([(TargetId("a.test/".into()), Arc::new(known))]);

    let (out, listener) = compiled(ingress, &Snapshot::default());
    assert_eq!(out.snapshot.problems, []);
    let routes = role(&listener).routing.routes[0].routes();
    let said: Vec<_> =
        routes.iter().map(|route| (&*route.name, route.timeout.map(|time| time.as_secs()), &*route.legs[0].clusters)).collect();
    assert_eq!(said, [("a.test/: route 1", Some(3), &[2][..]), ("a.test/: route 2", Some(20), &[2]), ("a.test/", Some(20), &[0])]);
    assert_eq!((&routes[0].matches, &routes[0].rewrite), (&v2.matches, &v2.rewrite));
    assert_eq!(routes[0].headers.request.set, [set("chain").set, set("path").set].concat());
}

#[test]
fn what_is_missing_is_named_and_leaves_the_pool_empty_alone() {
    let ca = Ca::new();
    let whole = inputs(&ca);
    let without = |credentials: Credentials, services| IngressInputs { credentials, services, ..inputs(&ca) };
    for (ingress, missing) in [
        (without(Credentials { leaf: None, ..whole.credentials.clone() }, whole.services.clone()), "ingress: leaf of edge"),
        (without(Credentials { roots: None, ..whole.credentials.clone() }, whole.services.clone()), "ingress: roots of edge"),
        (
            without(Credentials { leaf: Some(ca.leaf("other")), ..whole.credentials.clone() }, whole.services.clone()),
            "ingress: usable leaf of edge",
        ),
        (without(whole.credentials.clone(), BTreeMap::new()), "ingress: api: discovery chain"),
    ] {
        let (out, listener) = compiled(ingress, &Snapshot::default());
        assert_eq!((out.unserved.as_slice(), out.missing.len()), (&[missing.to_owned()][..], 0));
        let ingress = role(&listener);
        assert!(matches!(ingress.clusters[0].trust, Trust::Servers { .. }) && ingress.clusters[0].endpoints.is_empty(), "{missing}");
    }
}

#[test]
fn a_bad_leaf_is_no_leaf_and_the_last_good_one_stays() {
    let ca = Ca::new();
    let (first, _) = compiled(inputs(&ca), &Snapshot::default());
    let whole = inputs(&ca);
    let bad = Credentials { leaf: Some(ca.leaf("other")), ..whole.credentials.clone() };
    let (out, listener) = compiled(IngressInputs { credentials: bad, ..whole }, &first.snapshot);
    assert_eq!(listener.identity.as_ref().unwrap().leaf.id, id("edge"));
    assert_eq!((out.unserved.len(), out.snapshot.problems.len()), (0, 1));
}

#[test]
fn newer_credentials_take_nothing_away() {
    let whole = inputs(&Ca::new()).credentials;
    let mut known = whole.clone();
    known.take(Credentials::default());
    assert_eq!(known, whole);
    let newer = Ca::new().leaf("edge");
    known.take(Credentials { leaf: Some(newer.clone()), ..Credentials::default() });
    assert_eq!((known.leaf, known.roots), (Some(newer), whole.roots));
}
