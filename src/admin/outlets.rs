//! Where metrics go apart from the admin API, as each sidecar's registration says: listeners of their own, and StatsD receivers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, response::Response, routing::get};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Admin;
use crate::{
    model::metrics::Push,
    snapshot::{Snapshot, Subscriber},
    telemetry::{Telemetry, metrics::Scope, statsd},
};

/// Between two attempts to listen on an address that is taken.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an outlet may take to end before the one in its place begins.
const END: Duration = Duration::from_secs(1);

/// What an outlet is: two that are equal are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outlet {
    /// A listener.
    Listener(SocketAddr),
    /// A receiver of one sidecar's metrics.
    Push(Arc<str>, Push),
}

/// What an outlet tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    scope: Scope,
    /// The paths of a listener.
    paths: BTreeSet<String>,
}

/// The outlets that a snapshot wants. Sidecars that name one address share the listener.
fn wanted(snapshot: &Snapshot, scrape_path: &str) -> BTreeMap<Outlet, Told> {
    let mut wanted = BTreeMap::<Outlet, Told>::new();
    for (sidecar, config) in &snapshot.metrics {
        let mut add = |outlet: Outlet, paths: &[&str]| {
            let told = wanted.entry(outlet).or_default();
            told.scope.add(sidecar, config);
            told.paths.extend(paths.iter().map(|path| (*path).to_owned()));
        };
        if let Some(address) = config.prometheus {
            add(Outlet::Listener(address), &[scrape_path]);
        }
        if let Some(address) = config.stats {
            add(Outlet::Listener(address), &["/stats", "/stats/prometheus"]);
        }
        for push in &config.pushes {
            add(Outlet::Push(sidecar.clone(), push.clone()), &[]);
        }
    }
    wanted
}

/// An outlet at work.
struct Running {
    told: Told,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        // One that hangs holds up nothing: its address is asked for again until it is free.
        let _ = tokio::time::timeout(END, self.task).await;
    }
}

/// Keeps the outlets as the snapshots want them, until no more snapshots come; `scrape_path` is where Prometheus looks.
///
/// An address that is taken is asked for again; it stops nothing else.
pub async fn run(mut snapshots: Subscriber, telemetry: Arc<Telemetry>, scrape_path: String, stop: CancellationToken) {
    let mut running = BTreeMap::<Outlet, Running>::new();
    while let Some(Some(snapshot)) = stop.run_until_cancelled(snapshots.next()).await {
        let mut wanted = wanted(&snapshot, &scrape_path);
        let (kept, gone): (BTreeMap<_, _>, _) =
            running.into_iter().partition(|(outlet, running)| wanted.get(outlet).is_some_and(|told| *told == running.told));
        running = kept;
        wanted.retain(|outlet, _| !running.contains_key(outlet));
        for (_, gone) in gone {
            gone.end().await;
        }
        for (outlet, told) in wanted {
            let stop = CancellationToken::new();
            let task = tokio::spawn(start(outlet.clone(), told.clone(), telemetry.clone(), stop.clone()));
            running.insert(outlet, Running { told, stop, task });
        }
    }
    for (_, last) in running {
        last.end().await;
    }
}

async fn start(outlet: Outlet, told: Told, telemetry: Arc<Telemetry>, stop: CancellationToken) {
    match outlet {
        Outlet::Push(_, push) => statsd::push(telemetry, told.scope, push, stop).await,
        Outlet::Listener(address) => {
            let Some(listener) = stop.run_until_cancelled(listen(address)).await else { return };
            tracing::info!(address = %listener.address(), paths = ?told.paths, "metrics");
            serve(listener, told, telemetry, stop).await;
        }
    }
}

/// Listens on an address, as soon as that is possible.
async fn listen(address: SocketAddr) -> Admin {
    let mut told = false;
    loop {
        match Admin::bind(address) {
            Ok(listener) => return listener,
            Err(why) if !told => tracing::warn!(%address, %why, "metrics cannot be served; it is tried again every second"),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Serves the paths, and 404 for all others.
async fn serve(listener: Admin, told: Told, telemetry: Arc<Telemetry>, stop: CancellationToken) {
    let Told { scope, paths } = told;
    let router = paths.iter().fold(Router::new(), |router, path| router.route(path, get(metrics)));
    let router = router.with_state((telemetry, Arc::new(scope)));
    super::serve::serve(listener.listener, router, stop.cancelled_owned()).await;
}

async fn metrics(State((telemetry, scope)): State<(Arc<Telemetry>, Arc<Scope>)>, headers: HeaderMap) -> Response {
    super::read::encoded(&headers, |format| telemetry.metrics.encode_scoped(&scope, format))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{identity::ServiceName, metrics::MetricsConfig};

    #[test]
    fn sidecars_share_an_address_and_nothing_else() {
        let address = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let config = |service: &str, prometheus, stats| {
            Arc::new(MetricsConfig { prometheus, stats, ..MetricsConfig::nowhere(ServiceName::local(service), "dc1") })
        };
        let metrics =
            BTreeMap::from([("a".into(), config("a", address(1), address(1))), ("b".into(), config("b", address(1), address(2)))]);
        let wanted = wanted(&Snapshot { metrics, ..Snapshot::default() }, "/metrics");
        let paths: Vec<Vec<&str>> = wanted.values().map(|told| told.paths.iter().map(String::as_str).collect()).collect();
        assert_eq!(paths, [vec!["/metrics", "/stats", "/stats/prometheus"], vec!["/stats", "/stats/prometheus"]]);
        assert_ne!(wanted.values().next().unwrap().scope, wanted.values().last().unwrap().scope);
    }
}
