//! `aralez dev`: a catalog in memory, with a CA of its own, in place of Consul.
//!
//! It says the same things through the same [`Feed`] as Consul does: only the source differs, and every part behind it (compile,
//! identity, mTLS, intentions, balancing) is the one that `aralez connect` uses. Apps that the user does not bring are demo apps.

mod ca;
mod catalog;
mod demo;
mod plan;

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::plan::Plan;
use self::{ca::Ca, demo::DemoApp};
use super::reconciler::{Change, Feed, SidecarFeed};
use crate::{
    config::mesh_file::MeshFile,
    model::{credentials::Leaf, identity::SpiffeId, mesh::MeshConfig},
};

/// How long a leaf is valid: Consul's default (`LeafCertTTL`).
const LEAF_VALIDITY: Duration = Duration::from_secs(72 * 3600);

/// A mesh whose ports are chosen and whose demo apps are bound; nothing is served yet.
#[derive(Debug)]
pub struct Mesh {
    plan: Plan,
    apps: Vec<DemoApp>,
    ca: Ca,
}

impl Mesh {
    /// Binds the demo apps, chooses the free ports, and makes the CA. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When a demo app's port is taken or a key cannot be made; the message says what to do.
    pub fn prepare(file: MeshFile) -> anyhow::Result<Self> {
        let (plan, apps) = plan::make(file)?;
        let ca = Ca::new().context("cannot make the CA of the mesh")?;
        Ok(Self { plan, apps, ca })
    }

    /// What runs where.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Feeds every sidecar, renews leaves when half of their time is over, and serves the demo apps, until `shutdown`.
    ///
    /// # Errors
    /// When a leaf cannot be made or a demo app fails.
    pub async fn run(self, feed: Feed, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { plan, apps, ca } = self;
        let mut sidecars = Vec::new();
        for service in &plan.services {
            let (id, sidecar) = (ca::id(&service.name)?, feed.sidecar(service.proxy_id()));
            sidecar.send(Change::Registration(service.registration().into()));
            sidecar.send(Change::Roots(ca.roots()?));
            sidecar.send(Change::Leaf(leaf(&ca, &id)?));
            sidecar.send(Change::Mesh(MeshConfig::default()));
            sidecar.send(Change::DefaultPolicy(plan.default_policy));
            sidecar.send(Change::Intentions(plan.intentions_towards(&service.name)));
            plan.tell_upstreams(service, &sidecar);
            sidecars.push((id, sidecar));
        }
        let mut tasks = JoinSet::new();
        for app in apps {
            tasks.spawn(app.serve(shutdown.clone()));
        }
        tasks.spawn(renew(ca, sidecars, shutdown));
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task of the mesh broke")??;
        }
        Ok(())
    }
}

fn leaf(ca: &Ca, id: &SpiffeId) -> anyhow::Result<Leaf> {
    ca.leaf(id, LEAF_VALIDITY).with_context(|| format!("cannot make the leaf of {id}"))
}

async fn renew(ca: Ca, sidecars: Vec<(SpiffeId, SidecarFeed)>, shutdown: CancellationToken) -> anyhow::Result<()> {
    while shutdown.run_until_cancelled(tokio::time::sleep(LEAF_VALIDITY / 2)).await.is_some() {
        for (id, sidecar) in &sidecars {
            sidecar.send(Change::Leaf(leaf(&ca, id)?));
            debug!(%id, "leaf renewed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
