//! The mesh entry: `GET /v1/config/mesh/mesh`.
//!
//! It changes a few times a year, so it is polled every 10 to 15 s rather than held: one connection less of the agent's
//! 200 (see [`super::client`]), for a change that takes those seconds longer.

use std::time::Duration;

use consul_api_types::{Blocking, ConfigEntry, Mesh, Query, Tenancy};

use super::{
    Agent, decode,
    watch::{Event, watch},
};
use crate::model::mesh::MeshConfig;

/// The shortest time between two reads.
const POLL: Duration = Duration::from_secs(10);

/// The entry, asked for without being held.
struct Polled(ConfigEntry<Mesh>);

impl Query for Polled {
    type Reply = Mesh;

    fn path(&self) -> String {
        self.0.path()
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        self.0.params()
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }

    fn absent_is_value(&self) -> bool {
        true
    }
}

/// Keeps the mesh entry fresh; no entry is the default one.
pub(super) async fn run(agent: &Agent, tell: impl Fn(MeshConfig)) {
    let state = agent.watches.register("mesh entry");
    // The entry lives in the default namespace of our partition.
    let tenancy = Tenancy { namespace: String::new(), ..agent.client.tenancy().clone() };
    watch(&agent.client, &Polled(ConfigEntry::new("mesh", tenancy)), POLL, &state, |event| {
        match event {
            Event::Value(mesh, _) => tell(decode::mesh::mesh(&mesh)?),
            Event::Absent => tell(MeshConfig::default()),
            Event::Failed(..) | Event::Doubtful => {}
        }
        Ok(())
    })
    .await;
}
