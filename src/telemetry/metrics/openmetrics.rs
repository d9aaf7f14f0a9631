//! The two forms in which metrics are read: the Prometheus text format 0.0.4, and OpenMetrics 1.0 with exemplars.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    time::SystemTime,
};

use opentelemetry::trace::TraceId;
use prometheus::{
    TextEncoder,
    proto::{LabelPair, Metric, MetricFamily, MetricType},
};

use super::seconds;

/// The histogram whose buckets have exemplars.
pub(super) const DURATION: &str = "aralez_request_duration_seconds";

/// The labels that tell a peer's duration series, in the order of [`Exemplars`]' keys.
const PEER: [&str; 4] = [super::LISTENER, "direction", "source", "destination"];

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format, version 0.0.4.
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

/// A request with a trace.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exemplar {
    /// The trace's id.
    pub trace: TraceId,
    /// How long it took.
    pub seconds: f64,
    /// When it ended.
    pub at: SystemTime,
}

/// The last request with a trace of each peer, by the values of the labels of its series.
pub(super) type Exemplars = HashMap<[String; 4], Exemplar>;

impl Format {
    /// The format that an `Accept` header asks for: OpenMetrics where it is named and not refused with `q=0`, unless plain text is liked better.
    pub fn accepted(accept: &str) -> Self {
        let wish = |wanted: &str| {
            let of = accept.split(',').map(|range| range.split(';').map(str::trim)).filter_map(|mut parts| {
                parts.next().filter(|name| name.eq_ignore_ascii_case(wanted))?;
                Some(parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0_f32))
            });
            of.fold(0.0, f32::max)
        };
        let openmetrics = wish("application/openmetrics-text");
        if openmetrics > 0.0 && openmetrics >= wish("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    pub(super) fn write(self, families: &[MetricFamily], exemplars: &Exemplars) -> prometheus::Result<String> {
        match self {
            Self::Text => TextEncoder::new().encode_to_string(families),
            Self::OpenMetrics => openmetrics(families, exemplars).map_err(|why| prometheus::Error::Msg(why.to_string())),
        }
    }
}

fn openmetrics(families: &[MetricFamily], exemplars: &Exemplars) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for family in families {
        let (name, kind) = match (family.get_field_type(), family.name().strip_suffix("_total")) {
            (MetricType::COUNTER, Some(name)) => (name, "counter"),
            // A counter's name ends in `_total` here; Envoy's do not always.
            (MetricType::COUNTER, None) => (family.name(), "unknown"),
            (MetricType::HISTOGRAM, _) => (family.name(), "histogram"),
            _ => (family.name(), "gauge"),
        };
        writeln!(out, "# TYPE {name} {kind}")?;
        writeln!(out, "# HELP {name} {}", escaped(family.help()))?;
        for metric in family.get_metric() {
            match family.get_field_type() {
                MetricType::COUNTER => sample(&mut out, family.name(), metric, None, metric.get_counter().get_value())?,
                MetricType::HISTOGRAM => histogram(&mut out, name, metric, exemplars)?,
                _ => sample(&mut out, name, metric, None, metric.get_gauge().get_value())?,
            }
        }
    }
    out.push_str("# EOF\n");
    Ok(out)
}

fn histogram(out: &mut String, name: &str, metric: &Metric, exemplars: &Exemplars) -> fmt::Result {
    let histogram = metric.get_histogram();
    let mut exemplar = if name == DURATION { exemplars.get(&PEER.map(|label| value(metric, label).to_owned())) } else { None };
    let count = histogram.get_sample_count();
    let last = (f64::INFINITY, count);
    let finite = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    for (bound, number) in finite.filter(|(bound, _)| bound.is_finite()).chain([last]) {
        let shown = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
        sample(out, &format!("{name}_bucket"), metric, Some(&shown), number as f64)?;
        // It stands at the bucket that it fell into.
        if let Some(Exemplar { trace, seconds: took, at }) = exemplar.filter(|exemplar| exemplar.seconds <= bound) {
            out.truncate(out.trim_end().len());
            writeln!(out, " # {{trace_id=\"{trace}\"}} {took} {:.3}", seconds(*at))?;
            exemplar = None;
        }
    }
    sample(out, &format!("{name}_sum"), metric, None, histogram.get_sample_sum())?;
    sample(out, &format!("{name}_count"), metric, None, count as f64)
}

fn sample(out: &mut String, name: &str, metric: &Metric, le: Option<&str>, number: f64) -> fmt::Result {
    let own = metric.get_label().iter().map(|label| (label.name(), label.value()));
    let labels: Vec<String> = own.chain(le.map(|le| ("le", le))).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    writeln!(out, "{name}{labels} {number}")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn value<'a>(metric: &'a Metric, label: &str) -> &'a str {
    metric.get_label().iter().find(|pair| pair.name() == label).map_or("", LabelPair::value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::{
        metrics::Metrics,
        record::{HttpPart, Record},
        testing::{http, outbound, record},
    };

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for text in
            ["", "*/*", "text/plain", "application/openmetrics-text;q=0, text/plain", "application/openmetrics-text;q=0.1,text/plain;q=0.9"]
        {
            assert_eq!(Format::accepted(text), Format::Text, "{text}");
        }
    }

    #[test]
    fn a_traced_request_stands_at_its_bucket_and_once() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        let counters = metrics.listener(&listener);
        let traced = HttpPart { trace: TraceId::from_hex(TRACE).ok(), ..http(200) };
        counters.record(&Record { http: Some(traced), duration: Duration::from_millis(30), ..record(&listener) });
        counters.record(&Record { http: Some(http(200)), duration: Duration::from_secs(60), ..record(&listener) });
        let text = metrics.encode_as(Format::OpenMetrics).unwrap();
        let with: Vec<&str> = text.lines().filter(|line| line.contains(TRACE)).collect();
        assert_eq!(with.len(), 1, "{text}");
        assert!(with[0].contains(r#"le="0.05"} 1 # {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.03 1700000000.0"#), "{}", with[0]);
        assert!(text.contains("# TYPE aralez_requests counter\n") && text.contains("\naralez_requests_total{"), "{text}");
        assert!(text.contains(r#"le="1.0"} 1"#) && text.contains(r#"le="+Inf"} 2"#) && text.ends_with("\n# EOF\n"), "{text}");
        assert!(!metrics.encode().unwrap().contains(TRACE));
    }

    #[test]
    fn envoys_counters_keep_their_names() {
        let (metrics, listener) = (Metrics::new().unwrap(), outbound());
        metrics.export_envoy();
        let counters = metrics.listener(&listener);
        counters.record(&Record { http: Some(http(200)), ..record(&listener) });
        let text = metrics.encode_as(Format::OpenMetrics).unwrap();
        assert!(
            text.contains("# TYPE envoy_cluster_upstream_rq_xx unknown\n") && text.contains("\nenvoy_cluster_upstream_rq_xx{"),
            "{text}"
        );
    }
}
