//! Metric families as lines, lines as datagrams.

use std::collections::HashMap;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::model::metrics::Dialect;

/// The most bytes of a datagram: what passes an Ethernet with IPv6 and some tunnels around it in one piece.
const PACKET: usize = 1432;

/// What the names of our families begin with; the prefix takes its place.
const OURS: &str = "aralez_";

/// Makes lines of metrics, and remembers what the counters were.
#[derive(Debug)]
pub(super) struct Lines {
    dialect: Dialect,
    prefix: String,
    last: HashMap<Series, f64>,
}

/// A line without its value: name and tags.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Series {
    name: String,
    tags: String,
}

impl Lines {
    pub(super) fn new(dialect: Dialect, prefix: &str) -> Self {
        Self { dialect, prefix: prefix.to_owned(), last: HashMap::new() }
    }

    /// What is to be told since the last call.
    pub(super) fn since(&mut self, families: &[MetricFamily]) -> Packets {
        let (mut counters, mut lines) = (HashMap::new(), Vec::new());
        for family in families {
            for metric in family.get_metric() {
                let series = |part: &str| self.series(family.name(), part, metric);
                match family.get_field_type() {
                    MetricType::COUNTER => _ = counters.insert(series(""), metric.get_counter().get_value()),
                    MetricType::GAUGE => lines.push(series("").line(metric.get_gauge().get_value(), 'g')),
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        // Whole numbers: some receivers cut fractions off a counter.
                        let sum = if family.name().ends_with("_seconds") { 1000.0 } else { 1.0 } * histogram.get_sample_sum();
                        counters.insert(series(".count"), histogram.get_sample_count() as f64);
                        counters.insert(series(".sum"), sum.round());
                    }
                    // We have none of the others.
                    _ => {}
                }
            }
        }
        let grown = counters.iter().filter_map(|(series, now)| {
            let before = self.last.get(series).copied().unwrap_or_default();
            // A series that is smaller than before began anew.
            let delta = if *now < before { *now } else { now - before };
            (delta > 0.0).then(|| series.line(delta, 'c'))
        });
        lines.extend(grown);
        lines.sort_unstable();
        self.last = counters;
        Packets::of(lines)
    }

    fn series(&self, family: &str, part: &str, metric: &Metric) -> Series {
        let labels = metric.get_label();
        let family = family.strip_prefix(OURS).unwrap_or(family);
        let family = match part {
            ".sum" => family.replace("_seconds", "_milliseconds"),
            _ => family.to_owned(),
        };
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        match self.dialect {
            Dialect::Statsd => {
                // Labels with dots repeat others under the names that they have with Envoy: names would only grow by them.
                let own = labels.iter().filter(|label| !label.name().contains('.'));
                let places: String = own.map(|label| format!(".{}", segment(label.value()))).collect();
                Series { name: format!("{prefix}{family}{places}{part}"), tags: String::new() }
            }
            Dialect::Dogstatsd => {
                let name = grpc_method(labels).unwrap_or(family);
                let tags: Vec<String> = labels
                    .iter()
                    .filter(|label| !label.value().is_empty())
                    .map(|label| format!("{}:{}", tag(label.name()), tag(label.value())))
                    .collect();
                Series { name: format!("{prefix}{name}{part}"), tags: tags.join(",") }
            }
        }
    }
}

/// The name of a gRPC method's counter, near Envoy's: `grpc.<service>.<method>.total`.
fn grpc_method(labels: &[LabelPair]) -> Option<String> {
    let value = |name: &str| labels.iter().find(|label| label.name() == name).map(LabelPair::value);
    let service: Vec<String> = value("grpc_service")?.split('.').map(segment).collect();
    Some(format!("grpc.{}.{}.total", service.join("."), segment(value("grpc_method")?)))
}

/// A value as a part of a dotted name.
fn segment(value: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    match value {
        "" | "-" => "none".to_owned(),
        value => value.chars().map(plain).collect(),
    }
}

/// A text in a tag, without what has a meaning there.
fn tag(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, ',' | '|' | '#') { '_' } else { c }).collect()
}

impl Series {
    fn line(&self, value: f64, kind: char) -> String {
        let tags = if self.tags.is_empty() { String::new() } else { format!("|#{}", self.tags) };
        format!("{}:{value}|{kind}{tags}", self.name)
    }
}

/// Lines joined into datagrams.
#[derive(Debug, Default)]
pub(super) struct Packets(Vec<String>);

impl Packets {
    /// Joins lines as long as they fit; a line that is longer than a datagram goes alone.
    pub(super) fn of(lines: impl IntoIterator<Item = String>) -> Self {
        let mut packets: Vec<String> = Vec::new();
        for line in lines {
            match packets.last_mut() {
                Some(packet) if packet.len() + 1 + line.len() <= PACKET => {
                    packet.push('\n');
                    packet.push_str(&line);
                }
                _ => packets.push(line),
            }
        }
        Self(packets)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            access_log::AccessLog,
            identity::ServiceName,
            listener::{Listener, Protocol},
            metrics::MetricsConfig,
        },
        telemetry::{
            metrics::{Metrics, Scope},
            record::{HttpPart, Record},
            testing::{http, inbound, outbound, record},
        },
    };

    fn scope() -> Scope {
        let tags = vec![("foo".into(), "bar".into())];
        let config = MetricsConfig { tags, ..MetricsConfig::nowhere(ServiceName::local("web"), "dc1") };
        let mut scope = Scope::default();
        scope.add("web-sidecar-proxy", &config);
        scope
    }

    fn request(metrics: &Metrics, listener: &Listener, path: &str) {
        metrics.listener(listener).record(&Record { http: Some(HttpPart { path, ..http(200) }), ..record(listener) });
    }

    fn told(lines: &mut Lines, metrics: &Metrics) -> Vec<String> {
        let scope = if lines.dialect == Dialect::Statsd { scope().untagged() } else { scope() };
        lines.since(&metrics.scoped(&scope)).iter().flat_map(|packet| packet.lines()).map(str::to_owned).collect()
    }

    #[test]
    fn counters_are_told_as_they_grow_with_their_tags() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let _alive = metrics.listener(&listener);
        let mut lines = Lines::new(Dialect::Dogstatsd, "envoy");
        told(&mut lines, &metrics);
        for _ in 0..3 {
            request(&metrics, &listener, "/");
        }
        let all = told(&mut lines, &metrics);
        let line = |name: &str| all.iter().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} is not in {all:#?}"));
        let requests = line("envoy.requests_total:3|c|#");
        let tags = ["local_cluster:web", "consul.destination.service:api", "foo:bar", "source:web", "destination:api", "code_class:2xx"];
        for tag in tags {
            assert!(requests.split(['#', ',']).any(|t| t == tag), "{tag} is not in {requests}");
        }
        assert!(!requests.contains("grpc_status"), "{requests}");
        line("envoy.request_duration_seconds.count:3|c|#");
        line("envoy.request_duration_milliseconds.sum:36|c|#");
        line("envoy.requests_active:0|g|#");
        let again = told(&mut lines, &metrics);
        assert!(!again.iter().any(|l| l.starts_with("envoy.requests_total")), "{again:#?}");
    }

    #[test]
    fn without_tags_the_labels_are_in_the_name() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let _alive = metrics.listener(&listener);
        let mut lines = Lines::new(Dialect::Statsd, "mesh");
        request(&metrics, &listener, "/");
        let all = told(&mut lines, &metrics);
        let expected = "mesh.requests_total.2xx.api.outbound.none.none.web-sidecar-proxy_upstream_api.web:1|c";
        assert!(all.iter().any(|l| l == expected), "{all:#?}");
        assert!(all.iter().all(|l| !l.contains('#')), "{all:#?}");
    }

    #[test]
    fn grpc_methods_have_counters_of_their_own() {
        let (metrics, mut listener) = (Metrics::new().unwrap(), inbound(AccessLog::default(), 0));
        listener.protocol = Protocol::Grpc;
        let _alive = metrics.listener(&listener);
        let mut lines = Lines::new(Dialect::Dogstatsd, "envoy");
        for path in ["/fgrpc.PingServer/Ping", "/fgrpc.PingServer/Ping?x", "/favicon.ico", "/a/b/c"] {
            request(&metrics, &listener, path);
        }
        let all = told(&mut lines, &metrics);
        let calls: Vec<_> = all.iter().filter(|l| l.starts_with("envoy.grpc")).collect();
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert!(calls[0].starts_with("envoy.grpc.fgrpc.PingServer.Ping.total:2|c|#"), "{calls:?}");
        assert!(calls[0].contains("local_cluster:web"), "{calls:?}");
    }

    #[test]
    fn a_counter_that_began_anew_is_told_from_zero() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let mut lines = Lines::new(Dialect::Statsd, "envoy");
        let counters = metrics.listener(&listener);
        (0..5).for_each(|_| request(&metrics, &listener, "/"));
        told(&mut lines, &metrics);
        drop(counters);
        let _again = metrics.listener(&listener);
        (0..2).for_each(|_| request(&metrics, &listener, "/"));
        let all = told(&mut lines, &metrics);
        assert!(all.iter().any(|l| l.starts_with("envoy.requests_total.") && l.ends_with(":2|c")), "{all:#?}");
    }

    proptest::proptest! {
        #[test]
        fn datagrams_hold_every_line_and_are_short(lines in proptest::collection::vec("[a-z]{1,400}", 0..60)) {
            let packets = Packets::of(lines.clone());
            proptest::prop_assert!(packets.iter().all(|packet| packet.len() <= PACKET));
            let told: Vec<String> = packets.iter().flat_map(|p| p.lines()).map(str::to_owned).collect();
            proptest::prop_assert_eq!(told, lines);
        }

        #[test]
        fn no_label_breaks_a_line(value in "\\PC*|[,|#\\n:]{0,9}") {
            proptest::prop_assert!(!tag(&value).contains([',', '|', '#', '\n']));
            proptest::prop_assert!(!segment(&value).contains(['.', ':', '|', '\n']) && !segment(&value).is_empty());
        }
    }
}
