//! Whether the servers behind the agent know what they knew before they were restarted.
//!
//! A restarted server leads before it has applied its log, and answers meanwhile from a store that is empty or half full: no instances, no
//! intentions, no mesh entry, and chains without their protocol, each with 200 (404 for the entry). So does its agent, which merges
//! the registration from what the server says (all seen on Consul 1.20.1, for as long as the log took: from milliseconds to seconds). An
//! answer to a question asked `consistent` waits until the log is applied.
//!
//! So a question that starts afresh is always asked `consistent` (see [`super::client`]). What that does not reach, since it is decided
//! before the answer waits or by the agent itself (the rights of a token, the registration, the roots), is reached by asking this first.

use std::time::Duration;

use consul_api_types::{Blocking, ConfigEntry, ProxyDefaults, Query, Tenancy};
use serde::de::IgnoredAny;

use super::{
    client::{At, Client},
    error::Error,
};

/// How long a restarted agent has to take over what its servers say, once they have caught up; seen: 30 ms.
pub(super) const TAKEN_OVER: Duration = Duration::from_secs(1);

/// A question that needs no right and has a small answer: the `proxy-defaults` entry, whatever it says.
struct Anything(ConfigEntry<ProxyDefaults>);

impl Query for Anything {
    type Reply = IgnoredAny;

    fn path(&self) -> String {
        self.0.path()
    }

    fn blocking(&self) -> Blocking {
        Blocking::None
    }

    fn absent_is_value(&self) -> bool {
        true
    }
}

/// Waits until the servers have caught up.
///
/// # Errors
/// There is no leader, or it is not ready within the 7 s that the agent waits; the agent does not answer.
pub(super) async fn caught_up(client: &Client) -> Result<(), Error> {
    client.send(&Anything(ConfigEntry::new("global", Tenancy::default())), &At::Now).await.map(drop)
}
