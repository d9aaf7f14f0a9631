//! What the sources of the reverse proxy tell the reconciler.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::Fed;
use crate::{
    model::{
        cluster::{Endpoint, TargetId},
        ingress::{CertificatePair, Certificates, Challenges, IngressListeners, PoolEndpoints, Routing},
        jwt::{KeyPlace, KeySet},
        registration::Unusable,
    },
    snapshot::{Credentials, IngressInputs, PoolServices, UpstreamInputs},
};

/// Something new about the reverse proxy.
#[derive(Debug)]
pub enum IngressChange {
    /// Its listeners.
    Listeners(Arc<IngressListeners>),
    /// A new routing, with the endpoints of all its pools: the two come in one step, so that no request meets a route whose servers are not known yet.
    Routing {
        /// Which request goes where.
        routing: Arc<Routing>,
        /// The endpoints of its pools.
        endpoints: PoolEndpoints,
        /// What is known of the services that its pools reach in the mesh.
        services: PoolServices,
    },
    /// The endpoints of one pool, all of them; a pool that the routing does not have is passed over.
    Endpoints {
        /// The pool.
        pool: TargetId,
        /// Its endpoints.
        endpoints: Arc<[Arc<Endpoint>]>,
    },
    /// What is known of the service that a pool reaches in the mesh; a pool that the routing does not have is passed over.
    Service {
        /// The pool.
        pool: TargetId,
        /// What is known.
        known: Arc<UpstreamInputs>,
    },
    /// Who we are in the mesh, as far as that is known.
    Credentials(Box<Credentials>),
    /// The certificates of the folder.
    Certificates(Arc<Certificates>),
    /// Those of Ingresses, all of them.
    ClusterCertificates(Vec<Arc<CertificatePair>>),
    /// What ACME servers ask for.
    Challenges(Arc<Challenges>),
    /// The keys of a place, or why they could not be read; those known before stay then.
    Keys {
        /// The place.
        place: KeyPlace,
        /// Its keys.
        keys: Result<Arc<KeySet>, String>,
    },
    /// What is awaited of a cluster before it is ready, all of it.
    Awaited(Vec<String>),
    /// All that is wrong with one source at present; empty once it is well.
    Problems {
        /// Names the source: `upstreams`, `certificates`, `dns`, `acme`.
        source: Arc<str>,
        /// What is wrong.
        problems: Vec<Unusable>,
    },
}

/// Where the sources of the reverse proxy bring their changes; cheap to clone.
#[derive(Clone, Debug)]
pub struct IngressFeed {
    pub(super) changes: mpsc::UnboundedSender<Fed>,
}

impl IngressFeed {
    /// Hands over a change. Once the reconciler has ended, changes go nowhere: the process is shutting down.
    pub fn send(&self, change: IngressChange) {
        let _ = self.changes.send(Fed::Ingress(change));
    }

    /// Waits until everything that was sent so far is published; gives the generation that holds it. `None` when the process is shutting down.
    pub async fn published(&self) -> Option<u64> {
        let (done, published) = oneshot::channel();
        self.changes.send(Fed::Mark(done)).ok()?;
        published.await.ok()
    }
}

/// Applies a change to the inputs.
pub(super) fn apply(inputs: &mut IngressInputs, change: IngressChange) {
    match change {
        IngressChange::Listeners(listeners) => inputs.listeners = Some(listeners),
        IngressChange::Routing { routing, endpoints, services } => {
            let named: HashSet<_> = routing.key_places().collect();
            inputs.keys.retain(|place, _| named.contains(place));
            inputs.routing = Some(routing);
            inputs.endpoints = endpoints;
            inputs.services = services;
        }
        IngressChange::Endpoints { pool, endpoints } => {
            if has_pool(inputs, &pool) {
                inputs.endpoints.insert(pool, endpoints);
            }
        }
        IngressChange::Service { pool, known } => {
            if has_pool(inputs, &pool) {
                inputs.services.insert(pool, known);
            }
        }
        IngressChange::Credentials(credentials) => inputs.credentials.take(*credentials),
        IngressChange::Certificates(certificates) => inputs.folder = Some(certificates),
        IngressChange::ClusterCertificates(pairs) => inputs.cluster_pairs = pairs,
        IngressChange::Challenges(challenges) => inputs.challenges = challenges,
        IngressChange::Keys { place, keys } => {
            if keys.is_ok() || !matches!(inputs.keys.get(&place), Some(Ok(_))) {
                inputs.keys.insert(place, keys);
            }
        }
        IngressChange::Awaited(awaited) => inputs.awaited = awaited,
        IngressChange::Problems { source, problems } => {
            inputs.problems.insert(source, problems);
        }
    }
}

fn has_pool(inputs: &IngressInputs, pool: &TargetId) -> bool {
    inputs.routing.as_ref().is_some_and(|routing| routing.pools.iter().any(|known| known.id == *pool))
}
