//! Our own registration: `GET /v1/agent/service/<proxy id>`, held by content hash; and which one it is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consul_api_types::{AgentService, AgentServiceById, AgentServices};
use tokio::{sync::watch as slot, time::sleep};
use tracing::info;

use super::{
    Context, Found, RunError,
    client::{At, Client},
    decode::{observability::ignored as ignored_in, registration as decode},
    names::follow,
    watch::{Event, watch},
};
use crate::{config::agent::ProxySelector, control::watches::Watch};

/// The pause between two looks for a registration that is not there.
const POLL: Duration = Duration::from_secs(1);

/// Finds the proxy's id; waits until there is one.
pub(super) async fn find(client: &Client, selector: &ProxySelector, state: &Watch) -> Result<Arc<str>, RunError> {
    let service = match selector {
        ProxySelector::ProxyId(id) => return Ok(id.as_str().into()),
        ProxySelector::SidecarFor(service) => service,
    };
    let query = AgentServices { filter: "Kind == \"connect-proxy\"".to_owned(), tenancy: client.tenancy().clone() };
    loop {
        match client.send(&query, &At::Now).await {
            Ok(answer) => match sidecars_of(service, answer.value.unwrap_or_default().into_values()).as_slice() {
                [id] => return Ok(id.as_str().into()),
                [] => state.failed(&format!("No sidecar proxy registered for {service}; register one, or use its service's ID"), POLL),
                several => return Err(RunError::SeveralSidecars { service: service.clone(), ids: several.join(", ") }),
            },
            Err(error) => state.failed(&error.to_string(), POLL),
        }
        sleep(POLL).await;
    }
}

/// The ids of the proxies that represent the instance with this id, sorted; Consul compares without case.
fn sidecars_of(service: &str, all: impl Iterator<Item = AgentService>) -> Vec<String> {
    let ours = |s: &AgentService| {
        s.kind == "connect-proxy" && s.proxy.as_ref().is_some_and(|p| p.destination_service_id.to_lowercase() == service.to_lowercase())
    };
    let mut ids: Vec<String> = all.filter(ours).map(|s| s.id).collect();
    ids.sort();
    ids
}

/// Keeps the registration fresh and reports it. Once it is gone, it is looked for every second or so.
pub(super) async fn run(context: &Context, id: &str) {
    let state = context.watches.register("registration");
    let query = AgentServiceById { id: id.to_owned(), tenancy: context.client.tenancy().clone() };
    // Present, or known to be absent.
    let (latest, values) = slot::channel::<Option<Option<Arc<AgentService>>>>(None);
    let mut ignored = Vec::new();
    let asking = watch(&context.client, &query, POLL, &state, |event| {
        match event {
            Event::Value(service, _) => {
                let now = ignored_in(&service);
                if now != ignored && !now.is_empty() {
                    let settings: Vec<&str> = now.iter().map(|setting| setting.path.as_str()).collect();
                    info!(?settings, "settings of the registration that mean nothing here; /snapshot of the admin API says why");
                }
                ignored = now;
                latest.send_replace(Some(Some(Arc::new(service))));
            }
            Event::Absent => {
                latest.send_replace(Some(None));
                return Err(format!("{id} is not registered at this agent; nothing is served until it is"));
            }
            Event::Failed(..) | Event::Doubtful => {}
        }
        Ok(())
    });
    let hosts = |service: &Option<Arc<AgentService>>| service.as_deref().map_or_else(BTreeSet::new, decode::hosts);
    let telling = follow(&context.names, values, hosts, |service, names| match service.as_deref() {
        Some(service) => match decode::registration(service, names) {
            Ok(registration) => context.found(Found::Registration(Arc::new(registration))),
            Err(why) => state.unusable(&why),
        },
        None => context.found(Found::Gone),
    });
    tokio::join!(asking, telling);
}
