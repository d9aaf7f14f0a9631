//! What the control plane has gathered, before it is checked: the last good value of everything.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    cluster::TargetId,
    credentials::{Leaf, Roots},
    intention::{DefaultPolicy, Intention},
    mesh::MeshConfig,
    registration::{Chain, EndpointsByTarget, Registration, UpstreamKey},
};

/// The inputs of all sidecars of this process, by proxy id. One for `connect`, several for `dev`.
pub type Inputs = BTreeMap<Arc<str>, SidecarInputs>;

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
    /// What is known of each upstream.
    pub upstreams: BTreeMap<UpstreamKey, UpstreamInputs>,
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
