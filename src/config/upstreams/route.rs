//! A path made into a route with its pools.

use std::{sync::Arc, time::Duration};

use super::{policy::Policy, raw::RawPath};
use crate::{
    config::{fault::Check, read, shape::At, tree::Key},
    model::{
        balance::{Limits, PassiveHealth},
        cluster::TargetId,
        ingress::{Action, IngressRoute, Pool, PoolSource, Server, filters::Redirect, pool::ServerTls},
        matching::{PathMatch, TextMatch},
        route::{HeaderEdits, Leg, Route, RouteMatch},
    },
};

/// How long a request may stand still if the file does not say: nginx's `proxy_read_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long connecting to a server may take if the file does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The route of a path, whose pools are added to `pools`; `None` after a fault was told.
pub(super) fn route(
    name: &str,
    path: &Key,
    raw: RawPath,
    policy: Policy,
    pools: &mut Vec<Arc<Pool>>,
    check: &mut Check,
) -> Option<IngressRoute> {
    let action = action(&raw, check);
    let Policy { filters, headers, balance, health, .. } = policy;
    let mut places = Vec::new();
    if action == Action::Forward {
        let (main, backup) = servers(&raw, check);
        if raw.servers.is_none() {
            check.fault(&path.place, format!("the path {:?} leads nowhere", path.text), "give it servers or redirect_to");
        }
        for (suffix, servers) in [("", main), ("#backup", backup)] {
            if servers.is_empty() && !suffix.is_empty() {
                continue;
            }
            places.push(pools.len());
            pools.push(Arc::new(Pool {
                id: TargetId(format!("{name}{suffix}").into()),
                source: PoolSource::Servers(servers),
                balance: balance.clone(),
                limits: Limits { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, ..Limits::default() },
                passive: PassiveHealth { max_ejection_percent: 50, ..PassiveHealth::default() },
                health: health.clone(),
                tls: Arc::new(ServerTls::default()),
                connect_timeout: CONNECT_TIMEOUT,
                proxy_header: None,
            }));
        }
    }
    let leg = Leg { name: name.into(), weight: 10_000, headers: HeaderEdits::default(), clusters: places };
    let prefix = PathMatch { text: TextMatch::Prefix(path.text.as_str().into()), ignore_case: false };
    let route = Route {
        name: name.into(),
        matches: RouteMatch { path: Some(prefix), ..RouteMatch::default() },
        timeout: None,
        idle_timeout: Some(IDLE_TIMEOUT),
        headers,
        ..Route::to(vec![leg])
    };
    Some(IngressRoute { route, action, filters: Arc::new(filters) })
}

fn action(raw: &RawPath, check: &mut Check) -> Action {
    let Some(At { value, place }) = &raw.redirect_to else { return Action::Forward };
    let target = value.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
    if target.is_none() {
        check.fault(
            place,
            format!("{value:?} is nowhere to send clients"),
            "write http:// or https:// with a host, for example https://new.example",
        );
    }
    Action::Redirect(Redirect { to: value.as_str().into(), status: 301, exact: false })
}

/// The servers and those behind them.
fn servers(raw: &RawPath, check: &mut Check) -> (Vec<Server>, Vec<Server>) {
    let (mut main, mut backup) = (Vec::new(), Vec::new());
    for At { value, place } in raw.servers.iter().flat_map(|list| &list.value) {
        let Some(address) = &value.0.address else {
            check.fault(place, "a server without an address", "write address: \"host:port\"");
            continue;
        };
        match read::server(&address.value) {
            Ok(mut server) => {
                server.weight = value.0.weight.as_ref().map_or(1, At::number);
                let group = if value.0.backup.as_ref().is_some_and(|at| at.value) { &mut backup } else { &mut main };
                group.push(server);
            }
            Err(why) => check.fault(&address.place, format!("the server {:?}: {why}", address.value), ""),
        }
    }
    (main, backup)
}
