//! Pools in the mesh: who we are there, and what is known of the services that are called.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{
    Sources,
    observed::{Observed, Running, Shared},
    pool::Known,
};
use crate::{
    control::{consul::caller::Caller, reconciler::IngressChange},
    model::{identity::ServiceName, ingress::pool::MeshService},
    snapshot::{Credentials, UpstreamInputs},
};

/// What is followed at one agent.
#[derive(Debug, Default)]
pub struct Mesh {
    /// By who calls: whether all of its credentials are there. Themselves they go straight to the reconciler, since all pools share them.
    credentials: Shared<ServiceName, Running<bool>>,
    services: Shared<MeshService, Running<Arc<UpstreamInputs>>>,
}

/// Keeps what is known of a pool's service fresh until it is dropped.
pub async fn follow(service: &MeshService, sources: &Sources, now: &Observed<Known>) {
    let changed = Arc::new(Notify::new());
    let (credentials, reached) = (sources.credentials(&service.caller), sources.reached(service));
    credentials.now.observe(&changed);
    reached.now.observe(&changed);
    loop {
        let inputs = reached.now.get();
        let settled = credentials.now.get() && inputs.awaited().is_none();
        now.set(Known { service: Some(inputs), settled, ..Known::default() });
        changed.notified().await;
    }
}

impl Sources {
    fn caller(&self) -> Result<Caller, String> {
        let agents = self.agents.as_ref().map_err(Clone::clone)?;
        Caller::new(agents, self.watches.clone()).ok_or_else(|| "no agent is named".to_owned())
    }

    fn credentials(&self, service: &ServiceName) -> Arc<Running<bool>> {
        self.mesh.credentials.get_or(service, || {
            let note = self.notes.note("consul", format!("credentials of {service}"));
            let (caller, feed, service) = (self.caller(), self.feed.clone(), service.clone());
            Running::start(false, |now| async move {
                let caller = match caller {
                    Ok(caller) => caller,
                    Err(why) => {
                        now.set(true);
                        note.set(why, "correct the section `consul`");
                        // What is noted stands as long as this does.
                        return std::future::pending().await;
                    }
                };
                let tell = |credentials: Credentials| {
                    let complete = credentials.leaf.is_some() && credentials.roots.is_some();
                    feed.send(IngressChange::Credentials(Box::new(credentials)));
                    now.set(complete);
                };
                caller.credentials(&service, tell).await;
            })
        })
    }

    fn reached(&self, service: &MeshService) -> Arc<Running<Arc<UpstreamInputs>>> {
        self.mesh.services.get_or(service, || {
            let (caller, service) = (self.caller(), service.clone());
            Running::start(Arc::default(), |now| async move {
                let Ok(caller) = caller else { return };
                caller.service(&service, move |inputs| now.set(Arc::new(inputs))).await;
            })
        })
    }
}
