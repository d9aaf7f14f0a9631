//! What a listener has counted, added up over its peers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ListenerMetrics, Peer};

/// What a listener has counted since it came up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_active: i64,
    /// Requests that ended; of protocol `tcp` connections.
    pub requests: u64,
    /// Requests in flight now.
    pub requests_active: i64,
    /// How the requests ended: by the class of the status, `2xx` and so on, `none` for those that were not answered.
    pub answers: BTreeMap<&'static str, u64>,
    /// Requests and connections that did not go as planned, by the access log's flag.
    pub flags: BTreeMap<&'static str, u64>,
    /// All requests took so many seconds together.
    pub request_seconds: f64,
    /// Body or stream bytes from clients.
    pub received_bytes: u64,
    /// Body or stream bytes to clients.
    pub sent_bytes: u64,
    /// Requests that were tried again on another endpoint.
    pub retries: u64,
    /// Handshakes with clients that failed.
    pub tls_failures: u64,
}

impl ListenerMetrics {
    /// What it has counted so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            connections: self.opened.get(),
            connections_active: self.active.get(),
            requests_active: self.active_requests.get(),
            received_bytes: self.received.get(),
            sent_bytes: self.sent.get(),
            retries: self.retries.known().values().map(|counter| counter.get()).sum(),
            tls_failures: self.tls_failures.known().values().map(|counter| counter.get()).sum(),
            ..Totals::default()
        };
        let peers = self.peers.known();
        let others = [&self.unnamed_peer, &self.other_peers].into_iter().filter_map(|peer| peer.get());
        peers.values().chain(others).for_each(|peer| totals.add(peer));
        totals
    }
}

impl Totals {
    fn add(&mut self, peer: &Peer) {
        self.request_seconds += peer.duration.get().map_or(0.0, |duration| duration.get_sample_sum());
        for (outcome, counter) in &*peer.requests.known() {
            self.requests += counter.get();
            *self.answers.entry(outcome.code_class).or_default() += counter.get();
            *self.flags.entry(outcome.flag.as_str()).or_default() += counter.get();
        }
        for (flag, counter) in &*peer.tcp_connections.known() {
            self.requests += counter.get();
            *self.flags.entry(flag.as_str()).or_default() += counter.get();
        }
        self.flags.remove("-");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::access_log::AccessLog,
        telemetry::{
            metrics::Metrics,
            record::{Flag, Record},
            testing::{http, id, inbound, outbound, record},
        },
    };

    #[test]
    fn requests_of_all_peers_are_added_up() {
        let (metrics, listener) = (Metrics::new().unwrap(), inbound(AccessLog::default(), 0));
        let counters = metrics.listener(&listener);
        counters.connection_opened();
        counters.retry("succeeded");
        for caller in [Some(id("web")), Some(id("job")), None] {
            counters.record(&Record { source: caller.as_ref(), http: Some(http(200)), ..record(&listener) });
        }
        counters.record(&Record { http: Some(http(403)), flag: Flag::Unauthorized, ..record(&listener) });
        let totals = counters.totals();
        assert_eq!((totals.connections, totals.connections_active, totals.requests, totals.retries), (1, 1, 4, 1));
        assert_eq!(totals.answers, BTreeMap::from([("2xx", 3), ("4xx", 1)]));
        assert_eq!(totals.flags, BTreeMap::from([("UAEX", 1)]));
        assert_eq!((totals.received_bytes, totals.sent_bytes), (12, 20));
        assert!((totals.request_seconds - 0.048).abs() < 1e-9, "{totals:?}");
    }

    #[test]
    fn a_tcp_connection_counts_as_a_request() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let counters = metrics.listener(&listener);
        counters.record(&record(&listener));
        counters.record(&Record { flag: Flag::UpstreamConnectionFailure, ..record(&listener) });
        let totals = counters.totals();
        assert_eq!((totals.requests, totals.flags, totals.answers.len()), (2, BTreeMap::from([("UF", 1)]), 0));
    }
}
