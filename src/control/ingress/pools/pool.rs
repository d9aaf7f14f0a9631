//! One pool: from its servers, as far as they are known, to its endpoints.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use tokio::sync::Notify;

use super::{
    Sources, mesh,
    names::Addresses,
    observed::{Observed, Running},
    server::{Judgement, Server},
};
use crate::{
    control::consul::services::Instances,
    model::{
        cluster::{Dial, Endpoint, Health},
        ingress::{
            self, PoolSource, ServerHost,
            pool::{Pool, Scheme},
        },
        listener::Address,
    },
    snapshot::UpstreamInputs,
};

/// The largest share of an endpoint.
const LARGEST_WEIGHT: u32 = 128;

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its endpoints.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// What is known of the service that it reaches in the mesh, in their place.
    pub service: Option<Arc<UpstreamInputs>>,
    /// Whether each of its servers was looked up and asked.
    pub settled: bool,
}

/// Keeps the endpoints of a pool fresh until it is dropped.
pub async fn follow(pool: Arc<Pool>, sources: Arc<Sources>, now: Arc<Observed<Known>>) {
    let changed = Arc::new(Notify::new());
    let origin = match &pool.source {
        PoolSource::Servers(servers) => Origin::servers(servers, &sources, &changed),
        PoolSource::Consul(service) => Origin::instances(service.scheme, sources.service(service), &changed),
        PoolSource::Kubernetes(service) => Origin::instances(service.scheme, sources.kubernetes_service(service), &changed),
        PoolSource::Mesh(service) => return mesh::follow(service, &sources, &now).await,
    };
    let mut servers = HashMap::new();
    loop {
        let (members, mut settled) = origin.members();
        let mut used = HashMap::with_capacity(members.len());
        let mut judged = Vec::with_capacity(members.len());
        for member in members {
            let judgement = match server(&pool, &member) {
                None => Judgement { settled: true, ..Judgement::first(member.scheme) },
                Some(server) => {
                    let running = servers.remove(&server).unwrap_or_else(|| {
                        let running = sources.server(&server);
                        running.now.observe(&changed);
                        running
                    });
                    let judgement = running.now.get();
                    used.insert(server, running);
                    judgement
                }
            };
            settled &= judgement.settled;
            judged.push((member, judgement));
        }
        servers = used;
        let endpoints = endpoints(judged, &now.get().endpoints);
        now.set(Known { endpoints, settled, service: None });
        changed.notified().await;
    }
}

/// Where a pool's members come from.
enum Origin {
    Servers(Vec<(ingress::Server, Option<Arc<Running<Addresses>>>)>),
    Instances(Option<Scheme>, Arc<Running<Instances>>),
}

/// A server at one address.
struct Member {
    id: Arc<str>,
    address: Address,
    name: Arc<str>,
    scheme: Option<Scheme>,
    weight: u32,
    health: Health,
}

impl Origin {
    fn servers(servers: &[ingress::Server], sources: &Sources, changed: &Arc<Notify>) -> Self {
        let named = |server: &ingress::Server| match &server.host {
            ServerHost::Name(name, _) => {
                let addresses = sources.name(name);
                addresses.now.observe(changed);
                Some(addresses)
            }
            ServerHost::Ip(..) | ServerHost::Unix(_) => None,
        };
        Self::Servers(servers.iter().map(|server| (server.clone(), named(server))).collect())
    }

    fn instances(scheme: Option<Scheme>, instances: Arc<Running<Instances>>, changed: &Arc<Notify>) -> Self {
        instances.now.observe(changed);
        Self::Instances(scheme, instances)
    }

    /// The members as they are known, and whether all are.
    fn members(&self) -> (Vec<Member>, bool) {
        match self {
            Self::Servers(servers) => {
                let mut settled = true;
                let mut members = Vec::new();
                for (server, addresses) in servers {
                    let member = |id: String, address, name| Member {
                        id: id.into(),
                        address,
                        name,
                        scheme: server.scheme,
                        weight: server.weight,
                        health: Health::Passing,
                    };
                    let host = server.host.to_string();
                    match (&server.host, addresses) {
                        (ServerHost::Ip(ip, port), _) => {
                            members.push(member(host, Address::Tcp(SocketAddr::new(*ip, *port)), ip.to_string().into()));
                        }
                        (ServerHost::Unix(path), _) => members.push(member(host, Address::Unix(path.clone()), "localhost".into())),
                        (ServerHost::Name(name, port), Some(addresses)) => {
                            let addresses = addresses.now.get();
                            settled &= addresses.settled;
                            let at = |ip| member(format!("{host}/{ip}"), Address::Tcp(SocketAddr::new(ip, *port)), name.clone());
                            members.extend(addresses.list.iter().map(|ip| at(*ip)));
                        }
                        (ServerHost::Name(..), None) => {}
                    }
                }
                (members, settled)
            }
            Self::Instances(scheme, instances) => {
                let instances = instances.now.get();
                let member = |endpoint: &Arc<Endpoint>| Member {
                    id: endpoint.id.clone(),
                    address: endpoint.address.clone(),
                    name: match &endpoint.address {
                        Address::Tcp(address) => address.ip().to_string().into(),
                        Address::Unix(_) => "localhost".into(),
                    },
                    scheme: *scheme,
                    weight: endpoint.weight,
                    health: endpoint.health,
                };
                (instances.endpoints.iter().map(member).collect(), instances.settled)
            }
        }
    }
}

/// What must be asked of a member; `None` if nothing may be, or if its source says already that it is down.
fn server(pool: &Pool, member: &Member) -> Option<Server> {
    let check = pool.health.clone()?;
    (member.health != Health::Critical && member.weight > 0).then(|| Server {
        address: member.address.clone(),
        name: member.name.clone(),
        scheme: member.scheme,
        tls: pool.tls.clone(),
        proxy_header: pool.proxy_header,
        check,
    })
}

/// The endpoints, by id; those that did not change are the ones `before`.
///
/// One that nobody asked yet waits while another one is known to be healthy: it is not known what it speaks, and whether it is there.
fn endpoints(judged: Vec<(Member, Judgement)>, before: &[Arc<Endpoint>]) -> Arc<[Arc<Endpoint>]> {
    let some_healthy = judged.iter().any(|(member, known)| known.settled && known.healthy && member.health != Health::Critical);
    let mut by_id: BTreeMap<Arc<str>, Endpoint> = BTreeMap::new();
    for (member, known) in judged {
        if let Some(same) = by_id.get_mut(&member.id) {
            // Listed twice: twice the share.
            same.weight = (same.weight + member.weight).min(LARGEST_WEIGHT);
            continue;
        }
        let usable = known.healthy && (known.settled || !some_healthy);
        let endpoint = Endpoint {
            id: member.id,
            address: member.address,
            weight: member.weight,
            health: if usable { member.health } else { Health::Critical },
            dial: Some(Dial { name: member.name, scheme: known.scheme }),
        };
        by_id.insert(endpoint.id.clone(), endpoint);
    }
    let before: HashMap<&str, &Arc<Endpoint>> = before.iter().map(|endpoint| (&*endpoint.id, endpoint)).collect();
    let same = |endpoint: &Endpoint| before.get(&*endpoint.id).filter(|known| ****known == *endpoint).map(|known| Arc::clone(known));
    by_id.into_values().map(|endpoint| same(&endpoint).unwrap_or_else(|| Arc::new(endpoint))).collect()
}
