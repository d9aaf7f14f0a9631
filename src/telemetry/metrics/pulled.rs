//! Gauges that are read rather than set.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus::{
    GaugeVec, Opts,
    core::{Collector, Desc, Describer},
    proto::MetricFamily,
};

type Read = Box<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

/// A gauge with one label whose values are read when metrics are asked for: what is gone is not shown any more.
#[derive(Clone)]
pub(super) struct Pulled {
    opts: Opts,
    desc: Desc,
    read: Arc<OnceLock<Read>>,
}

impl fmt::Debug for Pulled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.opts.name)
    }
}

impl Pulled {
    pub(super) fn new(name: &str, help: &str, label: &str) -> prometheus::Result<Self> {
        let opts = Opts::new(name, help).variable_label(label);
        Ok(Self { desc: opts.describe()?, opts, read: Arc::default() })
    }

    /// Says where to read; the first source stays.
    pub(super) fn read_from(&self, read: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static) {
        let _ = self.read.set(Box::new(read));
    }
}

impl Collector for Pulled {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let labels: Vec<&str> = self.opts.variable_labels.iter().map(String::as_str).collect();
        let Ok(family) = GaugeVec::new(self.opts.clone(), &labels) else { return Vec::new() };
        for (label, value) in self.read.get().map(|read| read()).unwrap_or_default() {
            family.with_label_values(&[label]).set(value);
        }
        family.collect()
    }
}
