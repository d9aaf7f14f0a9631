//! The instances of a service itself, for the reverse proxy: `GET /v1/health/service/<name>`, held by index, at the first agent that answers.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use consul_api_types::{HealthService, ServiceEntry, Tenancy};
use tokio::{
    sync::{Notify, watch as slot},
    time::sleep,
};

use super::{
    client::Client,
    decode::endpoints as decode,
    endpoints::keep_untested,
    error::Error,
    names::{Names, follow},
    watch::{Event, watch},
};
use crate::{
    config::agent::AgentConfig,
    control::watches::Watches,
    model::{cluster::Endpoint, ingress::pool::ConsulService},
};

/// The pause after a round in which no agent answered; doubled with each round …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known of a service's instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// All of them, the unhealthy ones too; those that were known last while nobody answers.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// Why they cannot be read.
    pub failed: Option<String>,
    /// Whether there was an answer, or a failure that is believed.
    pub settled: bool,
}

/// The agents of a cluster; cheap to clone.
#[derive(Clone, Debug)]
pub struct Agents {
    clients: Arc<[Client]>,
    names: Arc<Names>,
}

/// What was heard last.
#[derive(Clone, Debug, Default)]
struct Heard {
    entries: Arc<Vec<ServiceEntry>>,
    failed: Option<String>,
}

impl Agents {
    /// Prepares clients; without a configuration for the agent at the usual address. Nothing is asked yet.
    ///
    /// # Errors
    /// In words, when an address, certificate or key cannot be used.
    pub fn new(configs: &[AgentConfig]) -> Result<Self, String> {
        let usual = [AgentConfig { ssl_verify: true, ..AgentConfig::default() }];
        let configs = if configs.is_empty() { &usual } else { configs };
        let clients = configs.iter().cloned().map(Client::new).collect::<Result<_, _>>();
        Ok(Self { clients: clients.map_err(|problem| problem.to_string())?, names: Arc::new(Names::new()) })
    }

    /// A client of any of them, and what resolves the names in its answers.
    pub(super) fn any(&self) -> Option<(Client, Arc<Names>)> {
        Some((Client::of_any(&self.clients)?, self.names.clone()))
    }

    /// Keeps the instances of a service fresh and hands what is known of them to `tell`, until it is dropped.
    ///
    /// Instances with a failing check are marked, not left out: a restarted agent, which lists every check as critical until it has run, is told apart so.
    pub async fn follow(&self, service: &ConsulService, watches: &Arc<Watches>, tell: impl Fn(Instances)) {
        let (heard, values) = slot::channel::<Option<Heard>>(None);
        // Without a datacenter the agent answers for its own; another one is reached at its wide addresses.
        let local = service.datacenter.is_none();
        let telling = follow(
            &self.names,
            values,
            |heard: &Heard| if heard.entries.is_empty() { BTreeSet::new() } else { decode::hosts(&heard.entries, local) },
            |heard, names| {
                let endpoints = decode::endpoints(&heard.entries, local, false, names);
                tell(Instances { endpoints, failed: heard.failed.clone(), settled: true });
            },
        );
        tokio::join!(self.ask(service, watches, &heard), telling);
    }

    /// Asks one agent after the other, each for as long as it answers.
    async fn ask(&self, service: &ConsulService, watches: &Arc<Watches>, heard: &slot::Sender<Option<Heard>>) {
        let state = watches.register(name(service));
        let query = query(service);
        // Failures since the last answer, of all agents.
        let failures = AtomicU32::new(0);
        loop {
            for client in self.clients.iter() {
                let lost = Notify::new();
                let asking = watch(client, &query, super::POLL, &state, |event| {
                    match event {
                        Event::Value(entries, _) => {
                            failures.store(0, Relaxed);
                            take(heard, entries);
                        }
                        Event::Failed(error, _) => {
                            let failures = failures.fetch_add(1, Relaxed) + 1;
                            if super::is_final(&error, failures) || refuses(&error) {
                                fail(heard, &error);
                            }
                            lost.notify_one();
                        }
                        Event::Absent | Event::Doubtful => {}
                    }
                    Ok(())
                });
                if self.clients.len() == 1 {
                    asking.await;
                } else {
                    tokio::select! {
                        () = asking => {}
                        () = lost.notified() => {}
                    }
                }
            }
            let rounds = failures.load(Relaxed) / u32::try_from(self.clients.len()).unwrap_or(u32::MAX).max(1);
            sleep((FIRST_PAUSE * (1 << rounds.min(5))).min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}

/// Whether asking again will not help by itself: Consul's servers say so with 500 for a datacenter that nobody knows.
fn refuses(error: &Error) -> bool {
    matches!(error, Error::Status { text, .. } if text.contains("No path to datacenter"))
}

fn take(heard: &slot::Sender<Option<Heard>>, mut entries: Vec<ServiceEntry>) {
    if let Some(known) = &*heard.borrow() {
        keep_untested(&mut entries, &known.entries);
    }
    heard.send_replace(Some(Heard { entries: Arc::new(entries), failed: None }));
}

/// Notes a failure; what is known stays.
fn fail(heard: &slot::Sender<Option<Heard>>, error: &Error) {
    let why = format!("the instances cannot be read: {error}");
    heard.send_if_modified(|known| {
        let known = known.get_or_insert_default();
        let other = known.failed.as_ref() != Some(&why);
        known.failed = Some(why);
        other
    });
}

fn query(service: &ConsulService) -> HealthService {
    HealthService {
        service: service.name.to_string(),
        tenancy: Tenancy { namespace: text(&service.namespace), partition: String::new() },
        datacenter: text(&service.datacenter),
        tags: service.tags.iter().map(|tag| tag.to_string()).collect(),
    }
}

fn text(of: &Option<Arc<str>>) -> String {
    of.as_deref().unwrap_or_default().to_owned()
}

/// The watch's name in the admin API.
fn name(service: &ConsulService) -> String {
    let tags = if service.tags.is_empty() { String::new() } else { format!(" with {}", service.tags.join(", ")) };
    format!("instances {} {}{tags}", service.name, text(&service.datacenter))
}
