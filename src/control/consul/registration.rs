//! Our own registration: `GET /v1/agent/service/<proxy id>`, held by content hash; and which one it is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consul_api_types::{AgentService, AgentServiceById, AgentServices, Proxy};
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
    if let ProxySelector::ProxyId(id) = selector {
        let query = AgentServiceById { id: id.clone(), tenancy: client.tenancy().clone() };
        let known = client.send(&query, &At::Now).await?.value;
        return known.map(|_| id.as_str().into()).ok_or_else(|| Unfound::NoProxy(id.clone()));
    }
    let query = AgentServices { filter: "Kind == \"connect-proxy\"".to_owned(), tenancy: client.tenancy().clone() };
    let services = client.send(&query, &At::Now).await?.value.unwrap_or_default();
    match selected(selector, services.into_values()).as_slice() {
        [id] => Ok(id.as_str().into()),
        [] => Err(Unfound::NoSidecar(selector.to_string())),
        several => Err(RunError::SeveralSidecars { service: selector.to_string(), ids: several.join(", ") }.into()),
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

/// The ids of the proxies that may be meant, sorted. Consul compares the ids of services without case.
fn selected(selector: &ProxySelector, all: impl Iterator<Item = AgentService>) -> Vec<String> {
    let meant = |id: &str, proxy: &Proxy| match selector {
        ProxySelector::ProxyId(wanted) => id == wanted,
        ProxySelector::SidecarFor(service) => proxy.destination_service_id.to_lowercase() == service.to_lowercase(),
        ProxySelector::NomadTask { allocation, group, service } => {
            id.starts_with(&format!("_nomad-task-{allocation}-group-{group}-"))
                && service.as_ref().is_none_or(|service| proxy.destination_service_name == *service)
        }
    };
    let ours = |s: &AgentService| s.kind == "connect-proxy" && s.proxy.as_ref().is_some_and(|proxy| meant(&s.id, proxy));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sidecar(id: &str, service: &str) -> AgentService {
        let proxy = json!({"DestinationServiceName": service, "DestinationServiceID": id.trim_end_matches("-sidecar-proxy")});
        serde_json::from_value(json!({"ID": id, "Kind": "connect-proxy", "Proxy": proxy})).unwrap()
    }

    #[test]
    fn nomads_sidecar_is_told_by_allocation_group_and_service() {
        let all = [
            sidecar("_nomad-task-a1-group-front-web-9100-sidecar-proxy", "web"),
            sidecar("_nomad-task-a1-group-front-api-9001-sidecar-proxy", "api"),
            sidecar("_nomad-task-a2-group-front-web-9100-sidecar-proxy", "web"),
            sidecar("_nomad-task-a2-group-back-db-5432-sidecar-proxy", "db"),
            sidecar("web-sidecar-proxy", "web"),
        ];
        let found = |allocation: &str, group: &str, service: Option<&str>| {
            let (allocation, group, service) = (allocation.to_owned(), group.to_owned(), service.map(str::to_owned));
            selected(&ProxySelector::NomadTask { allocation, group, service }, all.iter().cloned())
        };
        assert_eq!(found("a1", "front", Some("web")), ["_nomad-task-a1-group-front-web-9100-sidecar-proxy"]);
        assert_eq!(found("a2", "back", None), ["_nomad-task-a2-group-back-db-5432-sidecar-proxy"]);
        assert_eq!(found("a1", "front", None).len(), 2);
        assert!(
            found("a1", "back", None).is_empty() && found("a1", "front", Some("db")).is_empty() && found("a", "front", None).is_empty()
        );
    }
}
