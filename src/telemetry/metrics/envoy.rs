//! The series that Consul's Grafana dashboards and its UI read, by Envoy's names.
//!
//! They are made of our own when metrics are asked for: a request pays nothing for them, and nobody does where they are not wanted. Read in
//! Consul 1.20.1: `grafana/consulservicedashboard.json`, `consulservicetoservicedashboard.json`, `consuldataplanedashboard.json`, and the
//! UI's Prometheus provider.

use std::collections::{BTreeMap, HashMap};

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::{LISTENER, scope::SIDECAR};

/// The family that tells what a listener is.
pub(super) const LISTENER_INFO: &str = "aralez_listener_info";

/// The flags of requests and connections that were forwarded to an endpoint.
const FORWARDED: [&str; 6] = ["-", "UC", "UT", "UR", "UPE", "DC"];

const SERVER_LIVE: &str = "envoy_server_live";
const HTTP_REQUESTS: [&str; 3] = ["envoy_http_downstream_rq_total", "envoy_http_downstream_rq_completed", "envoy_http_downstream_rq_xx"];
const LISTENER_REQUESTS: &str = "envoy_listener_http_downstream_rq_xx";
const HTTP_TIME: &str = "envoy_http_downstream_rq_time";
const HTTP_ACTIVE: &str = "envoy_http_downstream_cx_active";
const CLUSTER_REQUESTS: [&str; 3] =
    ["envoy_cluster_upstream_rq_total", "envoy_cluster_upstream_rq_completed", "envoy_cluster_upstream_rq_xx"];
const CLUSTER_TIME: &str = "envoy_cluster_upstream_rq_time";
const CLUSTER_CONNECTIONS: &str = "envoy_cluster_upstream_cx_total";
const CLUSTER_FAILED: &str = "envoy_cluster_upstream_cx_connect_fail";
const CLUSTER_BYTES: [&str; 2] = ["envoy_cluster_upstream_cx_tx_bytes_total", "envoy_cluster_upstream_cx_rx_bytes_total"];
const MEMBERS: [&str; 2] = ["envoy_cluster_membership_healthy", "envoy_cluster_membership_total"];
const TCP_CONNECTIONS: &str = "envoy_tcp_downstream_cx_total";
const TCP_NO_ROUTE: &str = "envoy_tcp_downstream_cx_no_route";
const TCP_BYTES: [&str; 2] = ["envoy_tcp_downstream_cx_rx_bytes_total", "envoy_tcp_downstream_cx_tx_bytes_total"];

/// The label of a status' first digit.
const CLASS: &str = "envoy_response_code_class";

/// Names and values.
type Labels = Vec<(&'static str, String)>;

/// Makes Envoy's series of ours. Each keeps the label `listener` (`envoy_server_live`: `sidecar`), by which a scope finds its own.
pub(super) fn families(ours: &[MetricFamily]) -> Vec<MetricFamily> {
    let places: HashMap<&str, Place<'_>> = series(ours, LISTENER_INFO).map(|info| (value(info, LISTENER), Place { info })).collect();
    let mut out = Series::default();
    for place in places.values() {
        let sidecar = place.listener().split('/').next().unwrap_or_default();
        out.gauge(SERVER_LIVE, vec![(SIDECAR, sidecar.to_owned())], 1.0);
    }
    for (family, metric) in ours.iter().flat_map(|family| family.get_metric().iter().map(move |metric| (family.name(), metric))) {
        let Some(place) = places.get(value(metric, LISTENER)) else { continue };
        match (family, place.is_http()) {
            ("aralez_requests_total", true) => out.requests(place, metric),
            ("aralez_request_duration_seconds", true) => {
                let destination = value(metric, "destination");
                out.milliseconds(HTTP_TIME, place.downstream(destination), metric.get_histogram());
                out.milliseconds(CLUSTER_TIME, place.cluster(destination), metric.get_histogram());
            }
            ("aralez_connections_active", true) => out.gauge(HTTP_ACTIVE, place.downstream(place.destination()), gauge(metric)),
            ("aralez_connections_opened_total", false) => {
                out.counter(TCP_CONNECTIONS, place.downstream(place.destination()), counter(metric))
            }
            ("aralez_tcp_connections_total", false) => out.connections(place, metric),
            ("aralez_bytes_total", false) => {
                let way = usize::from(value(metric, "dir") == "sent");
                let names = [TCP_BYTES, CLUSTER_BYTES].map(|names| names.get(way).copied().unwrap_or_default());
                let [downstream, cluster] = names;
                out.counter(downstream, place.downstream(place.destination()), counter(metric));
                out.counter(cluster, place.cluster(place.destination()), counter(metric));
            }
            ("aralez_upstream_endpoints", _) => out.members(place, metric),
            _ => {}
        }
    }
    out.families()
}

/// A listener, as its info series tells it.
struct Place<'a> {
    info: &'a Metric,
}

impl Place<'_> {
    fn listener(&self) -> &str {
        value(self.info, LISTENER)
    }

    fn is_http(&self) -> bool {
        value(self.info, "protocol") != "tcp"
    }

    fn is_outbound(&self) -> bool {
        value(self.info, "direction") == "outbound"
    }

    /// The service that an outbound listener was made for.
    fn destination(&self) -> &str {
        value(self.info, "destination")
    }

    /// The labels of what is counted on the client's side.
    fn downstream(&self, destination: &str) -> Labels {
        let prefix = if self.is_http() { "envoy_http_conn_manager_prefix" } else { "envoy_tcp_prefix" };
        let name = self.listener().split_once('/').map_or("", |(_, name)| name);
        let name = match name {
            _ if self.is_outbound() => "upstream".to_owned(),
            "public" => "public_listener".to_owned(),
            name => name.to_owned(),
        };
        let mut labels = vec![(LISTENER, self.listener().to_owned()), (prefix, name)];
        if self.is_outbound() {
            let names = ["consul_upstream_service", "consul_upstream_namespace", "consul_upstream_datacenter"];
            labels.extend(names.into_iter().zip(self.named(destination)));
        }
        labels
    }

    /// The labels of what is counted on the endpoint's side.
    fn cluster(&self, destination: &str) -> Labels {
        let mut labels = vec![(LISTENER, self.listener().to_owned())];
        if self.is_outbound() {
            let [service, namespace, datacenter] = self.named(destination);
            let target = format!("{service}.{namespace}.{datacenter}");
            labels.extend([("envoy_cluster_name", target.clone()), ("consul_destination_target", target)]);
            let names = ["consul_destination_service", "consul_destination_namespace", "consul_destination_datacenter"];
            labels.extend(names.into_iter().zip([service, namespace, datacenter]));
        } else {
            labels.push(("envoy_cluster_name", "local_app".to_owned()));
        }
        labels
    }

    /// Name, namespace and datacenter of a service that is called.
    fn named(&self, destination: &str) -> [String; 3] {
        let mut parts = destination.rsplit('/');
        let service = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or("default");
        [service, namespace, value(self.info, "datacenter")].map(str::to_owned)
    }
}

/// The series made so far, by name and labels.
#[derive(Default)]
struct Series(BTreeMap<&'static str, (MetricType, BTreeMap<Labels, Metric>)>);

impl Series {
    fn requests(&mut self, place: &Place<'_>, metric: &Metric) {
        let (destination, number) = (value(metric, "destination"), counter(metric));
        self.classes(HTTP_REQUESTS, place.downstream(destination), metric);
        if let Some(class) = class(metric) {
            self.counter(LISTENER_REQUESTS, [place.downstream(destination), vec![class]].concat(), number);
        }
        if FORWARDED.contains(&value(metric, "flag")) {
            self.classes(CLUSTER_REQUESTS, place.cluster(destination), metric);
        }
    }

    /// Counts requests in all, those that were answered, and these by the class of their status.
    fn classes(&mut self, [total, completed, by_class]: [&'static str; 3], labels: Labels, metric: &Metric) {
        let number = counter(metric);
        self.counter(total, labels.clone(), number);
        if let Some(class) = class(metric) {
            self.counter(completed, labels.clone(), number);
            self.counter(by_class, [labels, vec![class]].concat(), number);
        }
    }

    fn connections(&mut self, place: &Place<'_>, metric: &Metric) {
        let (destination, flag, number) = (value(metric, "destination"), value(metric, "flag"), counter(metric));
        let (failed, lost) = (flag == "UF", matches!(flag, "NR" | "UH"));
        let tried = failed || FORWARDED.contains(&flag);
        self.counter(CLUSTER_CONNECTIONS, place.cluster(destination), if tried { number } else { 0.0 });
        self.counter(CLUSTER_FAILED, place.cluster(destination), if failed { number } else { 0.0 });
        self.counter(TCP_NO_ROUTE, place.downstream(destination), if lost { number } else { 0.0 });
    }

    fn members(&mut self, place: &Place<'_>, metric: &Metric) {
        let [healthy, total] = MEMBERS;
        let labels = place.cluster(place.destination());
        self.gauge(total, labels.clone(), gauge(metric));
        if value(metric, "state") == "healthy" {
            self.gauge(healthy, labels, gauge(metric));
        }
    }

    fn counter(&mut self, name: &'static str, labels: Labels, number: f64) {
        let metric = self.metric(name, MetricType::COUNTER, labels);
        let mut sum = Counter::default();
        sum.set_value(counter(metric) + number);
        metric.set_counter(sum);
    }

    /// Adds to a gauge; but a process is live or not.
    fn gauge(&mut self, name: &'static str, labels: Labels, number: f64) {
        let metric = self.metric(name, MetricType::GAUGE, labels);
        let mut sum = Gauge::default();
        sum.set_value(if name == SERVER_LIVE { number } else { gauge(metric) + number });
        metric.set_gauge(sum);
    }

    /// Adds a histogram of seconds to one of milliseconds.
    fn milliseconds(&mut self, name: &'static str, labels: Labels, seconds: &Histogram) {
        let metric = self.metric(name, MetricType::HISTOGRAM, labels);
        let known = metric.get_histogram().clone();
        let mut sum = Histogram::default();
        sum.set_sample_count(known.get_sample_count() + seconds.get_sample_count());
        sum.set_sample_sum(1000.0 * seconds.get_sample_sum() + known.get_sample_sum());
        let buckets = seconds.get_bucket().iter().enumerate().map(|(at, bucket)| {
            let known = known.get_bucket().get(at).map_or(0, Bucket::cumulative_count);
            let mut sum = Bucket::default();
            sum.set_upper_bound(1000.0 * bucket.upper_bound());
            sum.set_cumulative_count(bucket.cumulative_count() + known);
            sum
        });
        sum.set_bucket(buckets.collect());
        metric.set_histogram(sum);
    }

    fn metric(&mut self, name: &'static str, kind: MetricType, labels: Labels) -> &mut Metric {
        let (_, all) = self.0.entry(name).or_insert_with(|| (kind, BTreeMap::new()));
        all.entry(labels).or_default()
    }

    fn families(self) -> Vec<MetricFamily> {
        let family = |(name, (kind, all)): (&str, (MetricType, BTreeMap<Labels, Metric>))| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help("As Envoy under Consul has it".to_owned());
            family.set_field_type(kind);
            family.set_metric(all.into_iter().map(|(labels, metric)| labelled(metric, labels)).collect());
            family
        };
        self.0.into_iter().map(family).collect()
    }
}

fn labelled(mut metric: Metric, labels: Labels) -> Metric {
    let pair = |(name, value): (&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    metric.set_label(labels.into_iter().map(pair).collect());
    metric
}

fn series<'a>(families: &'a [MetricFamily], name: &str) -> impl Iterator<Item = &'a Metric> {
    families.iter().filter(move |family| family.name() == name).flat_map(|family| family.get_metric())
}

fn value<'a>(metric: &'a Metric, label: &str) -> &'a str {
    metric.get_label().iter().find(|pair| pair.name() == label).map_or("", LabelPair::value)
}

fn counter(metric: &Metric) -> f64 {
    metric.get_counter().get_value()
}

fn gauge(metric: &Metric) -> f64 {
    metric.get_gauge().get_value()
}

/// The label of the class of a request's status, if it had one.
fn class(metric: &Metric) -> Option<(&'static str, String)> {
    let digit = value(metric, "code_class").strip_suffix("xx")?;
    Some((CLASS, digit.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        model::{
            access_log::AccessLog,
            listener::{Listener, Protocol},
        },
        telemetry::{
            metrics::Metrics,
            record::{Flag, Record},
            testing::{http, id, inbound, outbound, record},
        },
    };

    fn text(metrics: &Metrics) -> String {
        metrics.export_envoy();
        metrics.encode().unwrap()
    }

    /// The value of the one series whose name and labels hold all these parts.
    fn found(text: &str, name: &str, parts: &[&str]) -> f64 {
        let name = format!("{name}{{");
        let fitting: Vec<&str> = text.lines().filter(|line| line.starts_with(&name) && parts.iter().all(|p| line.contains(p))).collect();
        assert_eq!(fitting.len(), 1, "{name} {parts:?} in\n{text}");
        fitting[0].rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn callers_are_summed_and_what_was_refused_never_reached_the_app() {
        let (metrics, listener) = (Metrics::new().unwrap(), inbound(AccessLog::default(), 0));
        let counters = metrics.listener(&listener);
        for (caller, status, flag) in [("api", 200, Flag::None), ("shop", 503, Flag::None), ("api", 403, Flag::Unauthorized)] {
            let (id, duration) = (id(caller), Duration::from_millis(30));
            counters.record(&Record { source: Some(&id), http: Some(http(status)), flag, duration, ..record(&listener) });
        }
        let text = text(&metrics);
        let public = r#"envoy_http_conn_manager_prefix="public_listener""#;
        let app = r#"envoy_cluster_name="local_app""#;
        assert_eq!(found(&text, "envoy_http_downstream_rq_total", &[public]), 3.0);
        assert_eq!(found(&text, "envoy_listener_http_downstream_rq_xx", &[public, r#"code_class="4""#]), 1.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_rq_total", &[app]), 2.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_rq_xx", &[app, r#"code_class="5""#]), 1.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_rq_time_bucket", &[app, r#"le="25""#]), 0.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_rq_time_bucket", &[app, r#"le="50""#]), 3.0);
        assert_eq!(found(&text, "envoy_http_downstream_rq_time_sum", &[public]), 90.0);
        assert_eq!(found(&text, "envoy_server_live", &[r#"sidecar="web-sidecar-proxy""#]), 1.0);
    }

    #[test]
    fn a_call_names_its_destination_and_its_datacenter() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let counters = metrics.listener(&listener);
        counters.record(&Record { http: Some(http(200)), ..record(&listener) });
        counters.endpoints(2, 1);
        let text = text(&metrics);
        let labels = [r#"service="api""#, r#"datacenter="dc1""#, r#"target="api.default.dc1""#];
        assert_eq!(found(&text, "envoy_cluster_upstream_rq_completed", &labels), 1.0);
        assert_eq!(found(&text, "envoy_cluster_membership_total", &labels), 3.0);
        let upstream = [r#"prefix="upstream""#, r#"consul_upstream_service="api""#];
        assert_eq!(found(&text, "envoy_http_downstream_rq_completed", &upstream), 1.0);
    }

    #[test]
    fn tcp_has_connections_and_bytes_instead() {
        let (metrics, listener) = (Metrics::new().unwrap(), Listener { protocol: Protocol::Tcp, ..outbound() });
        let counters = metrics.listener(&listener);
        for flag in [Flag::None, Flag::UpstreamConnectionFailure, Flag::NoHealthyUpstream] {
            counters.connection_opened();
            counters.record(&Record { flag, ..record(&listener) });
        }
        let text = text(&metrics);
        assert_eq!(found(&text, "envoy_tcp_downstream_cx_total", &[r#"envoy_tcp_prefix="upstream""#]), 3.0);
        assert_eq!(found(&text, "envoy_tcp_downstream_cx_no_route", &[]), 1.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_cx_total", &[]), 2.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_cx_connect_fail", &[]), 1.0);
        assert_eq!(found(&text, "envoy_tcp_downstream_cx_rx_bytes_total", &[]), 9.0);
        assert_eq!(found(&text, "envoy_cluster_upstream_cx_tx_bytes_total", &[]), 9.0);
        assert!(!text.contains("envoy_http_"), "{text}");
    }

    #[test]
    fn none_is_there_unasked() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let _alive = metrics.listener(&listener);
        assert!(!metrics.encode().unwrap().contains("envoy_"));
    }
}
