//! The metrics of some of the sidecars of a process, with the labels that Consul's Envoy gives them.

use std::collections::BTreeMap;

use prometheus::proto::{LabelPair, Metric, MetricFamily};

use super::{LISTENER, Metrics, envoy, openmetrics::Format};
use crate::model::metrics::{Compat, MetricsConfig};

/// The label by which a family names a sidecar as a whole.
pub(super) const SIDECAR: &str = "sidecar";

/// Which sidecars' metrics are shown, and the labels that each adds.
///
/// Metrics of the process are in every scope; they get a sidecar's labels only where it is the one sidecar of the scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    sidecars: BTreeMap<String, Labels>,
}

/// The labels that a sidecar adds to its metrics, by the names that Envoy under Consul has for them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Labels {
    added: Vec<(String, String)>,
    /// Whether it shows Envoy's series beside ours.
    envoy: bool,
}

impl Labels {
    fn of(config: &MetricsConfig) -> Self {
        let service = &config.service;
        let mut labels: Vec<(String, String)> = [
            ("local_cluster", service.name.to_string()),
            ("consul.source.service", service.name.to_string()),
            ("consul.source.namespace", service.namespace.to_string()),
            ("consul.source.partition", service.partition.to_string()),
            ("consul.source.datacenter", config.datacenter.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        labels.extend(config.tags.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        Self { added: labels, envoy: config.compat == Some(Compat::Envoy) }
    }
}

impl Scope {
    /// Adds a sidecar, by its proxy id.
    pub fn add(&mut self, sidecar: &str, config: &MetricsConfig) {
        self.sidecars.insert(sidecar.to_owned(), Labels::of(config));
    }

    /// The same sidecars, without the labels that each adds: for receivers that know no tags.
    pub fn untagged(mut self) -> Self {
        self.sidecars.values_mut().for_each(|labels| labels.added.clear());
        self
    }

    /// The sidecars of this scope that show Envoy's series.
    fn with_envoy(&self) -> Self {
        let sidecars = self.sidecars.iter().filter(|(_, labels)| labels.envoy);
        Self { sidecars: sidecars.map(|(sidecar, labels)| (sidecar.clone(), labels.clone())).collect() }
    }

    /// What a metric's own labels say of its place: the labels to add, or `None` if it belongs to a sidecar outside.
    fn labels(&self, metric: &Metric) -> Option<&[(String, String)]> {
        let owner = metric.get_label().iter().find_map(|label| match label.name() {
            // A sidecar's id has no slash: Consul refuses it.
            LISTENER => Some(label.value().split('/').next().unwrap_or_default()),
            SIDECAR => Some(label.value()),
            _ => None,
        });
        let labels = match (owner, self.sidecars.len()) {
            (Some(owner), _) => self.sidecars.get(owner)?,
            (None, 1) => self.sidecars.values().next()?,
            (None, _) => return Some(&[]),
        };
        Some(&labels.added)
    }
}

/// The label for the service that is called through an outbound listener.
fn destination(metric: &Metric) -> Option<(String, String)> {
    let value = |name: &str| metric.get_label().iter().find(|label| label.name() == name).map(LabelPair::value);
    let called = value("destination").filter(|_| value("direction") == Some("outbound"))?;
    Some(("consul.destination.service".to_owned(), called.to_owned()))
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

impl Metrics {
    /// The metrics of a scope, each with the scope's labels after its own. Their names have dots, as Envoy's have inside.
    pub fn scoped(&self, scope: &Scope) -> Vec<MetricFamily> {
        within(scope, self.catalog.gather())
    }

    /// The metrics of a scope as text, with Envoy's series for the sidecars that want them. What may not stand in a label's name is a `_` there.
    ///
    /// # Errors
    /// [`prometheus::Error`] when a family cannot be written as text.
    pub fn encode_scoped(&self, scope: &Scope, format: Format) -> prometheus::Result<String> {
        let all = self.catalog.gather();
        let theirs = scope.with_envoy();
        let envoy = if theirs.sidecars.is_empty() { Vec::new() } else { within(&theirs, envoy::families(&all)) };
        let mut families = within(scope, all);
        families.extend(envoy);
        for label in families.iter_mut().flat_map(|family| family.mut_metric()).flat_map(Metric::mut_label) {
            let mut name: String = label.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            if name.starts_with(|first: char| first.is_ascii_digit()) {
                name.insert(0, '_');
            }
            label.set_name(name);
        }
        self.written(&families, format)
    }
}

/// What of these belongs to a scope, with its labels.
fn within(scope: &Scope, mut families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    for family in &mut families {
        let metrics = family.take_metric().into_iter().filter_map(|mut metric| {
            let added = scope.labels(&metric)?.iter().cloned().chain(destination(&metric));
            let added: Vec<LabelPair> = added.map(|(name, value)| pair(&name, &value)).collect();
            let mut labels = metric.take_label();
            labels.extend(added);
            metric.set_label(labels);
            Some(metric)
        });
        family.set_metric(metrics.collect());
    }
    families.retain(|family| !family.get_metric().is_empty());
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{access_log::AccessLog, identity::ServiceName},
        telemetry::testing::{http, inbound, outbound, record},
    };

    fn config(service: &str, tags: &[(&str, &str)]) -> MetricsConfig {
        let tags = tags.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        MetricsConfig { tags, ..MetricsConfig::nowhere(ServiceName::local(service), "dc1") }
    }

    #[test]
    fn a_sidecars_metrics_carry_its_labels_and_no_others_are_shown() {
        let metrics = Metrics::new().unwrap();
        let (public, upstream) = (inbound(AccessLog::default(), 0), outbound());
        let mut foreign = inbound(AccessLog::default(), 0);
        foreign.key.sidecar = "api-sidecar-proxy".into();
        let counters = [&public, &upstream, &foreign].map(|listener| (metrics.listener(listener), listener));
        for (counters, listener) in &counters {
            counters.record(&crate::telemetry::record::Record { http: Some(http(200)), ..record(listener) });
        }
        let mut scope = Scope::default();
        scope.add("web-sidecar-proxy", &config("web", &[("foo-bar", "b\"az")]));
        let text = metrics.encode_scoped(&scope, Format::Text).unwrap();
        assert!(!text.contains("api-sidecar-proxy"), "{text}");
        let line =
            |parts: &[&str]| text.lines().find(|l| parts.iter().all(|p| l.contains(p))).unwrap_or_else(|| panic!("{parts:?}\n{text}"));
        let called = line(&["aralez_requests_total{", r#"direction="outbound""#]);
        for label in [
            r#"local_cluster="web""#,
            r#"consul_source_service="web""#,
            r#"consul_source_datacenter="dc1""#,
            r#"consul_destination_service="api""#,
            r#"foo_bar="b\"az""#,
        ] {
            assert!(called.contains(label), "{label} is not in {called}");
        }
        let active = line(&["aralez_requests_active{", r#"direction="inbound""#]);
        assert!(active.contains(r#"local_cluster="web""#) && !active.contains("consul_destination"), "{active}");
        assert!(line(&["aralez_build_info{"]).contains(r#"local_cluster="web""#));
        // With a second sidecar the process belongs to neither.
        scope.add("api-sidecar-proxy", &config("api", &[]));
        let both = metrics.encode_scoped(&scope, Format::Text).unwrap();
        assert!(both.contains(r#"local_cluster="api""#) && both.contains(r#"local_cluster="web""#), "{both}");
        assert!(both.lines().find(|l| l.starts_with("aralez_build_info{")).is_some_and(|l| !l.contains("local_cluster")), "{both}");
    }
}
