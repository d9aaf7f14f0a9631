//! What the control plane has gathered, before it is checked: the last good value of everything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::model::{
    cluster::{Endpoint, TargetId},
    credentials::{Leaf, Roots},
    ingress::{CertificatePair, Certificates, Challenges, IngressListeners, PoolEndpoints, Routing},
    intention::{DefaultPolicy, Intention},
    jwt::{KeyPlace, KeySet, KeySource, ProviderEntry},
    mesh::MeshConfig,
    registration::{Chain, EndpointsByTarget, ExposedCheck, Registration, Target, Unusable, UpstreamKey},
    tracing::TracingSettings,
};

/// The inputs of this process.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Those of its sidecars, by proxy id. One for `connect`, several for `dev`.
    pub sidecars: BTreeMap<Arc<str>, SidecarInputs>,
    /// Those of the reverse proxy.
    pub ingress: Option<IngressInputs>,
    /// What holds for tracing where they say nothing.
    pub tracing: TracingSettings,
}

/// The inputs of the reverse proxy; `None` is "not arrived yet".
#[derive(Clone, Debug, Default)]
pub struct IngressInputs {
    /// Its listeners.
    pub listeners: Option<Arc<IngressListeners>>,
    /// Which request goes where.
    pub routing: Option<Arc<Routing>>,
    /// The endpoints of the routing's pools.
    pub endpoints: PoolEndpoints,
    /// The certificates of its folder, once that was read.
    pub folder: Option<Arc<Certificates>>,
    /// Those of Ingresses.
    pub cluster_pairs: Vec<Arc<CertificatePair>>,
    /// What ACME servers ask for.
    pub challenges: Arc<Challenges>,
    /// The last good keys of each place that the routing's token issuers name, or why there never were any.
    pub keys: HashMap<KeyPlace, Result<Arc<KeySet>, String>>,
    /// What is known of the services that pools reach in the mesh, by the pool.
    pub services: PoolServices,
    /// Who we are in the mesh.
    pub credentials: Credentials,
    /// What else is awaited before it is ready.
    pub awaited: Vec<String>,
    /// What is wrong beside the parts above, by source: a file that was not taken, a name that does not resolve.
    pub problems: BTreeMap<Arc<str>, Vec<Unusable>>,
}

/// What is known of the services that pools reach in the mesh, by the pool's id.
pub type PoolServices = BTreeMap<TargetId, Arc<UpstreamInputs>>;

/// What makes a member of the mesh of a caller that is registered nowhere; `None` is "not arrived yet".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Its leaf.
    pub leaf: Option<Leaf>,
    /// The roots.
    pub roots: Option<Roots>,
    /// The mesh entry.
    pub mesh: Option<MeshConfig>,
}

impl Credentials {
    /// Takes what newer ones have; what they have not stays, since another agent, asked from now on, tells one after the other.
    pub fn take(&mut self, newer: Self) {
        self.leaf = newer.leaf.or(self.leaf.take());
        self.roots = newer.roots.or(self.roots.take());
        self.mesh = newer.mesh.or(self.mesh.take());
    }
}

/// The inputs of one sidecar; `None` is "not arrived yet". A failed read leaves the last good value in place.
#[derive(Clone, Debug, Default)]
pub struct SidecarInputs {
    /// The proxy's registration.
    pub registration: Option<Arc<Registration>>,
    /// Our leaf.
    pub leaf: Option<Leaf>,
    /// The roots.
    pub roots: Option<Roots>,
    /// The intentions towards us.
    pub intentions: Option<Vec<Intention>>,
    /// The default intention policy; [`DefaultPolicy::Unknown`] once the agent was asked and cannot tell.
    pub default_policy: Option<DefaultPolicy>,
    /// The mesh entry; its default once it is known to be absent.
    pub mesh: Option<MeshConfig>,
    /// The app's checks, as far as they are exposed.
    pub exposed_checks: Vec<ExposedCheck>,
    /// What is known of the token issuers that the intentions name.
    pub tokens: TokenInputs,
    /// What is known of each upstream.
    pub upstreams: BTreeMap<UpstreamKey, UpstreamInputs>,
}

/// What is known of token issuers.
#[derive(Clone, Debug, Default)]
pub struct TokenInputs {
    /// The `jwt-provider` entries that the intentions name.
    pub required: BTreeSet<Arc<str>>,
    /// All entries, or why they could never be read; `None` is "not arrived yet".
    pub entries: Option<Result<Vec<Arc<ProviderEntry>>, String>>,
    /// The last good keys of each place that an entry names, or why there never were any.
    pub keys: HashMap<KeyPlace, Result<Arc<KeySet>, String>>,
}

impl TokenInputs {
    /// Whether the keys of a place are those of an entry that the intentions name.
    pub fn asks(&self, place: &KeyPlace) -> bool {
        let mut entries = self.entries.iter().flatten().flatten();
        entries.any(|entry| self.required.contains(&entry.name) && matches!(&entry.keys, KeySource::Place(named) if named == place))
    }

    /// Forgets the keys that nothing asks for any more.
    pub fn forget(&mut self) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.retain(|place, _| self.asks(place));
        self.keys = keys;
    }
}

/// What is known of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamInputs {
    /// The compiled chain, or why there is none that this version can follow.
    pub chain: Option<Result<Arc<Chain>, String>>,
    /// Why a newer chain than the good one in `chain` cannot be followed.
    pub refused: Option<String>,
    /// The instances of the chain's targets; a target that is neither here nor in `failed` has not answered yet.
    pub endpoints: EndpointsByTarget,
    /// Targets whose instances could never be read so far, with the agent's reason. They serve nothing, but hold nothing back.
    pub failed: BTreeMap<TargetId, String>,
}

impl UpstreamInputs {
    /// Takes a chain, or why there is none that can be followed: the good one stays in force then, and with it the news of its instances.
    pub fn take_chain(&mut self, chain: Result<Arc<Chain>, String>) {
        match (chain, &self.chain) {
            (Err(why), Some(Ok(_))) => self.refused = Some(why),
            (Err(why), _) => self.chain = Some(Err(why)),
            (Ok(chain), _) => {
                self.endpoints.retain(|id, _| has_target(&chain, id));
                self.failed.retain(|id, _| has_target(&chain, id));
                self.refused = None;
                self.chain = Some(Ok(chain));
            }
        }
    }

    /// Takes the instances of a target, or why they could not be read; a target that the chain does not have is passed over.
    pub fn take_endpoints(&mut self, target: TargetId, listed: Result<Arc<[Arc<Endpoint>]>, String>) {
        if !matches!(&self.chain, Some(Ok(chain)) if has_target(chain, &target)) {
            return;
        }
        match listed {
            Ok(endpoints) => {
                self.failed.remove(&target);
                self.endpoints.insert(target, endpoints);
            }
            Err(why) if !self.endpoints.contains_key(&target) => {
                self.failed.insert(target, why);
            }
            Err(_) => {}
        }
    }

    /// What has not arrived yet, if anything.
    pub fn awaited(&self) -> Option<String> {
        match &self.chain {
            None => Some("discovery chain".to_owned()),
            Some(Err(_)) => None,
            Some(Ok(chain)) => {
                let waits = |t: &&Target| !self.endpoints.contains_key(&t.id) && !self.failed.contains_key(&t.id);
                chain.targets.iter().find(waits).map(|t| format!("endpoints of {}", t.id))
            }
        }
    }
}

fn has_target(chain: &Chain, id: &TargetId) -> bool {
    chain.targets.iter().any(|t| t.id == *id)
}
