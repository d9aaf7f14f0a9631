//! Pools in the mesh: who we are there, and what is known of the services that are called.

use std::sync::{Arc, OnceLock};

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
    /// The one that asks, made when it is first needed: whatever pools ask, one agent is turned away from once.
    caller: OnceLock<Result<Caller, String>>,
    /// By who calls: how it stands with its credentials. Themselves they go straight to the reconciler, since all pools share them.
    credentials: Shared<ServiceName, Running<Standing>>,
    services: Shared<MeshService, Running<Arc<UpstreamInputs>>>,
}

/// How it stands with credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Awaited,
    Complete,
    /// They cannot be asked for, or no agent answers: nothing waits for them.
    Unknown,
}

/// Keeps what is known of a pool's service fresh until it is dropped.
pub async fn follow(service: &MeshService, sources: &Sources, now: &Observed<Known>) {
    let changed = Arc::new(Notify::new());
    let (credentials, reached) = (sources.credentials(&service.caller), sources.reached(service));
    credentials.now.observe(&changed);
    reached.now.observe(&changed);
    loop {
        let inputs = reached.now.get();
        let settled = match credentials.now.get() {
            Standing::Awaited => false,
            Standing::Complete => inputs.awaited().is_none(),
            Standing::Unknown => true,
        };
        now.set(Known { service: Some(inputs), settled, ..Known::default() });
        changed.notified().await;
    }
}

impl Sources {
    fn caller(&self) -> Result<Caller, String> {
        let make = || {
            let agents = self.agents.as_ref().map_err(Clone::clone)?;
            Caller::new(agents, self.watches.clone()).ok_or_else(|| "no agent is named".to_owned())
        };
        self.mesh.caller.get_or_init(make).clone()
    }

    fn credentials(&self, service: &ServiceName) -> Arc<Running<Standing>> {
        self.mesh.credentials.get_or(service, || {
            let note = self.notes.note("consul", format!("credentials of {service}"));
            let (caller, feed, service) = (self.caller(), self.feed.clone(), service.clone());
            Running::start(Standing::default(), |now| async move {
                let caller = match caller {
                    Ok(caller) => caller,
                    Err(why) => {
                        now.set(Standing::Unknown);
                        note.set(why, "correct the section `consul`");
                        // What is noted stands as long as this does.
                        return std::future::pending().await;
                    }
                };
                let tell = |credentials: Credentials| {
                    let complete = credentials.leaf.is_some() && credentials.roots.is_some();
                    feed.send(IngressChange::Credentials(Box::new(credentials)));
                    now.set(if complete { Standing::Complete } else { Standing::Awaited });
                };
                let silent = async {
                    caller.silent().await;
                    now.set(Standing::Unknown);
                };
                tokio::join!(caller.credentials(&service, tell), silent);
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
