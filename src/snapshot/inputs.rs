//! What the control plane has gathered, before it is checked: the last good value of everything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::model::{
    cluster::TargetId,
    credentials::{Leaf, Roots},
    ingress::{CertificatePair, Certificates, Challenges, IngressListeners, PoolEndpoints, Routing},
    intention::{DefaultPolicy, Intention},
    jwt::{KeyPlace, KeySet, KeySource, ProviderEntry},
    mesh::MeshConfig,
    registration::{Chain, EndpointsByTarget, ExposedCheck, Registration, Unusable, UpstreamKey},
};

/// The inputs of this process.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Those of its sidecars, by proxy id. One for `connect`, several for `dev`.
    pub sidecars: BTreeMap<Arc<str>, SidecarInputs>,
    /// Those of the reverse proxy.
    pub ingress: Option<IngressInputs>,
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
    /// What is wrong beside the parts above, by source: a file that was not taken, a name that does not resolve.
    pub problems: BTreeMap<Arc<str>, Vec<Unusable>>,
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
#[derive(Clone, Debug, Default)]
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
