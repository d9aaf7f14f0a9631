//! The reverse proxy's inputs to its listeners.

use std::sync::Arc;

use super::{
    Compiled,
    mesh::{self, Meshed},
};
use crate::{
    model::{
        access_log::AccessLog,
        cluster::{Cluster, Subset, Trust},
        credentials::Identity,
        identity::ServiceName,
        ingress::{
            Action, Certificates, Ingress, IngressRoute, IngressTls, Paths, Pool, Routing,
            auth::AuthKind,
            filters::{Files, Filters},
            hosts::Hosts,
        },
        jwt::{KeySource, Provider, Providers},
        listener::{Bind, Listener, ListenerKey, Protocol, Role},
        mesh::TlsBounds,
        route::Route,
        tracing::{Tracing, TracingSettings},
    },
    snapshot::{IngressInputs, Problem, Snapshot},
};

/// What stands in the place of a sidecar's id.
pub(super) const NAME: &str = "ingress";

/// What the reverse proxy is called in traces when nothing else is said.
const SERVICE: &str = "aralez";

/// Adds the listeners of the reverse proxy to the snapshot.
pub(super) fn compile(inputs: &IngressInputs, tracing: &TracingSettings, last: &Snapshot, out: &mut Compiled) {
    for unusable in inputs.problems.values().flatten() {
        problem(out, &unusable.path, &unusable.why, &unusable.advice);
    }
    out.unserved.extend(inputs.awaited.iter().map(|what| format!("{NAME}: {what}")));
    let (Some(listeners), Some(routing)) = (&inputs.listeners, &inputs.routing) else {
        return out.missing.push(format!("{NAME}: routes"));
    };
    let Meshed { identity, routing, clusters } = mesh::compile(inputs, routing, last, out);
    let clusters = kept(clusters, last);
    let providers = Arc::new(providers(inputs, &routing, last));
    let tls = inputs.credentials.mesh.as_ref().map(|mesh| mesh.outgoing.clone()).unwrap_or_default();
    let tracing = listeners.tracing.resolve(tracing, SERVICE);
    let common = Common { last, access_log: &listeners.access_log, tracing, member: identity.map(|identity| (identity, tls)) };
    let https_port = listeners.tls.as_ref().map(|tls| tls.public_port.unwrap_or_else(|| port(&tls.bind)));
    let ingress = |tls| Ingress {
        tls,
        routing: routing.clone(),
        clusters: clusters.clone(),
        providers: providers.clone(),
        client: listeners.client.clone(),
        https_port,
        challenges: inputs.challenges.clone(),
        sealing: listeners.sealing.clone(),
    };
    if let Some(bind) = &listeners.http {
        common.add(out, "http", bind, ingress(None));
    }
    if let Some(tls) = &listeners.tls {
        match certificates(inputs) {
            None => out.missing.push(format!("{NAME}: certificates")),
            // While an ACME server asks, there may be nothing to show but its challenge.
            Some(none) if none.pairs.is_empty() && inputs.challenges.tls_alpn.is_empty() => {
                problem(out, "certificates", "there is none, so TLS is not served", "put NAME.crt and NAME.key into the folder");
            }
            Some(certificates) => {
                let tls_parts = IngressTls { grade: tls.grade, certificates, client_auth: tls.client_auth.clone(), hsts: tls.hsts };
                common.add(out, "https", &tls.bind, ingress(Some(tls_parts)));
            }
        }
    }
    if let Some((bind, files)) = &listeners.files {
        let routing = Arc::new(only_files(files));
        let (clusters, providers) = Default::default();
        Common { member: None, ..common }.add(out, "files", bind, Ingress { routing, clusters, providers, ..ingress(None) });
    }
}

/// All certificates. Whoever asks for no name that any has is shown one of the folder, as long as there is one.
fn certificates(inputs: &IngressInputs) -> Option<Arc<Certificates>> {
    let folder = inputs.folder.as_ref()?;
    if inputs.cluster_pairs.is_empty() {
        return Some(folder.clone());
    }
    let mut pairs: Vec<_> = folder.pairs.iter().chain(&inputs.cluster_pairs).cloned().collect();
    pairs.sort_by(|one, other| one.name.cmp(&other.name));
    let first = || folder.pairs.first().map(|pair| pair.name.clone());
    Some(Arc::new(Certificates { pairs, default: folder.default.clone().or_else(first) }))
}

/// What all listeners have.
struct Common<'a> {
    last: &'a Snapshot,
    access_log: &'a Arc<AccessLog>,
    tracing: Option<Arc<Tracing>>,
    /// Who we are in the mesh, and the mesh entry's bounds for calls there.
    member: Option<(Arc<Identity>, TlsBounds)>,
}

impl Common<'_> {
    fn add(&self, out: &mut Compiled, name: &str, bind: &Bind, ingress: Ingress) {
        let (identity, tls) = self.member.clone().unzip();
        let listener = Listener {
            key: ListenerKey { sidecar: NAME.into(), name: name.into() },
            service: ServiceName::local(NAME),
            bind: bind.clone(),
            protocol: Protocol::Http,
            identity,
            tls: tls.unwrap_or_default(),
            access_log: self.access_log.clone(),
            tracing: self.tracing.clone(),
            role: Role::Ingress(Box::new(ingress)),
        };
        let same = self.last.listeners.get(&listener.key).filter(|last| ***last == listener).cloned();
        out.snapshot.listeners.insert(listener.key.clone(), same.unwrap_or_else(|| Arc::new(listener)));
    }
}

pub(super) fn problem(out: &mut Compiled, path: &str, why: &str, advice: &str) {
    out.snapshot.problems.push(Problem { sidecar: NAME.to_owned(), path: path.to_owned(), why: why.to_owned(), advice: advice.to_owned() });
}

fn port(bind: &Bind) -> u16 {
    match &bind.address {
        crate::model::listener::Address::Tcp(address) => address.port(),
        crate::model::listener::Address::Unix(_) => 443,
    }
}

/// The clusters; those that did not change keep their `Arc`.
fn kept(clusters: Vec<Cluster>, last: &Snapshot) -> Vec<Arc<Cluster>> {
    let known = last.listeners.values().find_map(|listener| match &listener.role {
        Role::Ingress(ingress) if !ingress.clusters.is_empty() => Some(&ingress.clusters),
        _ => None,
    });
    let kept = clusters.into_iter().enumerate().map(|(place, cluster)| {
        // Unchanged routings keep their pools' places; otherwise the cluster is looked for.
        let at_place = known.and_then(|known| known.get(place)).filter(|known| ***known == cluster);
        let same = at_place.or_else(|| known?.iter().find(|known| ***known == cluster));
        same.cloned().unwrap_or_else(|| Arc::new(cluster))
    });
    kept.collect()
}

/// The cluster of a pool of servers.
pub(super) fn cluster(inputs: &IngressInputs, pool: &Pool) -> Cluster {
    Cluster {
        target: pool.id.clone(),
        service: ServiceName::local(&pool.id.0),
        datacenter: "".into(),
        trust: Trust::Servers { tls: pool.tls.clone(), proxy_header: pool.proxy_header },
        subset: Subset::default(),
        protocol: Protocol::Http,
        connect_timeout: pool.connect_timeout,
        balance: pool.balance.clone(),
        limits: pool.limits,
        passive: pool.passive,
        endpoints: inputs.endpoints.get(&pool.id).cloned().unwrap_or_else(|| Arc::new([])),
    }
}

/// The token issuers of the routing's filters, with their keys as far as they are known; those that did not change keep their `Arc`, by which the data
/// plane remembers their tokens.
fn providers(inputs: &IngressInputs, routing: &Routing, last: &Snapshot) -> Providers {
    let known = last.listeners.values().find_map(|listener| match &listener.role {
        Role::Ingress(ingress) if !ingress.providers.is_empty() => Some(&ingress.providers),
        _ => None,
    });
    let auths = routing.routes.iter().filter_map(|route| match &route.filters.auth.as_ref()?.kind {
        AuthKind::Jwt(jwt) => Some(jwt),
        _ => None,
    });
    let provider = |jwt: &crate::model::ingress::auth::JwtAuth| {
        let keys = match &jwt.entry.keys {
            KeySource::Entry(keys) => Ok(keys.clone()),
            KeySource::Nowhere(why) => Err(why.clone()),
            KeySource::Place(place) => match inputs.keys.get(place) {
                Some(keys) => keys.clone().map_err(Into::into),
                None => Err("its keys have not been read yet".into()),
            },
        };
        let provider = Provider { entry: jwt.entry.clone(), keys };
        let same = known.and_then(|known| known.get(&jwt.provider)).filter(|known| ***known == provider);
        (jwt.provider.clone(), same.cloned().unwrap_or_else(|| Arc::new(provider)))
    };
    auths.map(provider).collect()
}

/// The routing of the file server: every name and path is a file.
fn only_files(files: &Files) -> Routing {
    let mut paths = Paths::default();
    paths.insert("/", 0);
    let mut hosts = Hosts::default();
    hosts.insert("*", paths);
    let route = IngressRoute {
        route: Route { name: "files".into(), ..Route::to(Vec::new()) },
        further: Vec::new(),
        action: Action::Files(files.clone()),
        filters: Arc::new(Filters::default()),
    };
    Routing { hosts, routes: vec![route], pools: Vec::new() }
}
