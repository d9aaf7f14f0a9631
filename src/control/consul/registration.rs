//! Our own registration: `GET /v1/agent/service/<proxy id>`, held by content hash; and which one it is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consul_api_types::{AgentService, AgentServiceById, AgentServices};
use tokio::{sync::watch as slot, time::sleep};
use tracing::info;

use super::{
    Context, Found, RunError, Unfound,
    client::{At, Client},
    decode::{observability::ignored as ignored_in, registration as decode},
    names::follow,
    watch::{Event, watch},
};
use crate::{config::agent::ProxySelector, control::watches::Watch};

/// The pause between two looks for a registration that is not there.
const POLL: Duration = Duration::from_secs(1);

/// Asks once which proxy is meant.
///
/// # Errors
/// The agent does not answer; there is no such proxy; there are several.
pub(super) async fn look(client: &Client, selector: &ProxySelector) -> Result<Arc<str>, Unfound> {
    match selector {
        ProxySelector::SidecarFor(service) => {
            let query = AgentServices { filter: "Kind == \"connect-proxy\"".to_owned(), tenancy: client.tenancy().clone() };
            let services = client.send(&query, &At::Now).await?.value.unwrap_or_default();
            match sidecars_of(service, services.into_values()).as_slice() {
                [id] => Ok(id.as_str().into()),
                [] => Err(Unfound::NoSidecar(service.clone())),
                several => Err(RunError::SeveralSidecars { service: service.clone(), ids: several.join(", ") }.into()),
            }
        }
        ProxySelector::ProxyId(id) => {
            let query = AgentServiceById { id: id.clone(), tenancy: client.tenancy().clone() };
            let known = client.send(&query, &At::Now).await?.value;
            known.map(|_| id.as_str().into()).ok_or_else(|| Unfound::NoProxy(id.clone()))
        }
    }
}

/// Finds the proxy's id; waits until there is one.
pub(super) async fn find(client: &Client, selector: &ProxySelector, state: &Watch) -> Result<Arc<str>, RunError> {
    if let ProxySelector::ProxyId(id) = selector {
        return Ok(id.as_str().into());
    }
    loop {
        match look(client, selector).await {
            Ok(id) => return Ok(id),
            Err(Unfound::Several(error)) => return Err(error),
            Err(why) => state.failed(&why.to_string(), POLL),
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
    let state = context.agent.watches.register("registration");
    let query = AgentServiceById { id: id.to_owned(), tenancy: context.agent.client.tenancy().clone() };
    // Present, or known to be absent.
    let (latest, values) = slot::channel::<Option<Option<Arc<AgentService>>>>(None);
    let mut ignored = Vec::new();
    let asking = watch(&context.agent.client, &query, POLL, &state, |event| {
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
    let telling = follow(&context.agent.names, values, hosts, |service, names| match service.as_deref() {
        Some(service) => match decode::registration(service, names) {
            Ok(registration) => context.found(Found::Registration(Arc::new(registration))),
            Err(why) => state.unusable(&why),
        },
        None => context.found(Found::Gone),
    });
    tokio::join!(asking, telling);
}
