//! What one listener counts, without a label look-up where the labels were seen before.

mod hits;
mod totals;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use self::hits::Tallies;
pub use self::{hits::Hits, totals::Totals};
use super::{Families, grown::Grown, openmetrics::Exemplar, remove_series};
use crate::{
    model::{
        identity::{ServiceName, SpiffeId},
        intention::Intentions,
        listener::{Listener, ListenerKey, Protocol, Role},
    },
    telemetry::record::{Flag, HttpPart, Record},
};

/// Most peers that have series of their own on a listener; the others share the name [`OTHER`].
const MAX_PEERS: usize = 200;

/// Most words (reasons, outcomes) that have a series of their own on a listener.
const MAX_WORDS: usize = 50;

/// Most gRPC methods that have a series of their own on a listener.
const MAX_METHODS: usize = 200;

/// The label of everything past a cap.
const OTHER: &str = "other";

/// The label of a caller whose name is not known, for example a gateway.
const UNKNOWN: &str = "unknown";

/// The counters of one listener. Its series disappear when the last `Arc` is dropped: hold one for each open connection.
#[derive(Debug)]
pub struct ListenerMetrics {
    families: Arc<Families>,
    key: ListenerKey,
    service: ServiceName,
    side: Side,
    /// Values of the labels `listener` and `direction`.
    labels: [String; 2],
    opened: IntCounter,
    closed: IntCounter,
    active: IntGauge,
    active_requests: IntGauge,
    protocol: Protocol,
    /// By the path `/service/method`; only where gRPC is spoken.
    grpc_methods: Option<Grown<String, IntCounter>>,
    received: IntCounter,
    sent: IntCounter,
    allowed: Grown<String, IntCounter>,
    denied: Grown<String, IntCounter>,
    tallies: Tallies,
    tls_failures: Grown<String, IntCounter>,
    retries: Grown<String, IntCounter>,
    ejections: Grown<String, IntCounter>,
    peers: Grown<ServiceName, Arc<Peer>>,
    unnamed_peer: OnceLock<Arc<Peer>>,
    other_peers: OnceLock<Arc<Peer>>,
}

/// A request that counts as active as long as this lives.
#[derive(Debug)]
pub struct RequestInFlight(IntGauge);

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Which end of a call the peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    /// The peer is the source.
    Inbound,
    /// The peer is the destination: this one until a cluster is chosen.
    Outbound(ServiceName),
}

impl Side {
    fn of(role: &Role) -> Self {
        match role {
            Role::Inbound(_) | Role::Exposed(_) | Role::Ingress(_) => Self::Inbound,
            Role::Upstream(upstream) => Self::Outbound(upstream.destination.clone()),
        }
    }
}

impl ListenerMetrics {
    pub(super) fn new(families: Arc<Families>, listener: &Listener) -> Self {
        let labels = [listener.key.to_string(), listener.role.direction().to_owned()];
        let side = Side::of(&listener.role);
        let destination = match &side {
            Side::Inbound => String::new(),
            Side::Outbound(destination) => destination.to_string(),
        };
        let datacenter = listener.identity.as_ref().map_or("", |identity| identity.leaf.id.datacenter());
        let info = [listener.protocol.as_str(), &listener.service.to_string(), &destination, datacenter];
        // The listener may have been something else until now.
        remove_series(&families.info, &listener.key.to_string());
        families.info.with_label_values(&with(&labels, info)).set(1);
        Self {
            protocol: listener.protocol,
            opened: families.opened.with_label_values(&labels),
            closed: families.closed.with_label_values(&labels),
            active: families.active.with_label_values(&labels),
            active_requests: families.active_requests.with_label_values(&labels),
            grpc_methods: (listener.protocol == Protocol::Grpc).then(Grown::default),
            received: families.bytes.with_label_values(&with(&labels, ["received"])),
            sent: families.bytes.with_label_values(&with(&labels, ["sent"])),
            allowed: Grown::default(),
            denied: Grown::default(),
            tallies: Tallies::default(),
            tls_failures: Grown::default(),
            retries: Grown::default(),
            ejections: Grown::default(),
            peers: Grown::default(),
            unnamed_peer: OnceLock::new(),
            other_peers: OnceLock::new(),
            key: listener.key.clone(),
            service: listener.service.clone(),
            side,
            labels,
            families,
        }
    }

    /// Whether the labels of these series are those of a listener.
    pub(super) fn speaks_of(&self, listener: &Listener) -> bool {
        self.service == listener.service && self.side == Side::of(&listener.role) && self.protocol == listener.protocol
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.opened.inc();
        self.active.inc();
    }

    /// A connection ended.
    pub fn connection_closed(&self) {
        self.closed.inc();
        self.active.dec();
    }

    /// A request began; it is active until what is returned is dropped.
    pub fn request_began(&self) -> RequestInFlight {
        self.active_requests.inc();
        RequestInFlight(self.active_requests.clone())
    }

    /// A handshake with a client failed. `reason` is one of a few stable words.
    pub fn tls_failed(&self, reason: &'static str) {
        count(&self.tls_failures, &self.families.tls_failures, &self.labels, &[], reason);
    }

    /// The intentions let a request or connection through.
    pub fn allowed(&self) {
        count(&self.allowed, &self.families.decisions, &self.labels, &["allow", ""], "");
    }

    /// The intentions refused a request or connection. `reason` is one of a few stable words, `decider` says in full what decided, as the log does.
    pub fn denied(&self, reason: &'static str, decider: &str) {
        count(&self.denied, &self.families.decisions, &self.labels, &["deny", reason], decider);
    }

    /// Where the decisions of these intentions are counted, rule by rule.
    pub fn hits(&self, intentions: &Intentions) -> Hits {
        self.tallies.of(intentions)
    }

    /// A request was tried again on another endpoint. `outcome` is one of a few stable words.
    pub fn retry(&self, outcome: &'static str) {
        count(&self.retries, &self.families.retries, &self.labels, &[], outcome);
    }

    /// Passive health ejected an endpoint. `cause` is one of a few stable words.
    pub fn ejected(&self, cause: &'static str) {
        count(&self.ejections, &self.families.ejections, &self.labels, &[], cause);
    }

    /// How many endpoints may be chosen, and how many may not.
    pub fn endpoints(&self, healthy: usize, unhealthy: usize) {
        for (state, number) in [("healthy", healthy), ("unhealthy", unhealthy)] {
            let gauge = self.families.endpoints.with_label_values(&with(&self.labels, [state]));
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    /// Counts a finished request or connection.
    pub fn record(&self, record: &Record<'_>) {
        self.received.inc_by(record.received);
        self.sent.inc_by(record.sent);
        if let (Some(methods), Some(http)) = (&self.grpc_methods, &record.http) {
            self.grpc_call(methods, http.path);
        }
        let peer = match self.side {
            Side::Inbound => record.source.and_then(SpiffeId::as_service),
            Side::Outbound(_) => record.destination,
        };
        let Some(name) = peer else { return self.unnamed_peer.get_or_init(|| Arc::new(self.unnamed_peer())).record(self, record) };
        let make = || Arc::new(self.peer(&name.to_string()));
        let rest = || self.other_peers.get_or_init(|| Arc::new(self.peer(OTHER))).clone();
        self.peers.with(name, MAX_PEERS, make, rest, |peer| peer.record(self, record));
    }

    /// The last request with a trace of each peer, by the values of the labels `listener`, `direction`, `source` and `destination`.
    pub(super) fn exemplars(&self) -> Vec<([String; 4], Exemplar)> {
        let unnamed = [&self.unnamed_peer, &self.other_peers].into_iter().filter_map(OnceLock::get).cloned();
        let known = self.peers.known();
        let peers = known.values().cloned().chain(unnamed);
        peers.filter_map(|peer| Some((peer.labels.clone(), peer.traced.lock().clone()?))).collect()
    }

    /// Counts a call of a gRPC method; what is no `/service/method` is none.
    fn grpc_call(&self, methods: &Grown<String, IntCounter>, path: &str) {
        let path = path.split('?').next().unwrap_or(path);
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return };
        if service.is_empty() || method.is_empty() || method.contains('/') {
            return;
        }
        let series = |own| self.families.grpc_requests.with_label_values(&with(&self.labels, own));
        methods.with(path, MAX_METHODS, || series([service, method]), || series([OTHER, OTHER]), IntCounter::inc);
    }

    fn unnamed_peer(&self) -> Peer {
        match &self.side {
            Side::Inbound => self.peer(UNKNOWN),
            Side::Outbound(destination) => self.peer(&destination.to_string()),
        }
    }

    fn peer(&self, name: &str) -> Peer {
        let (name, own) = (name.to_owned(), self.service.to_string());
        let [source, destination] = if self.side == Side::Inbound { [name, own] } else { [own, name] };
        let [listener, direction] = self.labels.clone();
        Peer { labels: [listener, direction, source, destination], ..Peer::default() }
    }
}

impl Drop for ListenerMetrics {
    fn drop(&mut self) {
        self.families.forget(&self.key, self);
    }
}

/// The series of one peer: the source on the inbound side, the destination on the outbound side.
#[derive(Debug, Default)]
struct Peer {
    /// Values of the labels `listener`, `direction`, `source` and `destination`.
    labels: [String; 4],
    duration: OnceLock<Histogram>,
    /// The last request that carried a trace.
    traced: Mutex<Option<Exemplar>>,
    requests: Grown<Outcome, IntCounter>,
    tcp_connections: Grown<Flag, IntCounter>,
}

/// How a request ended, as far as metrics tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Outcome {
    code_class: &'static str,
    grpc_status: Option<u16>,
    flag: Flag,
}

impl Outcome {
    fn of(http: &HttpPart<'_>, flag: Flag) -> Self {
        let code_class = match http.status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "none",
        };
        // gRPC defines 0 to 16; whatever else an app sends counts as one.
        Self { code_class, grpc_status: http.grpc_status.map(|status| status.min(17)), flag }
    }

    fn grpc_status(self) -> String {
        match self.grpc_status {
            None => String::new(),
            Some(status @ 0..=16) => status.to_string(),
            Some(_) => OTHER.to_owned(),
        }
    }
}

impl Peer {
    fn record(&self, listener: &ListenerMetrics, record: &Record<'_>) {
        let families = &listener.families;
        let Some(http) = &record.http else {
            let make = || families.tcp_connections.with_label_values(&with(&self.labels, [record.flag.as_str()]));
            return self.tcp_connections.with(&record.flag, usize::MAX, make, make, IntCounter::inc);
        };
        let duration = self.duration.get_or_init(|| families.request_duration.with_label_values(&self.labels));
        let seconds = record.duration.as_secs_f64();
        duration.observe(seconds);
        if let Some(trace) = http.trace {
            *self.traced.lock() = Some(Exemplar { trace, seconds, at: record.start + record.duration });
        }
        let outcome = Outcome::of(http, record.flag);
        let make = || {
            let own = [outcome.code_class, &outcome.grpc_status(), outcome.flag.as_str()];
            families.requests.with_label_values(&with(&self.labels, own))
        };
        self.requests.with(&outcome, usize::MAX, make, make, IntCounter::inc);
    }
}

/// Label values, the listener's first.
fn with<'a, const N: usize>(first: &'a [String], own: [&'a str; N]) -> Vec<&'a str> {
    first.iter().map(String::as_str).chain(own).collect()
}

/// Counts one under a word, the last label of the family.
fn count(known: &Grown<String, IntCounter>, family: &IntCounterVec, labels: &[String], own: &[&str], word: &str) {
    let series = |word: &str| {
        let values: Vec<&str> = labels.iter().map(String::as_str).chain(own.iter().copied()).chain([word]).collect();
        family.with_label_values(&values)
    };
    known.with(word, MAX_WORDS, || series(word), || series(OTHER), IntCounter::inc);
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        model::access_log::AccessLog,
        telemetry::{
            metrics::Metrics,
            testing::{http, id, inbound, outbound, record},
        },
    };

    fn public() -> Listener {
        inbound(AccessLog::default(), 0)
    }

    /// The value of the one series whose name and labels hold all these parts.
    fn value(metrics: &Metrics, parts: &[&str]) -> Option<String> {
        let text = metrics.encode().unwrap();
        let fitting: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|p| line.contains(p))).collect();
        assert!(fitting.len() <= 1, "{parts:?} is not one series: {fitting:#?}");
        fitting.first().and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    }

    #[test]
    fn a_request_is_counted_with_both_ends() {
        let (metrics, listener, caller) = (Metrics::new().unwrap(), public(), id("api"));
        let counters = metrics.listener(&listener);
        for status in [200, 204, 503, 0] {
            let grpc_status = (status == 200).then_some(14);
            let part = HttpPart { grpc_status, ..http(status) };
            counters.record(&Record { source: Some(&caller), http: Some(part), flag: Flag::None, ..record(&listener) });
        }
        let series = |own: &[&str]| value(&metrics, &[&["aralez_requests_total", r#"source="api""#, r#"destination="web""#], own].concat());
        assert_eq!(series(&[r#"code_class="2xx""#, r#"grpc_status="14""#]).as_deref(), Some("1"));
        assert_eq!(series(&[r#"code_class="2xx""#, r#"grpc_status="""#]).as_deref(), Some("1"));
        assert_eq!(series(&[r#"code_class="5xx""#]).as_deref(), Some("1"));
        assert_eq!(series(&[r#"code_class="none""#]).as_deref(), Some("1"));
        assert_eq!(value(&metrics, &["aralez_request_duration_seconds_count"]).as_deref(), Some("4"));
        assert_eq!(value(&metrics, &["aralez_bytes_total", "received"]).as_deref(), Some("12"));
        assert_eq!(value(&metrics, &["aralez_bytes_total", "sent"]).as_deref(), Some("20"));
    }

    #[test]
    fn a_tcp_connection_is_no_request() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        metrics.listener(&listener).record(&Record { flag: Flag::UpstreamConnectionFailure, ..record(&listener) });
        let counters = metrics.listener(&listener);
        counters.record(&Record { flag: Flag::UpstreamConnectionFailure, ..record(&listener) });
        let failed = ["aralez_tcp_connections_total", r#"flag="UF""#, r#"source="web""#, r#"destination="api""#];
        assert_eq!(value(&metrics, &failed).as_deref(), Some("1"));
        assert!(!metrics.encode().unwrap().contains("aralez_requests_total"));
    }

    #[test]
    fn connections_verdicts_retries_and_endpoints_are_counted() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let counters = metrics.listener(&listener);
        counters.connection_opened();
        counters.connection_opened();
        counters.connection_closed();
        counters.denied("intention_denied", "intention web -> api (precedence 9) denies it");
        counters.allowed();
        counters.retry("success");
        counters.ejected("consecutive_5xx");
        counters.tls_failed("no_certificate");
        counters.endpoints(2, 1);
        for (parts, expected) in [
            (&["aralez_connections_opened_total", r#"listener="web-sidecar-proxy/upstream:api""#, r#"direction="outbound""#][..], "2"),
            (&["aralez_connections_closed_total"], "1"),
            (&["aralez_connections_active"], "1"),
            (&["aralez_intention_decisions_total", r#"action="deny""#, r#"decider="intention web -> api (precedence 9) denies it""#], "1"),
            (&["aralez_intention_decisions_total", r#"action="allow""#], "1"),
            (&["aralez_retries_total", r#"outcome="success""#], "1"),
            (&["aralez_upstream_ejections_total", r#"cause="consecutive_5xx""#], "1"),
            (&["aralez_tls_failures_total", r#"reason="no_certificate""#], "1"),
            (&["aralez_upstream_endpoints", r#"state="healthy""#], "2"),
            (&["aralez_upstream_endpoints", r#"state="unhealthy""#], "1"),
        ] {
            assert_eq!(value(&metrics, parts).as_deref(), Some(expected), "{parts:?}");
        }
    }

    #[test]
    fn peers_past_the_cap_share_one_name() {
        let (metrics, listener) = (Metrics::new().unwrap(), public());
        let counters = metrics.listener(&listener);
        for at in 0..MAX_PEERS + 7 {
            let caller = id(&format!("caller-{at}"));
            counters.record(&Record { source: Some(&caller), http: Some(http(200)), ..record(&listener) });
        }
        assert_eq!(value(&metrics, &["aralez_requests_total", r#"source="other""#]).as_deref(), Some("7"));
        let text = metrics.encode().unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("aralez_requests_total{")).count(), MAX_PEERS + 1);
    }

    #[test]
    fn a_listener_keeps_its_counts_while_it_lives_and_takes_its_series_along() {
        let metrics = Metrics::new().unwrap();
        let first = metrics.listener(&public());
        first.connection_opened();
        let again = metrics.listener(&public());
        assert!(Arc::ptr_eq(&first, &again));
        let other = metrics.listener(&outbound());
        drop(first);
        assert!(metrics.encode().unwrap().contains("/public"));
        drop(again);
        let text = metrics.encode().unwrap();
        assert!(!text.contains("/public") && text.contains("/upstream:api"), "{text}");
        drop(other);
        assert!(!metrics.encode().unwrap().contains("/upstream:api"));
    }

    #[test]
    fn a_listener_of_another_service_under_the_same_key_counts_on_its_own() {
        let metrics = Metrics::new().unwrap();
        let old = metrics.listener(&public());
        let new = metrics.listener(&Listener { service: ServiceName::local("web2"), ..public() });
        new.connection_opened();
        drop(old);
        assert_eq!(value(&metrics, &["aralez_connections_opened_total"]).as_deref(), Some("1"));
    }
}
