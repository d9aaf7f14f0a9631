//! How reading the configuration anew fares.

use std::{collections::BTreeMap, time::SystemTime};

use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{registered, seconds};

/// What is read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReloadOf {
    /// `upstreams.yaml` and `conf.d`.
    Files,
    /// What was pushed to the configuration API.
    Push,
    /// The folder of certificates.
    Certificates,
}

/// How that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// It is in force.
    Applied,
    /// It says what is in force already.
    Unchanged,
    /// Something is wrong with it; what was in force stays.
    Refused,
}

/// The families of reloads. Vectors without labels show nothing before the first value; plain gauges would show a 0 that never was.
#[derive(Debug)]
pub(super) struct Reloads {
    total: IntCounterVec,
    successful: GaugeVec,
    timestamp: GaugeVec,
    info: IntGaugeVec,
    /// Whether the last reading of each was usable.
    well: Mutex<BTreeMap<ReloadOf, bool>>,
}

impl Reloads {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let total = Opts::new("aralez_config_reloads_total", "Configurations read anew, by source and result");
        let successful = Opts::new("aralez_config_last_reload_successful", "1 if the last configuration was usable in every part, else 0");
        let timestamp = Opts::new("aralez_config_last_reload_timestamp_seconds", "When a configuration last took effect");
        let info = Opts::new("aralez_config_info", "Always 1; the version of the routes in force is in the label");
        Ok(Self {
            total: registered(registry, IntCounterVec::new(total, &["source", "result"])?)?,
            successful: registered(registry, GaugeVec::new(successful, &[])?)?,
            timestamp: registered(registry, GaugeVec::new(timestamp, &[])?)?,
            info: registered(registry, IntGaugeVec::new(info, &["version"])?)?,
            well: Mutex::default(),
        })
    }

    /// A snapshot took effect.
    pub(super) fn took_effect(&self, successful: bool) {
        self.successful.with_label_values::<&str>(&[]).set(f64::from(u8::from(successful)));
        self.timestamp.with_label_values::<&str>(&[]).set(seconds(SystemTime::now()));
    }

    pub(super) fn ended(&self, of: ReloadOf, how: Reloaded) {
        let source = match of {
            ReloadOf::Files => "files",
            ReloadOf::Push => "push",
            ReloadOf::Certificates => "certificates",
        };
        let result = match how {
            Reloaded::Applied => "applied",
            Reloaded::Unchanged => "unchanged",
            Reloaded::Refused => "refused",
        };
        self.total.with_label_values(&[source, result]).inc();
        if how == Reloaded::Applied {
            self.timestamp.with_label_values::<&str>(&[]).set(seconds(SystemTime::now()));
        }
        // A push that is refused was answered: nothing is left that would be wrong.
        if of != ReloadOf::Push {
            let mut well = self.well.lock();
            well.insert(of, how != Reloaded::Refused);
            self.successful.with_label_values::<&str>(&[]).set(f64::from(u8::from(well.values().all(|well| *well))));
        }
    }

    pub(super) fn version(&self, version: &str) {
        self.info.reset();
        self.info.with_label_values(&[version]).set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn all_sources_must_be_well_and_only_the_version_in_force_shows() {
        let metrics = Metrics::new().unwrap();
        let says = |line: &str| metrics.encode().unwrap().lines().any(|found| found == line);
        metrics.reloaded(ReloadOf::Files, Reloaded::Applied);
        metrics.reloaded(ReloadOf::Certificates, Reloaded::Refused);
        metrics.reloaded(ReloadOf::Files, Reloaded::Unchanged);
        metrics.config_version("a");
        metrics.config_version("b");
        assert!(says("aralez_config_last_reload_successful 0"));
        assert!(says("aralez_config_reloads_total{result=\"refused\",source=\"certificates\"} 1"));
        assert!(says("aralez_config_info{version=\"b\"} 1") && !says("aralez_config_info{version=\"a\"} 1"));
        metrics.reloaded(ReloadOf::Certificates, Reloaded::Unchanged);
        metrics.reloaded(ReloadOf::Push, Reloaded::Refused);
        assert!(says("aralez_config_last_reload_successful 1"));
    }
}
