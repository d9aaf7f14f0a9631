//! Every metric of this process: names, labels and help texts stand here and nowhere else.
//!
//! A registry of our own, so that several instances (tests, an embedding program) never share a counter. What belongs to one
//! listener is counted by its [`ListenerMetrics`] and disappears with the listener.

mod catalog;
mod envoy;
mod grown;
mod listener;
mod openmetrics;
mod pulled;
mod reloads;
mod scope;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, MetricVec, MetricVecBuilder},
    proto::{LabelPair, MetricFamily},
};

use self::{catalog::Catalog, openmetrics::Exemplars, pulled::Pulled};
pub use self::{
    catalog::Family,
    listener::{Hits, ListenerMetrics, RequestInFlight, Totals},
    openmetrics::Format,
    reloads::{Reload, ReloadOf, Reloaded, Reloads},
    scope::Scope,
};
use crate::model::listener::{Listener, ListenerKey};

/// Upper bounds of the request duration's buckets, in seconds.
const DURATION_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The label by which a listener's series are found again when it goes.
const LISTENER: &str = "listener";

/// All metrics of a process. Shared behind an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    catalog: Catalog,
    /// Whether Envoy's series are shown beside ours.
    envoy: AtomicBool,
    families: Arc<Families>,
    leaf_expiry: Pulled,
    consul_last_success: Pulled,
    watch_failures: Pulled,
    server_healthy: Pulled,
    /// How reading the configuration anew fares.
    pub reloads: Reloads,
    /// Access log lines that were dropped; counted by the access log itself.
    pub(super) access_log_dropped: IntCounter,
    /// Spans that were dropped; counted by the traces themselves.
    pub(super) spans_dropped: IntCounter,
}

impl Metrics {
    /// Registers every family.
    ///
    /// # Errors
    /// [`prometheus::Error`] if a name is taken twice or not valid: a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        let catalog = Catalog::default();
        let build = IntGaugeVec::new(Opts::new("aralez_build_info", "Always 1; the version of the program is in the label"), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        catalog.register(build)?;
        #[cfg(target_os = "linux")]
        catalog.register(prometheus::process_collector::ProcessCollector::for_self())?;
        let pulled = |name: &str, help: &str, label: &str| catalog.registered(Pulled::new(name, help, label)?);
        Ok(Self {
            families: Arc::new(Families::new(&catalog)?),
            leaf_expiry: pulled("aralez_leaf_expiry_timestamp_seconds", "When the leaf in use expires", "sidecar")?,
            consul_last_success: pulled(
                "aralez_consul_last_success_timestamp_seconds",
                "When a watch was last answered by the agent",
                "watch",
            )?,
            watch_failures: pulled("aralez_watch_failures", "Failures in a row of each watch", "watch")?,
            server_healthy: pulled("aralez_server_healthy", "1 if a server of a route passes its health checks, else 0", "server")?,
            reloads: Reloads::new(&catalog)?,
            access_log_dropped: catalog.registered(IntCounter::new(
                "aralez_access_log_dropped_total",
                "Access log lines dropped: the sink was too slow or failed",
            )?)?,
            spans_dropped: catalog
                .registered(IntCounter::new("aralez_trace_spans_dropped_total", "Spans dropped: the collector was too slow or failed")?)?,
            envoy: AtomicBool::new(false),
            catalog,
        })
    }

    /// Every family that is ever shown, but for Envoy's, in alphabetical order.
    pub fn described(&self) -> Vec<Family> {
        let mut all = self.catalog.families();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The counters of a listener. While one with the same key is alive it is handed out again, so that a changed listener
    /// goes on counting where it was.
    pub fn listener(&self, listener: &Listener) -> Arc<ListenerMetrics> {
        // Declared before the guard, so dropped after it: dropping the last `Arc` takes the same lock.
        let known;
        let mut live = self.families.live.lock();
        known = live.get(&listener.key).and_then(Weak::upgrade);
        if let Some(known) = &known
            && known.speaks_of(listener)
        {
            return known.clone();
        }
        let new = Arc::new(ListenerMetrics::new(self.families.clone(), listener));
        live.insert(listener.key.clone(), Arc::downgrade(&new));
        new
    }

    /// The counters of a listener that is up, by its key.
    pub fn known(&self, key: &ListenerKey) -> Option<Arc<ListenerMetrics>> {
        self.families.live.lock().get(key)?.upgrade()
    }

    /// Says where to read the sidecars and when their leaves expire, in seconds since the Unix epoch. The first source stays.
    pub fn leaf_expiry_from(&self, read: impl Fn() -> Vec<(String, i64)> + Send + Sync + 'static) {
        self.leaf_expiry.read_from(move || read().into_iter().map(|(sidecar, at)| (sidecar, at as f64)).collect());
    }

    /// Says where to read the watches and how often each failed in a row. The first source stays.
    pub fn watch_failures_from(&self, read: impl Fn() -> Vec<(String, u32)> + Send + Sync + 'static) {
        self.watch_failures.read_from(move || read().into_iter().map(|(watch, failures)| (watch, f64::from(failures))).collect());
    }

    /// Says where to read the watches and when the agent last answered each. The first source stays.
    pub fn consul_last_success_from(&self, read: impl Fn() -> Vec<(String, SystemTime)> + Send + Sync + 'static) {
        self.consul_last_success.read_from(move || read().into_iter().map(|(watch, at)| (watch, seconds(at))).collect());
    }

    /// Says where to read the servers that are probed, each with 1 if it is healthy, else 0. The first source stays.
    pub fn server_health_from(&self, read: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static) {
        self.server_healthy.read_from(read);
    }

    /// Notes that a configuration took effect just now, and whether every part of it was usable.
    pub fn config_reloaded(&self, successful: bool) {
        self.reloads.took_effect(successful);
    }

    /// Notes that a part of the reverse proxy's configuration was read anew, and how that ended.
    pub fn reloaded(&self, of: ReloadOf, how: Reloaded<'_>) {
        self.reloads.ended(of, how);
    }

    /// Names the version of the routes that are in force.
    pub fn config_version(&self, version: &str) {
        self.reloads.version(version);
    }

    /// Shows Envoy's series beside ours wherever all metrics are shown (`metrics.compat: envoy`).
    pub fn export_envoy(&self) {
        self.envoy.store(true, Ordering::Relaxed);
    }

    /// Every family, with Envoy's if they are wanted.
    fn gather(&self) -> Vec<MetricFamily> {
        let mut all = self.catalog.gather();
        if self.envoy.load(Ordering::Relaxed) {
            all.extend(envoy::families(&all));
        }
        all
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// [`prometheus::Error`] when a family cannot be written as text.
    pub fn encode(&self) -> prometheus::Result<String> {
        self.encode_as(Format::Text)
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// [`prometheus::Error`] when a family cannot be written as text.
    pub fn encode_as(&self, format: Format) -> prometheus::Result<String> {
        self.written(&self.gather(), format)
    }

    fn written(&self, families: &[MetricFamily], format: Format) -> prometheus::Result<String> {
        format.write(families, &self.families.exemplars())
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The families that listeners count in. Each has the labels [`LISTENER`] and `direction`, then its own.
#[derive(Debug)]
struct Families {
    /// The listeners that are alive, to hand out one for each key and to know whose series may go.
    live: Mutex<HashMap<ListenerKey, Weak<ListenerMetrics>>>,
    /// What each listener is: Envoy's series and queries that join take it from here.
    info: IntGaugeVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    tcp_connections: IntCounterVec,
    opened: IntCounterVec,
    closed: IntCounterVec,
    active: IntGaugeVec,
    active_requests: IntGaugeVec,
    grpc_requests: IntCounterVec,
    bytes: IntCounterVec,
    tls_failures: IntCounterVec,
    decisions: IntCounterVec,
    endpoints: IntGaugeVec,
    retries: IntCounterVec,
    ejections: IntCounterVec,
}

impl Families {
    fn new(catalog: &Catalog) -> prometheus::Result<Self> {
        let labels = |own: &[&'static str]| [&[LISTENER, "direction"], own].concat();
        let counter =
            |name: &str, help: &str, own: &[&'static str]| catalog.registered(IntCounterVec::new(Opts::new(name, help), &labels(own))?);
        let gauge =
            |name: &str, help: &str, own: &[&'static str]| catalog.registered(IntGaugeVec::new(Opts::new(name, help), &labels(own))?);
        let duration = HistogramOpts::new(openmetrics::DURATION, "From the request's start to its end").buckets(DURATION_BUCKETS.to_vec());
        Ok(Self {
            live: Mutex::default(),
            info: gauge(
                envoy::LISTENER_INFO,
                "Always 1, to join with; destination is what an outbound listener was made for",
                &["protocol", "service", "destination", "datacenter"],
            )?,
            requests: counter(
                "aralez_requests_total",
                "Finished HTTP requests; code_class none: no status was sent",
                &["source", "destination", "code_class", "grpc_status", "flag"],
            )?,
            request_duration: catalog.registered(HistogramVec::new(duration, &labels(&["source", "destination"]))?)?,
            tcp_connections: counter(
                "aralez_tcp_connections_total",
                "Finished TCP connections and how they ended",
                &["source", "destination", "flag"],
            )?,
            opened: counter("aralez_connections_opened_total", "Connections accepted", &[])?,
            closed: counter("aralez_connections_closed_total", "Connections ended", &[])?,
            active: gauge("aralez_connections_active", "Connections open now", &[])?,
            active_requests: gauge("aralez_requests_active", "HTTP requests in flight now", &[])?,
            grpc_requests: counter(
                "aralez_grpc_requests_total",
                "Finished gRPC calls by method, on listeners of protocol grpc; past 200 methods of a listener: other",
                &["grpc_service", "grpc_method"],
            )?,
            bytes: counter("aralez_bytes_total", "Bytes of bodies and streams; dir is received from the client, or sent to it", &["dir"])?,
            tls_failures: counter("aralez_tls_failures_total", "Handshakes with clients that failed", &["reason"])?,
            decisions: counter(
                "aralez_intention_decisions_total",
                "Verdicts on callers; decider is what decided in the words of the log, empty for allowed ones",
                &["action", "reason", "decider"],
            )?,
            endpoints: gauge("aralez_upstream_endpoints", "Endpoints known", &["state"])?,
            retries: counter("aralez_retries_total", "Requests tried again on another endpoint", &["outcome"])?,
            ejections: counter(
                "aralez_upstream_ejections_total",
                "Endpoints left out by passive health, by tries of this listener",
                &["cause"],
            )?,
        })
    }

    /// The last request with a trace of each peer's duration series.
    fn exemplars(&self) -> Exemplars {
        let live: Vec<Arc<ListenerMetrics>> = self.live.lock().values().filter_map(Weak::upgrade).collect();
        live.iter().flat_map(|listener| listener.exemplars()).collect()
    }

    /// Removes the series of a listener, unless a newer one counts under the same key by now.
    fn forget(&self, key: &ListenerKey, gone: *const ListenerMetrics) {
        let mut live = self.live.lock();
        if live.get(key).is_some_and(|now| now.as_ptr() == gone) {
            live.remove(key);
            let key = key.to_string();
            let counters = [
                &self.requests,
                &self.tcp_connections,
                &self.opened,
                &self.closed,
                &self.bytes,
                &self.tls_failures,
                &self.decisions,
                &self.retries,
                &self.ejections,
                &self.grpc_requests,
            ];
            counters.into_iter().for_each(|family| remove_series(family, &key));
            [&self.info, &self.active, &self.active_requests, &self.endpoints].into_iter().for_each(|family| remove_series(family, &key));
            remove_series(&self.request_duration, &key);
        }
    }
}

/// Removes all series of one listener from a family.
fn remove_series<T: MetricVecBuilder>(family: &MetricVec<T>, listener: &str) {
    for metric in family.collect().iter().flat_map(|f| f.get_metric()) {
        let labels: HashMap<&str, &str> = metric.get_label().iter().map(|l: &LabelPair| (l.name(), l.value())).collect();
        if labels.get(LISTENER) == Some(&listener) {
            // Fails only when the series is gone already.
            let _ = family.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn what_was_never_set_is_not_shown_as_zero() {
        let metrics = Metrics::new().unwrap();
        assert!(!metrics.encode().unwrap().contains("aralez_config_last_reload_"));
        metrics.config_reloaded(true);
        metrics.leaf_expiry_from(|| vec![("web-sidecar-proxy".to_owned(), 1_700_000_000)]);
        let text = metrics.encode().unwrap();
        for line in [
            "aralez_config_last_reload_successful 1",
            "aralez_config_last_reload_timestamp_seconds ",
            "aralez_leaf_expiry_timestamp_seconds{sidecar=\"web-sidecar-proxy\"} 1700000000",
            concat!("aralez_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_watch_that_is_gone_is_not_shown() {
        let metrics = Metrics::new().unwrap();
        let watches = Arc::new(Mutex::new(vec![("leaf web".to_owned(), SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5))]));
        let known = watches.clone();
        metrics.consul_last_success_from(move || known.lock().clone());
        let text = metrics.encode().unwrap();
        assert!(text.contains("aralez_consul_last_success_timestamp_seconds{watch=\"leaf web\"} 5\n"), "{text}");
        watches.lock().clear();
        assert!(!metrics.encode().unwrap().contains("aralez_consul_last_success_timestamp_seconds{"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_measured() {
        let text = Metrics::new().unwrap().encode().unwrap();
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
    }
}
