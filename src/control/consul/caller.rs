//! What a caller that is registered nowhere needs of the mesh: who it is, and what it calls. For the reverse proxy.
//!
//! ```text
//! credentials: leaf, roots, mesh entry
//! service:     discovery chain ── endpoints of each target
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use consul_api_types::{DiscoveryChain, HealthConnect};
use parking_lot::Mutex;
use tokio::sync::watch as slot;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Agent, chain,
    endpoints::{self, View},
    leaf, mesh, roots,
    services::Agents,
};
use crate::{
    control::watches::Watches,
    model::{
        cluster::TargetId,
        identity::ServiceName,
        ingress::pool::MeshService,
        registration::{Chain, Target, UpstreamKey},
    },
    snapshot::{Credentials, UpstreamInputs},
};

/// A caller, by the agent that it asks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Agent);

/// The watch of a target's instances, by all that it asks with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    target: TargetId,
    query: HealthConnect,
    local: bool,
    only_passing: bool,
}

/// What is known of a service, and who is told.
struct Known<T> {
    inputs: Mutex<UpstreamInputs>,
    tell: T,
}

impl<T: Fn(UpstreamInputs)> Known<T> {
    fn change(&self, change: impl FnOnce(&mut UpstreamInputs)) {
        let mut inputs = self.inputs.lock();
        change(&mut inputs);
        // Under the lock, so that none is told after a newer one.
        (self.tell)(inputs.clone());
    }
}

impl Caller {
    /// A caller that asks the first of these agents, and the next one when it does not answer.
    pub fn new(agents: &Agents, watches: Arc<Watches>) -> Option<Self> {
        let (client, names) = agents.any()?;
        Some(Self(Agent { client, watches, names }))
    }

    /// Waits until every agent was asked in vain.
    pub async fn silent(&self) {
        self.0.client.silent().await;
    }

    /// Keeps the credentials of `service` fresh and tells them whenever a part of them changes, until it is dropped.
    pub async fn credentials(&self, service: &ServiceName, tell: impl Fn(Credentials)) {
        let known = Mutex::new(Credentials::default());
        let change = |edit: &dyn Fn(&mut Credentials)| {
            let mut known = known.lock();
            edit(&mut known);
            tell(known.clone());
        };
        tokio::join!(
            leaf::run(&self.0, service, |leaf| change(&|known| known.leaf = Some(leaf.clone()))),
            roots::run(&self.0, |roots| change(&|known| known.roots = Some(roots.clone()))),
            mesh::run(&self.0, |mesh| change(&|known| known.mesh = Some(mesh.clone()))),
        );
    }

    /// Keeps what is known of a service fresh and tells it, until it is dropped.
    pub async fn service(&self, service: &MeshService, tell: impl Fn(UpstreamInputs) + Send + Sync + 'static) {
        let known = Arc::new(Known { inputs: Mutex::default(), tell });
        let key = service.key();
        let mut running = HashMap::new();
        chain::run(&self.0, &key, &query(service), |chain, compiled_for| {
            // Without a datacenter the chain is compiled for the agent's own; another one's instances are reached at their wide addresses.
            let own = service.datacenter.is_none().then_some(compiled_for);
            let wanted = chain.as_ref().ok().map(|chain| asked(chain, own));
            known.change(|inputs| inputs.take_chain(chain));
            // What cannot be followed leaves the last good chain in force.
            let Some(wanted) = wanted else { return };
            running.retain(|asked, _| wanted.contains(asked));
            for asked in wanted {
                running.entry(asked.clone()).or_insert_with(|| self.instances(asked, &key, &known));
            }
        })
        .await;
    }

    /// Starts to follow the instances of a target.
    fn instances<T>(&self, asked: Asked, upstream: &UpstreamKey, known: &Arc<Known<T>>) -> AbortOnDropHandle<()>
    where
        T: Fn(UpstreamInputs) + Send + Sync + 'static,
    {
        let (agent, known) = (self.0.clone(), known.clone());
        let Asked { target, query, local, only_passing } = asked;
        let (_, views) = slot::channel(Arc::from([View { upstream: upstream.clone(), target, only_passing }]));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let tell = |View { target, .. }, listed| known.change(|inputs| inputs.take_endpoints(target, listed));
            endpoints::run(&agent, &query, local, views, tell).await;
        }))
    }
}

/// The question for the chain of a service.
fn query(MeshService { service, datacenter, .. }: &MeshService) -> DiscoveryChain {
    DiscoveryChain {
        name: service.name.to_string(),
        tenancy: super::tenancy(service),
        compile_dc: datacenter.as_deref().unwrap_or_default().to_owned(),
        ..DiscoveryChain::default()
    }
}

/// What is asked for the targets of a chain. `own` is our datacenter.
fn asked(chain: &Chain, own: Option<&str>) -> HashSet<Asked> {
    let asked = |target: &Target| Asked {
        target: target.id.clone(),
        query: endpoints::query(target),
        local: own == Some(&*target.datacenter),
        only_passing: target.only_passing,
    };
    chain.targets.iter().map(asked).collect()
}
