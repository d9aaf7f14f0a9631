//! What a change costs: `compile` from inputs to snapshot, by endpoints of one cluster and by upstreams.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

#[path = "../tests/blackbox/support/ca.rs"]
mod ca;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use aralez::{
    model::{
        access_log::AccessLog,
        balance::BalancePolicy,
        cluster::{Endpoint, Health, TargetId},
        credentials::{Leaf, Roots},
        identity::ServiceName,
        intention::DefaultPolicy,
        listener::{Address, Bind, Protocol},
        mesh::MeshConfig,
        metrics::MetricsConfig,
        registration::{Chain, Naming, Registration, Target, UpstreamConfig, UpstreamKey},
        route::RouteTable,
        tracing::TracingSettings,
    },
    snapshot::{Inputs, SidecarInputs, Snapshot, UpstreamInputs, compile},
};
use divan::{Bencher, black_box};

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const ID: &str = "web-sidecar-proxy";
const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

fn main() {
    divan::main();
}

fn tcp(port: u16) -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn upstream(n: usize) -> UpstreamConfig {
    let (name, address) = (format!("api-{n}"), tcp(u16::try_from(20_000 + n).unwrap()));
    UpstreamConfig::new(UpstreamKey(name.as_str().into()), ServiceName::local(&name), Bind { address, mode: None })
}

fn target(n: usize) -> Target {
    Target {
        id: TargetId(format!("api-{n}.default.default.dc1").into()),
        service: ServiceName::local(&format!("api-{n}")),
        datacenter: "dc1".into(),
        naming: Naming::Chain(format!("api-{n}.default.dc1.internal.{TRUST_DOMAIN}").into()),
        connect_timeout: Duration::from_secs(5),
        balance: BalancePolicy::default(),
        filter: "".into(),
        only_passing: false,
    }
}

fn endpoint(n: usize) -> Arc<Endpoint> {
    let address = Address::Tcp(SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 21_000)));
    Arc::new(Endpoint { id: format!("node/{n}").into(), address, weight: 1, health: Health::Passing, dial: None })
}

/// A sidecar with so many upstreams, each with so many endpoints.
fn inputs(upstreams: usize, endpoints: usize) -> Inputs {
    let authority = ca::Authority::new("bench", TRUST_DOMAIN);
    let leaf = authority.issue(&ca::LeafRequest::new(authority.service_uri("web"), 7), "");
    let known = |n: usize| {
        let chain = Chain {
            protocol: Protocol::Http,
            routes: Arc::new(RouteTable::direct(1, None)),
            targets: vec![target(n)],
            problems: Vec::new(),
        };
        let endpoints = BTreeMap::from([(target(n).id, (0..endpoints).map(endpoint).collect())]);
        (upstream(n).key, UpstreamInputs { chain: Some(Ok(Arc::new(chain))), endpoints, ..UpstreamInputs::default() })
    };
    let registration = Registration {
        proxy_id: ID.into(),
        service: ServiceName::local("web"),
        datacenter: "dc1".into(),
        bind: Bind { address: tcp(9_000), mode: None },
        protocol: Protocol::Http,
        app: tcp(8_080),
        local_connect_timeout: Duration::from_secs(5),
        local_request_timeout: None,
        local_idle_timeout: None,
        max_inbound_connections: None,
        exposed: Vec::new(),
        exposes_checks: None,
        access_log: AccessLog::default(),
        tracing: TracingSettings::default(),
        upstreams: (0..upstreams).map(upstream).collect(),
        metrics: MetricsConfig::nowhere(ServiceName::local("web"), "dc1"),
        problems: Vec::new(),
        ignored: Vec::new(),
    };
    let sidecar = SidecarInputs {
        registration: Some(Arc::new(registration)),
        leaf: Some(Leaf::parse(&leaf.cert_pem, &leaf.key_pem).unwrap()),
        roots: Some(Roots::parse(TRUST_DOMAIN, [authority.root_pem().as_str()]).unwrap()),
        intentions: Some(Vec::new()),
        default_policy: Some(DefaultPolicy::Allow),
        mesh: Some(MeshConfig::default()),
        upstreams: (0..upstreams).map(known).collect(),
        ..SidecarInputs::default()
    };
    Inputs { sidecars: BTreeMap::from([(ID.into(), sidecar)]), ..Inputs::default() }
}

fn compiled(inputs: &Inputs, last: &Snapshot) -> Snapshot {
    let compiled = compile(inputs, last);
    assert!(compiled.missing.is_empty() && compiled.snapshot.problems.is_empty(), "{:?}", compiled.snapshot.problems);
    compiled.snapshot
}

/// One of the endpoints of the only cluster changed.
#[divan::bench(args = SIZES)]
fn an_endpoint_changed(bencher: Bencher, endpoints: usize) {
    let mut inputs = inputs(1, endpoints);
    let last = compiled(&inputs, &Snapshot::default());
    let known = inputs.sidecars.get_mut(ID).unwrap().upstreams.values_mut().next().unwrap();
    let changed: Arc<[Arc<Endpoint>]> = (0..endpoints - 1).map(endpoint).chain([endpoint(endpoints)]).collect();
    known.endpoints.insert(target(0).id, changed);
    bencher.bench_local(|| compiled(black_box(&inputs), &last));
}

/// Nothing changed: all parts are taken over.
#[divan::bench(args = SIZES)]
fn nothing_changed(bencher: Bencher, endpoints: usize) {
    let inputs = inputs(1, endpoints);
    let last = compiled(&inputs, &Snapshot::default());
    bencher.bench_local(|| compiled(black_box(&inputs), &last));
}

/// The first snapshot of a sidecar with so many upstreams.
#[divan::bench(args = SIZES)]
fn first_by_upstreams(bencher: Bencher, upstreams: usize) {
    let inputs = inputs(upstreams, 3);
    bencher.bench_local(|| compiled(black_box(&inputs), &Snapshot::default()));
}
