//! What is registered, told also of families that have no values yet.

use parking_lot::Mutex;
use prometheus::{
    Registry,
    core::Collector,
    proto::{MetricFamily, MetricType},
};

/// A family of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: Vec<String>,
    /// What it counts or says.
    pub help: String,
}

/// A registry that can name what is registered with it.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    registry: Registry,
    families: Mutex<Vec<Family>>,
}

impl Catalog {
    /// Registers a collector, and hands out a clone of it.
    pub(super) fn registered<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.register(collector.clone())?;
        Ok(collector)
    }

    pub(super) fn register(&self, collector: impl Collector + 'static) -> prometheus::Result<()> {
        let shown = collector.collect();
        let kind = |name: &str| match shown.iter().find(|family| family.name() == name).map(MetricFamily::get_field_type) {
            Some(MetricType::COUNTER) => "counter",
            Some(MetricType::HISTOGRAM) => "histogram",
            _ => "gauge",
        };
        let family = |desc: &prometheus::core::Desc| Family {
            name: desc.fq_name.clone(),
            kind: kind(&desc.fq_name),
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        };
        self.families.lock().extend(collector.desc().into_iter().map(family));
        self.registry.register(Box::new(collector))
    }

    /// The families that have values.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// All families, in the order of their registration.
    pub(super) fn families(&self) -> Vec<Family> {
        self.families.lock().clone()
    }
}
