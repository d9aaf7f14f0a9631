//! Inputs to snapshot: pure, part by part, reusing what did not change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{Problem, Snapshot, check, inputs::*};
use crate::model::{
    cluster::{Cluster, Endpoint, Health},
    credentials::{Identity, Leaf, Roots},
    identity::{ServiceName, SpiffeId},
    intention::{DefaultPolicy, Intention, Intentions},
    listener::{Bind, Inbound, Listener, ListenerKey, Protocol, Role, Route, Upstream, Xfcc},
    mesh::MeshConfig,
    registration::{Chain, Registration, Target, UpstreamConfig},
};

/// Envoy's default route timeout, which Consul leaves in force.
const DEFAULT_ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// The name of the listener that mesh peers call.
const PUBLIC: &str = "public";

/// The outcome of [`compile`].
#[derive(Debug)]
pub struct Compiled {
    /// What may be served.
    pub snapshot: Snapshot,
    /// What has not arrived yet, for example `web-sidecar-proxy: leaf`. A sidecar starts nothing before all of its parts are there;
    /// one that has started keeps what it has.
    pub missing: Vec<String>,
}

/// Compiles the inputs into the snapshot after `last`. Parts that did not change keep their `Arc`.
pub fn compile(inputs: &Inputs, last: &Snapshot) -> Compiled {
    let mut out = Compiled { snapshot: Snapshot { generation: last.generation + 1, ..Snapshot::default() }, missing: Vec::new() };
    for (id, sidecar) in inputs {
        Sidecar { id, last, out: &mut out }.compile(sidecar);
    }
    refuse_clashes(&mut out.snapshot);
    out
}

/// Two listeners on one address: the first by name keeps it.
fn refuse_clashes(snapshot: &mut Snapshot) {
    let mut taken: HashMap<Bind, ListenerKey> = HashMap::new();
    let problems = &mut snapshot.problems;
    snapshot.listeners.retain(|key, listener| match taken.get(&listener.bind) {
        None => {
            taken.insert(listener.bind.clone(), key.clone());
            true
        }
        Some(first) => {
            problems.push(Problem {
                sidecar: key.sidecar.to_string(),
                path: format!("listener {}", key.name),
                why: format!("{} is taken by listener {first}", listener.bind.address),
                advice: "choose another port".to_owned(),
            });
            false
        }
    });
}

/// One sidecar on its way into the snapshot.
struct Sidecar<'a> {
    id: &'a Arc<str>,
    last: &'a Snapshot,
    out: &'a mut Compiled,
}

/// The parts of a sidecar that every listener needs, all there.
struct Parts<'a> {
    registration: &'a Registration,
    roots: &'a Roots,
    leaf: &'a Leaf,
    intentions: &'a [Intention],
    default: DefaultPolicy,
    mesh: &'a MeshConfig,
}

impl Sidecar<'_> {
    fn compile(&mut self, inputs: &SidecarInputs) {
        let mut missing = Vec::new();
        let mut need = |there: bool, what: &str| {
            if !there {
                missing.push(what.to_owned());
            }
        };
        need(inputs.registration.is_some(), "registration");
        need(inputs.leaf.is_some(), "leaf");
        need(inputs.roots.is_some(), "roots");
        need(inputs.intentions.is_some(), "intentions");
        need(inputs.default_policy.is_some(), "default intention policy");
        need(inputs.mesh.is_some(), "mesh entry");
        for upstream in inputs.registration.iter().flat_map(|r| &r.upstreams) {
            if let Some(what) = awaited(inputs.upstreams.get(&upstream.key)) {
                missing.push(format!("upstream {}: {what}", upstream.key.0));
            }
        }
        let started = self.last.listeners.keys().any(|key| key.sidecar == *self.id);
        let complete = missing.is_empty();
        self.out.missing.extend(missing.into_iter().map(|what| format!("{}: {what}", self.id)));
        if !complete && !started {
            return;
        }
        let SidecarInputs { registration, leaf, roots, intentions, default_policy, mesh, upstreams } = inputs;
        if let (Some(registration), Some(leaf), Some(roots), Some(intentions), Some(default), Some(mesh)) =
            (registration.as_deref(), leaf, roots, intentions, *default_policy, mesh)
        {
            self.build(&Parts { registration, roots, leaf, intentions, default, mesh }, upstreams);
        }
    }

    fn build(&mut self, parts: &Parts<'_>, upstreams: &BTreeMap<crate::model::registration::UpstreamKey, UpstreamInputs>) {
        for bad in &parts.registration.problems {
            self.problem(&bad.path, &bad.why, &bad.advice);
        }
        let Some(identity) = self.identity(parts) else { return };
        let access_log = Arc::new(parts.registration.access_log.clone());
        let inbound = self.inbound(parts, &identity);
        self.add(Listener {
            key: self.key(PUBLIC),
            service: parts.registration.service.clone(),
            bind: parts.registration.bind.clone(),
            protocol: parts.registration.protocol,
            identity: identity.clone(),
            tls: parts.mesh.incoming.clone(),
            access_log: access_log.clone(),
            role: Role::Inbound(inbound),
        });
        for config in &parts.registration.upstreams {
            let key = self.key(&format!("upstream:{}", config.key.0));
            let known = upstreams.get(&config.key);
            let chain = known.and_then(|k| k.chain.as_ref());
            match (known, chain) {
                (Some(known), Some(Ok(chain))) if awaited(Some(known)).is_none() => {
                    let route = self.route(&key, config, chain, known, &identity);
                    if route.clusters.is_empty() {
                        continue;
                    }
                    self.add(Listener {
                        key,
                        service: parts.registration.service.clone(),
                        bind: config.bind.clone(),
                        protocol: config.protocol.unwrap_or(chain.protocol),
                        identity: identity.clone(),
                        tls: parts.mesh.outgoing.clone(),
                        access_log: access_log.clone(),
                        role: Role::Upstream(Upstream { destination: config.destination.clone(), route }),
                    });
                }
                (_, Some(Err(why))) => {
                    let path = format!("upstream {}", config.key.0);
                    self.problem(&path, why, "the upstream keeps its last good form, if it had one");
                    self.keep(&key, &identity);
                }
                _ => self.keep(&key, &identity),
            }
        }
    }

    fn key(&self, name: &str) -> ListenerKey {
        ListenerKey { sidecar: self.id.clone(), name: name.into() }
    }

    fn problem(&mut self, path: &str, why: &str, advice: &str) {
        self.out.snapshot.problems.push(Problem {
            sidecar: self.id.to_string(),
            path: path.to_owned(),
            why: why.to_owned(),
            advice: advice.to_owned(),
        });
    }

    /// Adds a listener, keeping the last one's `Arc` if nothing changed.
    fn add(&mut self, listener: Listener) {
        let same = self.last.listeners.get(&listener.key).filter(|last| ***last == listener);
        let listener = same.cloned().unwrap_or_else(|| Arc::new(listener));
        self.out.snapshot.listeners.insert(listener.key.clone(), listener);
    }

    /// Keeps a listener in its last form, but never with an older identity.
    fn keep(&mut self, key: &ListenerKey, identity: &Arc<Identity>) {
        if let Some(last) = self.last.listeners.get(key) {
            self.add(Listener { identity: identity.clone(), ..(**last).clone() });
        }
    }

    /// The newest leaf that can stand, with the newest roots: a removed root loses its trust even while no fitting leaf is there.
    fn identity(&mut self, parts: &Parts<'_>) -> Option<Arc<Identity>> {
        let service = &parts.registration.service;
        let last = self.last.listeners.get(&self.key(PUBLIC)).map(|l| l.identity.clone());
        let leaf = match check::leaf(parts.leaf, parts.roots, service) {
            Ok(()) => parts.leaf.clone(),
            Err(why) => {
                self.problem("leaf", &why.to_string(), "check the agent's Connect CA; the last good leaf stays in use");
                match &last {
                    Some(last) => last.leaf.clone(),
                    None => {
                        self.out.missing.push(format!("{}: usable leaf", self.id));
                        return None;
                    }
                }
            }
        };
        let identity = Identity::new(leaf, parts.roots.clone());
        Some(last.filter(|last| **last == identity).unwrap_or_else(|| Arc::new(identity)))
    }

    fn inbound(&mut self, parts: &Parts<'_>, identity: &Identity) -> Inbound {
        let registration = parts.registration;
        let last = self.last.listeners.get(&self.key(PUBLIC)).map(|l| l.role.clone());
        let (last_intentions, last_app) = match last {
            Some(Role::Inbound(inbound)) => (Some(inbound.intentions), Some(inbound.app)),
            _ => (None, None),
        };
        if parts.default == DefaultPolicy::Unknown {
            let why = "the agent did not tell it; callers that no intention names are denied";
            self.problem(
                "default intention policy",
                why,
                "give the token service:write on the service, or write an intention for each caller",
            );
        }
        for unsupported in parts.intentions {
            if let crate::model::intention::Rule::Unsupported(why) = &unsupported.rule {
                let path = format!("intention {} -> {}", unsupported.source.name, unsupported.destination);
                self.problem(&path, why, "it denies until it can be evaluated");
            }
        }
        let intentions = Intentions::new(identity.roots.trust_domain.clone(), parts.default, parts.intentions.to_vec());
        let app = Endpoint { id: "local_app".into(), address: registration.app.clone(), weight: 1, health: Health::Passing };
        let xfcc = match registration.protocol {
            Protocol::Http | Protocol::Http2 if !parts.mesh.sanitize_xfcc => Xfcc::AppendForward,
            _ => Xfcc::Sanitize,
        };
        Inbound {
            intentions: last_intentions.filter(|last| **last == intentions).unwrap_or_else(|| Arc::new(intentions)),
            app: last_app.filter(|last| **last == app).unwrap_or_else(|| Arc::new(app)),
            connect_timeout: registration.local_connect_timeout,
            request_timeout: registration.local_request_timeout,
            idle_timeout: registration.local_idle_timeout,
            max_connections: registration.max_inbound_connections,
            xfcc,
        }
    }

    fn route(&mut self, key: &ListenerKey, config: &UpstreamConfig, chain: &Chain, known: &UpstreamInputs, identity: &Identity) -> Route {
        let protocol = config.protocol.unwrap_or(chain.protocol);
        let last = match self.last.listeners.get(key).map(|l| &l.role) {
            Some(Role::Upstream(upstream)) => upstream.route.clusters.clone(),
            _ => Vec::new(),
        };
        let mut clusters = Vec::new();
        for target in &chain.targets {
            let path = format!("upstream {}, target {}", config.key.0, target.id);
            if target.sni.is_empty() {
                self.problem(
                    &path,
                    "the agent gave no TLS server name for it",
                    "it is left out; targets in a cluster peer are not supported yet",
                );
                continue;
            }
            if let Some(why) = known.failed.get(&target.id) {
                self.problem(&path, why, "it serves nothing until the agent can list its instances");
            }
            let cluster = cluster(target, protocol, known, identity);
            let same = last.iter().find(|l| ***l == cluster).cloned();
            clusters.push(same.unwrap_or_else(|| Arc::new(cluster)));
        }
        Route { clusters, timeout: chain.request_timeout.or(Some(DEFAULT_ROUTE_TIMEOUT)) }
    }
}

/// What an upstream still waits for, if anything.
fn awaited(known: Option<&UpstreamInputs>) -> Option<String> {
    let Some(known) = known else { return Some("discovery chain".to_owned()) };
    match &known.chain {
        None => Some("discovery chain".to_owned()),
        Some(Err(_)) => None,
        Some(Ok(chain)) => {
            let waits = |t: &&Target| !known.endpoints.contains_key(&t.id) && !known.failed.contains_key(&t.id);
            chain.targets.iter().find(waits).map(|t| format!("endpoints of {}", t.id))
        }
    }
}

fn cluster(target: &Target, protocol: Protocol, known: &UpstreamInputs, identity: &Identity) -> Cluster {
    // Consul's rule for a chain target, also behind gateways: the service's own name in the target's datacenter.
    let service: ServiceName = target.service.clone();
    let expected = SpiffeId::service(identity.roots.trust_domain.clone(), service.clone(), &target.datacenter);
    Cluster {
        target: target.id.clone(),
        service,
        datacenter: target.datacenter.clone(),
        sni: target.sni.clone(),
        expected: Arc::new([expected]),
        protocol,
        connect_timeout: target.connect_timeout,
        endpoints: known.endpoints.get(&target.id).cloned().unwrap_or_else(|| Arc::new([])),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::model::{
        access_log::AccessLog,
        cluster::TargetId,
        intention::{Action, Pattern, Rule, Source},
        listener::Address,
        registration::{EndpointsByTarget, UpstreamKey},
        testing::Ca,
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
            access_log: AccessLog::default(),
            upstreams: vec![UpstreamConfig {
                key: UpstreamKey("api".into()),
                destination: ServiceName::local("api"),
                datacenter: None,
                bind: Bind { address: tcp(upstream_port), mode: None },
                protocol: None,
                connect_timeout: None,
                mesh_gateway: None,
            }],
            problems: Vec::new(),
        }
    }

    fn target() -> Target {
        Target {
            id: TargetId(TARGET.into()),
            service: ServiceName::local("api"),
            datacenter: "dc1".into(),
            sni: "api.default.dc1.internal.test".into(),
            connect_timeout: Duration::from_secs(5),
            filter: "".into(),
            only_passing: false,
        }
    }

    fn endpoints(ports: &[u16]) -> EndpointsByTarget {
        let endpoint =
            |port: &u16| Arc::new(Endpoint { id: port.to_string().into(), address: tcp(*port), weight: 1, health: Health::Passing });
        BTreeMap::from([(TargetId(TARGET.into()), ports.iter().map(endpoint).collect())])
    }

    fn sidecar(ca: &Ca) -> SidecarInputs {
        let chain = Chain { protocol: Protocol::Http, targets: vec![target()], request_timeout: None };
        let upstream = UpstreamInputs { chain: Some(Ok(Arc::new(chain))), endpoints: endpoints(&[1]), ..UpstreamInputs::default() };
        SidecarInputs {
            registration: Some(Arc::new(registration(9191))),
            leaf: Some(ca.leaf("web")),
            roots: Some(ca.roots()),
            intentions: Some(Vec::new()),
            default_policy: Some(DefaultPolicy::Allow),
            mesh: Some(MeshConfig::default()),
            upstreams: BTreeMap::from([(UpstreamKey("api".into()), upstream)]),
        }
    }

    fn compiled(sidecar: &SidecarInputs, last: &Snapshot) -> Compiled {
        compile(&BTreeMap::from([(ID.into(), sidecar.clone())]), last)
    }

    fn listener<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Listener> {
        &snapshot.listeners[&ListenerKey { sidecar: ID.into(), name: name.into() }]
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
        assert!(Arc::ptr_eq(&listener(&first, "public").identity, &listener(&second, "upstream:api").identity));
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
        Intention { source, destination: "web".into(), precedence: 8, rule: Rule::Action(Action::Deny) }
    }

    #[test]
    fn a_bad_leaf_never_replaces_a_good_one() {
        let ca = Ca::new();
        let mut inputs = sidecar(&ca);
        let first = compiled(&inputs, &Snapshot::default()).snapshot;
        let good = listener(&first, "public").identity.leaf.clone();
        let mut strangers_key = ca.leaf("web");
        strangers_key.key = ca.leaf("web").key;
        for (what, bad) in [("another CA", Ca::new().leaf("web")), ("another service", ca.leaf("api")), ("another key", strangers_key)] {
            inputs.leaf = Some(bad.clone());
            let next = compiled(&inputs, &first).snapshot;
            assert_eq!(listener(&next, "public").identity.leaf, good, "{what}");
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
        assert_eq!(listener(&second, "public").identity.roots, new.roots());
        inputs.leaf = Some(new.leaf("web"));
        let third = compiled(&inputs, &second).snapshot;
        assert_eq!(listener(&third, "public").identity.leaf, inputs.leaf.unwrap());
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
        assert_eq!(listener(&second, "upstream:api").identity.leaf, inputs.leaf.clone().unwrap());
        assert_eq!(second.problems[0].path, "upstream api");
        let start = compiled(&inputs, &Snapshot::default());
        assert_eq!((start.snapshot.listeners.len(), start.missing.len()), (1, 0), "it does not hold the sidecar back");
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
        upstream.chain =
            Some(Ok(Arc::new(Chain { protocol: Protocol::Http, targets: vec![far.clone(), target()], request_timeout: None })));
        upstream.failed.insert(far.id, "No path to datacenter".into());
        let compiled = compiled(&inputs, &Snapshot::default());
        assert!(compiled.missing.is_empty());
        let Role::Upstream(upstream) = &listener(&compiled.snapshot, "upstream:api").role else { panic!() };
        let healthy: Vec<bool> = upstream.route.clusters.iter().map(|c| c.is_healthy()).collect();
        assert_eq!(healthy, [false, true]);
    }
}
