//! Inputs to snapshot: pure, part by part, reusing what did not change.

mod ingress;
mod mesh;
mod tokens;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Ignored, Problem, Snapshot, check, inputs::*};
use crate::model::{
    balance::Balance,
    cluster::{Cluster, Endpoint, Health, Subset, Trust},
    credentials::{Identity, Leaf, Roots},
    identity::{ServiceName, SpiffeId},
    intention::{DefaultPolicy, Intention, Intentions},
    listener::{Address, Bind, Exposed, Inbound, Listener, ListenerKey, Protocol, Role, Upstream, Xfcc},
    mesh::{MeshConfig, TlsBounds},
    registration::{Chain, ExposedCheck, ExposedPath, Naming, Registration, Target, UpstreamConfig},
    tracing::TracingSettings,
};

/// The name of the listener that mesh peers call.
const PUBLIC: &str = "public";

/// What to do about a leaf that cannot stand.
const BAD_LEAF: &str = "check the agent's Connect CA; the last good leaf stays in use";

/// The outcome of [`compile`].
#[derive(Debug)]
pub struct Compiled {
    /// What may be served.
    pub snapshot: Snapshot,
    /// What has not arrived yet, for example `web-sidecar-proxy: leaf`. A sidecar starts nothing before all of its parts are there;
    /// one that has started keeps what it has.
    pub missing: Vec<String>,
    /// What single routes of the reverse proxy lack: they answer 503, and the others serve.
    pub unserved: Vec<String>,
}

/// Compiles the inputs into the snapshot after `last`. Parts that did not change keep their `Arc`.
pub fn compile(inputs: &Inputs, last: &Snapshot) -> Compiled {
    let snapshot = Snapshot { generation: last.generation + 1, ..Snapshot::default() };
    let mut out = Compiled { snapshot, missing: Vec::new(), unserved: Vec::new() };
    for (id, sidecar) in &inputs.sidecars {
        Sidecar { id, last, tracing: &inputs.tracing, out: &mut out }.compile(sidecar);
    }
    if let Some(ingress) = &inputs.ingress {
        ingress::compile(ingress, &inputs.tracing, last, &mut out);
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
    /// What holds for tracing where its registration says nothing.
    tracing: &'a TracingSettings,
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
    exposed_checks: &'a [ExposedCheck],
    tokens: &'a TokenInputs,
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
        missing.extend(tokens::awaited(&inputs.tokens));
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
        let SidecarInputs { registration, leaf, roots, intentions, default_policy, mesh, tokens, upstreams, exposed_checks } = inputs;
        if let (Some(registration), Some(leaf), Some(roots), Some(intentions), Some(default), Some(mesh)) =
            (registration.as_deref(), leaf, roots, intentions, *default_policy, mesh)
        {
            self.build(&Parts { registration, roots, leaf, intentions, default, mesh, tokens, exposed_checks }, upstreams);
        }
    }

    fn build(&mut self, parts: &Parts<'_>, upstreams: &BTreeMap<crate::model::registration::UpstreamKey, UpstreamInputs>) {
        for bad in &parts.registration.problems {
            self.problem(&bad.path, &bad.why, &bad.advice);
        }
        self.observability(parts.registration);
        let Some(identity) = self.identity(parts) else { return };
        let access_log = Arc::new(parts.registration.access_log.clone());
        let tracing = parts.registration.tracing.resolve(self.tracing, &parts.registration.service.name);
        let inbound = self.inbound(parts, &identity);
        self.add(Listener {
            key: self.key(PUBLIC),
            service: parts.registration.service.clone(),
            bind: parts.registration.bind.clone(),
            protocol: parts.registration.protocol,
            identity: Some(identity.clone()),
            tls: parts.mesh.incoming.clone(),
            access_log: access_log.clone(),
            tracing: tracing.clone(),
            role: Role::Inbound(inbound),
        });
        for exposed in exposed_paths(parts.registration, parts.exposed_checks) {
            self.add(Listener {
                key: self.key(&format!("exposed:{}{}", exposed.bind.address, exposed.path)),
                service: parts.registration.service.clone(),
                bind: exposed.bind.clone(),
                protocol: exposed.protocol,
                identity: Some(identity.clone()),
                tls: TlsBounds::default(),
                access_log: access_log.clone(),
                tracing: tracing.clone(),
                role: Role::Exposed(Exposed {
                    path: exposed.path.clone(),
                    app: Arc::new(local_app(&exposed.app)),
                    connect_timeout: parts.registration.local_connect_timeout,
                    near_only: exposed.near_only,
                }),
            });
        }
        for config in &parts.registration.upstreams {
            let key = self.key(&format!("upstream:{}", config.key.0));
            let known = upstreams.get(&config.key);
            let chain = known.and_then(|k| k.chain.as_ref());
            match (known, chain) {
                (Some(known), Some(Ok(chain))) if awaited(Some(known)).is_none() => {
                    if let Some(why) = &known.refused {
                        self.problem(&format!("upstream {}", config.key.0), why, "the upstream keeps its last good chain");
                    }
                    for bad in &chain.problems {
                        self.problem(&format!("upstream {}, {}", config.key.0, bad.path), &bad.why, &bad.advice);
                    }
                    let upstream = self.upstream(&key, config, chain, known, &identity);
                    self.add(Listener {
                        key,
                        service: parts.registration.service.clone(),
                        bind: config.bind.clone(),
                        protocol: config.protocol.unwrap_or(chain.protocol),
                        identity: Some(identity.clone()),
                        tls: parts.mesh.outgoing.clone(),
                        access_log: access_log.clone(),
                        tracing: tracing.clone(),
                        role: Role::Upstream(upstream),
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

    /// Where metrics go, keeping the last `Arc` if nothing changed; and what was said without effect.
    fn observability(&mut self, registration: &Registration) {
        let last = self.last.metrics.get(self.id).filter(|last| ***last == registration.metrics);
        let metrics = last.cloned().unwrap_or_else(|| Arc::new(registration.metrics.clone()));
        self.out.snapshot.metrics.insert(self.id.clone(), metrics);
        let sidecar = self.id.to_string();
        let ignored = registration.ignored.iter().map(|i| Ignored { sidecar: sidecar.clone(), path: i.path.clone(), why: i.why });
        self.out.snapshot.ignored.extend(ignored);
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
            self.add(Listener { identity: Some(identity.clone()), ..(**last).clone() });
        }
    }

    fn identity(&mut self, parts: &Parts<'_>) -> Option<Arc<Identity>> {
        let last = self.last.listeners.get(&self.key(PUBLIC)).and_then(|l| l.identity.clone());
        let (identity, refused) = identity(&parts.registration.service, parts.leaf, parts.roots, last);
        if let Some(why) = refused {
            self.problem("leaf", &why.to_string(), BAD_LEAF);
        }
        if identity.is_none() {
            self.out.missing.push(format!("{}: usable leaf", self.id));
        }
        identity
    }

    fn inbound(&mut self, parts: &Parts<'_>, identity: &Identity) -> Inbound {
        let registration = parts.registration;
        let last = self.last.listeners.get(&self.key(PUBLIC)).map(|l| l.role.clone());
        let (last_intentions, last_app, last_providers) = match last {
            Some(Role::Inbound(inbound)) => (Some(inbound.intentions), Some(inbound.app), inbound.providers),
            _ => (None, None, Arc::default()),
        };
        if parts.default == DefaultPolicy::Unknown {
            let why = "the agent did not tell it; callers that no intention names are denied";
            self.problem(
                "default intention policy",
                why,
                "give the token service:write on the service, or write an intention for each caller",
            );
        }
        let trust_domain = identity.roots.trust_domain.clone();
        let intentions = Intentions::new(trust_domain, parts.default, registration.protocol, parts.intentions.to_vec());
        for doubt in intentions.doubts() {
            self.problem(&format!("intention {}", doubt.id), &doubt.why, doubt.effect);
        }
        let app = local_app(&registration.app);
        let xfcc = match registration.protocol {
            Protocol::Http | Protocol::Http2 if !parts.mesh.sanitize_xfcc => Xfcc::AppendForward,
            _ => Xfcc::Sanitize,
        };
        let providers = self.providers(parts.tokens, &last_providers);
        Inbound {
            intentions: last_intentions.filter(|last| **last == intentions).unwrap_or_else(|| Arc::new(intentions)),
            app: last_app.filter(|last| **last == app).unwrap_or_else(|| Arc::new(app)),
            providers: if providers == *last_providers { last_providers } else { Arc::new(providers) },
            connect_timeout: registration.local_connect_timeout,
            request_timeout: registration.local_request_timeout,
            idle_timeout: registration.local_idle_timeout,
            max_connections: registration.max_inbound_connections,
            normalization: parts.mesh.normalization,
            xfcc,
        }
    }

    fn upstream(
        &mut self,
        key: &ListenerKey,
        config: &UpstreamConfig,
        chain: &Chain,
        known: &UpstreamInputs,
        identity: &Identity,
    ) -> Upstream {
        let protocol = config.protocol.unwrap_or(chain.protocol);
        let last = match self.last.listeners.get(key).map(|l| &l.role) {
            Some(Role::Upstream(upstream)) => Some(upstream),
            _ => None,
        };
        let mut clusters = Vec::with_capacity(chain.targets.len());
        for (place, target) in chain.targets.iter().enumerate() {
            if let Some(why) = known.failed.get(&target.id) {
                let path = format!("upstream {}, target {}", config.key.0, target.id);
                self.problem(&path, why, "it serves nothing until the agent can list its instances");
            }
            let cluster = cluster(config, target, protocol, known, identity);
            // Unchanged chains keep their targets' places; otherwise the cluster is looked for.
            let at_place = last.and_then(|l| l.clusters.get(place)).filter(|l| ***l == cluster);
            let same = at_place.or_else(|| last.and_then(|l| l.clusters.iter().find(|l| ***l == cluster)));
            clusters.push(same.cloned().unwrap_or_else(|| Arc::new(cluster)));
        }
        let routes = last.map(|l| &l.routes).filter(|last| **last == chain.routes).unwrap_or(&chain.routes).clone();
        Upstream { destination: config.destination.clone(), routes, clusters }
    }
}

/// The paths that the registration exposes, and those of the exposed checks: these lead to the app's own port, the only one that is known.
fn exposed_paths(registration: &Registration, checks: &[ExposedCheck]) -> Vec<ExposedPath> {
    let mut paths = registration.exposed.clone();
    if let (Address::Tcp(own), true) = (&registration.bind.address, registration.exposes_checks.is_some()) {
        paths.extend(checks.iter().map(|check| ExposedPath {
            bind: Bind { address: Address::Tcp((own.ip(), check.port).into()), mode: None },
            path: check.path.clone(),
            app: registration.app.clone(),
            protocol: check.protocol,
            near_only: true,
        }));
    }
    paths
}

/// The local app as an endpoint.
fn local_app(address: &Address) -> Endpoint {
    Endpoint { id: "local_app".into(), address: address.clone(), weight: 1, health: Health::Passing, dial: None }
}

/// What an upstream still waits for, if anything.
fn awaited(known: Option<&UpstreamInputs>) -> Option<String> {
    known.map_or_else(|| UpstreamInputs::default().awaited(), UpstreamInputs::awaited)
}

/// The newest leaf that can stand, with the newest roots: a removed root loses its trust even while no fitting leaf is there. Besides, why the
/// newest leaf cannot.
fn identity(
    service: &ServiceName,
    leaf: &Leaf,
    roots: &Roots,
    last: Option<Arc<Identity>>,
) -> (Option<Arc<Identity>>, Option<check::BadLeaf>) {
    let (leaf, refused) = match check::leaf(leaf, roots, service) {
        Ok(()) => (leaf.clone(), None),
        Err(why) => match last.as_ref().filter(|last| last.leaf.id.as_service() == Some(service)) {
            Some(last) => (last.leaf.clone(), Some(why)),
            None => return (None, Some(why)),
        },
    };
    let identity = Identity::new(leaf, roots.clone());
    (Some(last.filter(|last| **last == identity).unwrap_or_else(|| Arc::new(identity))), refused)
}

fn cluster(config: &UpstreamConfig, target: &Target, protocol: Protocol, known: &UpstreamInputs, identity: &Identity) -> Cluster {
    Cluster {
        target: target.id.clone(),
        service: target.service.clone(),
        datacenter: target.datacenter.clone(),
        trust: trust(target, identity),
        subset: Subset { filter: target.filter.clone(), only_passing: target.only_passing },
        protocol,
        connect_timeout: target.connect_timeout,
        balance: Balance { policy: target.balance, sticky: config.sticky.clone(), slow_start: config.slow_start },
        limits: config.limits,
        passive: config.passive,
        endpoints: known.endpoints.get(&target.id).cloned().unwrap_or_default(),
    }
}

/// How the servers of a target are called, and whom they must show themselves to be.
fn trust(target: &Target, identity: &Identity) -> Trust {
    let trust_domain = &identity.roots.trust_domain;
    let id = |service: &ServiceName, datacenter: &Arc<str>| SpiffeId::service(trust_domain.clone(), service.clone(), datacenter);
    let (sni, expected): (Arc<str>, Arc<[SpiffeId]>) = match &target.naming {
        // Consul's rule for a chain target, also behind gateways: the service's own name in the target's datacenter.
        Naming::Chain(sni) => (sni.clone(), Arc::new([id(&target.service, &target.datacenter)])),
        Naming::Query(instances) => (
            format!("{}.default.{}.query.{trust_domain}", target.service.name, target.datacenter).into(),
            instances.iter().map(|(service, datacenter)| id(service, datacenter)).collect(),
        ),
    };
    Trust::Mesh { sni, expected }
}

#[cfg(test)]
mod tests;
