//! Consul as the source: watches of the local agent's HTTP API, one file each, started and stopped as the registration asks.
//!
//! ```text
//! registration ─┬─ roots, leaf, intentions, default policy, mesh entry
//!               │     └─ jwt providers, if an intention asks for tokens ── keys of each one that is asked for
//!               └─ chain of each upstream ── endpoints of each distinct (service, datacenter, filter)
//! ```
//!
//! Wire types stay in this room: `decode` turns them into the model.

mod address;
pub mod caller;
mod caught_up;
mod chain;
mod checks;
mod client;
mod decode;
mod default_policy;
mod endpoints;
pub(super) mod error;
mod inquiry;
mod intentions;
mod jwt;
mod leaf;
mod mesh;
mod names;
mod query;
mod registration;
mod roots;
pub mod services;
mod supervisor;
mod survey;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consul_api_types::Tenancy;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::{
    address::ConfigProblem,
    client::{Answer, At, Client},
    error::Error,
    inquiry::{Inquiry, Unanswered},
    survey::survey,
};
use self::{names::Names, supervisor::Supervisor};
use super::{
    reconciler::{Change, Feed, SidecarFeed},
    watches::Watches,
};
use crate::{
    config::agent::ProxySelector,
    model::{
        cluster::Endpoint,
        identity::ServiceName,
        intention::DefaultPolicy,
        jwt::ProviderEntry,
        registration::{Chain, ExposedCheck, Registration, UpstreamKey},
    },
};

/// The pause between answers that should have been held, but carried no index.
const POLL: Duration = Duration::from_secs(10);

/// Failures in a row after which something that was never read is given up on for the time being: 12 s of pauses on average,
/// longer than an election of Consul's servers takes.
const GIVE_UP_AFTER: u32 = 6;

/// Why the source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not said which of several proxies is meant: wrong usage.
    #[error("more than one sidecar proxy is registered for {service}: {ids}; choose one with -proxy-id")]
    SeveralSidecars {
        /// The service's ID as given, or Nomad's allocation.
        service: String,
        /// The proxies' ids.
        ids: String,
    },
}

/// Why a proxy was not found.
#[derive(Debug, thiserror::Error)]
pub enum Unfound {
    /// The agent gave no answer.
    #[error(transparent)]
    Agent(#[from] Error),
    /// No proxy represents the service.
    #[error("No sidecar proxy registered for {0}; register one, or use its service's ID")]
    NoSidecar(String),
    /// There is no such registration.
    #[error("{0} is not registered at this agent")]
    NoProxy(String),
    /// It is not clear which one is meant.
    #[error(transparent)]
    Several(#[from] RunError),
}

/// The id of the selected proxy, asked for once.
///
/// # Errors
/// [`Unfound`].
pub async fn look(client: &Client, selector: &ProxySelector) -> Result<Arc<str>, Unfound> {
    registration::look(client, selector).await
}

/// What a watch reports to the supervisor, which passes it on and adjusts the other watches to it.
#[derive(Debug)]
enum Found {
    /// Which token issuers the intentions name.
    Required(BTreeSet<Arc<str>>),
    Providers(Result<Vec<Arc<ProviderEntry>>, String>),
    Registration(Arc<Registration>),
    Gone,
    Chain(UpstreamKey, Result<Arc<Chain>, String>),
    /// The exposed checks of the app.
    Checks(Vec<ExposedCheck>),
    /// A prepared query was executed: what it comes to, and the instances.
    Queried(UpstreamKey, Arc<Chain>, Arc<[Arc<Endpoint>]>),
}

/// The agent, as watches ask it; cheap to clone.
#[derive(Clone, Debug)]
struct Agent {
    client: Client,
    watches: Arc<Watches>,
    names: Arc<Names>,
}

/// What every watch of one sidecar works with.
#[derive(Clone)]
struct Context {
    agent: Agent,
    feed: SidecarFeed,
    found: mpsc::UnboundedSender<Found>,
    /// What holds for callers that no intention names while the agent cannot tell.
    fallback: Option<DefaultPolicy>,
}

impl Context {
    /// Reports to the supervisor; when that has ended, so will the watch.
    fn found(&self, found: Found) {
        let _ = self.found.send(found);
    }
}

/// Keeps everything that the selected proxy needs fresh, and brings changes to `feed`, until `shutdown`. `fallback` is the default
/// intention policy that holds while the agent cannot tell; without one it is unknown then, and denies.
///
/// # Errors
/// [`RunError`] when it is not clear which proxy is meant. A proxy that is not registered (yet) is waited for.
pub async fn run(
    client: Client,
    selector: ProxySelector,
    fallback: Option<DefaultPolicy>,
    feed: Feed,
    watches: Arc<Watches>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let looking = watches.register("registration");
    // Readiness names what is waited for from the first moment on.
    let sought = feed.sidecar(match &selector {
        ProxySelector::ProxyId(id) => id.clone(),
        whose => format!("sidecar for {whose}"),
    });
    sought.send(Change::RegistrationGone);
    let Some(id) = shutdown.run_until_cancelled(registration::find(&client, &selector, &looking)).await.transpose()? else {
        return Ok(());
    };
    drop(looking);
    sought.send(Change::Forget);
    feed.sidecar(id.clone()).send(Change::RegistrationGone);
    info!(proxy = %id, "working for this proxy");
    let (found, reports) = mpsc::unbounded_channel();
    let agent = Agent { client, watches, names: Arc::new(Names::new()) };
    let context = Context { agent, feed: feed.sidecar(id.clone()), found, fallback };
    Supervisor::new(context, id, reports).run(shutdown).await;
    Ok(())
}

/// Where a service lives, as queries say it.
fn tenancy(service: &ServiceName) -> Tenancy {
    Tenancy { namespace: service.namespace.to_string(), partition: service.partition.to_string() }
}

/// Whether something that was never read should no longer be waited for: the agent refuses it, or has failed often enough.
fn is_final(error: &Error, failures: u32) -> bool {
    failures >= GIVE_UP_AFTER || matches!(error, Error::Status { status, .. } if (400..500).contains(status) && *status != 429)
}
