//! How reading the configuration anew fares.

use std::{collections::BTreeMap, time::SystemTime};

use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};
use serde::Serialize;
use time::OffsetDateTime;

use super::{catalog::Catalog, seconds};
use crate::model::registration::Unusable;

/// What is read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
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
pub enum Reloaded<'a> {
    /// It is in force.
    Applied,
    /// It says what is in force already.
    Unchanged,
    /// This is wrong with it; what was in force stays.
    Refused(&'a [Unusable]),
}

/// How reading one part anew fared of late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reload {
    /// What is read.
    pub source: ReloadOf,
    /// When a change last took effect.
    #[serde(with = "time::serde::rfc3339::option")]
    pub applied: Option<OffsetDateTime>,
    /// When it was last refused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub refused: Option<OffsetDateTime>,
    /// What was wrong then, a line each.
    pub problems: Vec<String>,
    /// Whether the last reading was refused.
    pub failing: bool,
}

/// The families of reloads. Vectors without labels show nothing before the first value; plain gauges would show a 0 that never was.
#[derive(Debug)]
pub struct Reloads {
    total: IntCounterVec,
    successful: GaugeVec,
    timestamp: GaugeVec,
    info: IntGaugeVec,
    last: Mutex<BTreeMap<ReloadOf, Reload>>,
    in_force: Mutex<InForce>,
}

/// What is in force.
#[derive(Clone, Debug, Default)]
struct InForce {
    since: Option<OffsetDateTime>,
    version: Option<String>,
}

impl Reloads {
    pub(super) fn new(catalog: &Catalog) -> prometheus::Result<Self> {
        let total = Opts::new("aralez_config_reloads_total", "Configurations read anew, by source and result");
        let successful = Opts::new("aralez_config_last_reload_successful", "1 if the last configuration was usable in every part, else 0");
        let timestamp = Opts::new("aralez_config_last_reload_timestamp_seconds", "When a configuration last took effect");
        let info = Opts::new("aralez_config_info", "Always 1; the version of the routes in force is in the label");
        Ok(Self {
            total: catalog.registered(IntCounterVec::new(total, &["source", "result"])?)?,
            successful: catalog.registered(GaugeVec::new(successful, &[])?)?,
            timestamp: catalog.registered(GaugeVec::new(timestamp, &[])?)?,
            info: catalog.registered(IntGaugeVec::new(info, &["version"])?)?,
            last: Mutex::default(),
            in_force: Mutex::default(),
        })
    }

    /// How each part fared; those that were never read are left out.
    pub fn last(&self) -> Vec<Reload> {
        self.last.lock().values().cloned().collect()
    }

    /// Since when the configuration in force is, and the version of its routes, as far as they are known.
    pub fn in_force(&self) -> (Option<OffsetDateTime>, Option<String>) {
        let InForce { since, version } = self.in_force.lock().clone();
        (since, version)
    }

    /// A snapshot took effect.
    pub(super) fn took_effect(&self, successful: bool) {
        self.successful.with_label_values::<&str>(&[]).set(f64::from(u8::from(successful)));
        self.now_in_force();
    }

    fn now_in_force(&self) {
        let now = SystemTime::now();
        self.timestamp.with_label_values::<&str>(&[]).set(seconds(now));
        self.in_force.lock().since = Some(now.into());
    }

    pub(super) fn ended(&self, of: ReloadOf, how: Reloaded<'_>) {
        let source = match of {
            ReloadOf::Files => "files",
            ReloadOf::Push => "push",
            ReloadOf::Certificates => "certificates",
        };
        let result = match how {
            Reloaded::Applied => "applied",
            Reloaded::Unchanged => "unchanged",
            Reloaded::Refused(_) => "refused",
        };
        self.total.with_label_values(&[source, result]).inc();
        if how == Reloaded::Applied {
            self.now_in_force();
        }
        let mut last = self.last.lock();
        let never = || Reload { source: of, applied: None, refused: None, problems: Vec::new(), failing: false };
        let this = last.entry(of).or_insert_with(never);
        match how {
            Reloaded::Applied => this.applied = Some(OffsetDateTime::now_utc()),
            Reloaded::Unchanged => {}
            Reloaded::Refused(problems) => {
                this.refused = Some(OffsetDateTime::now_utc());
                this.problems = problems.iter().map(|Unusable { path, why, advice }| format!("{path}: {why}; {advice}")).collect();
            }
        }
        // A push that is refused was answered: nothing is left that would be wrong.
        this.failing = of != ReloadOf::Push && matches!(how, Reloaded::Refused(_));
        self.successful.with_label_values::<&str>(&[]).set(f64::from(u8::from(last.values().all(|reload| !reload.failing))));
    }

    pub(super) fn version(&self, version: &str) {
        self.info.reset();
        self.info.with_label_values(&[version]).set(1);
        self.in_force.lock().version = Some(version.to_owned());
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
        let problem = Unusable { path: "certs/a.crt".to_owned(), why: "no PEM".to_owned(), advice: "replace it".to_owned() };
        metrics.reloaded(ReloadOf::Certificates, Reloaded::Refused(std::slice::from_ref(&problem)));
        metrics.reloaded(ReloadOf::Files, Reloaded::Unchanged);
        metrics.config_version("a");
        metrics.config_version("b");
        assert!(says("aralez_config_last_reload_successful 0"));
        assert!(says("aralez_config_reloads_total{result=\"refused\",source=\"certificates\"} 1"));
        assert!(says("aralez_config_info{version=\"b\"} 1") && !says("aralez_config_info{version=\"a\"} 1"));
        metrics.reloaded(ReloadOf::Certificates, Reloaded::Unchanged);
        metrics.reloaded(ReloadOf::Push, Reloaded::Refused(&[]));
        assert!(says("aralez_config_last_reload_successful 1"));
        let [files, _, certificates] = &metrics.reloads.last()[..] else { panic!() };
        assert!(files.applied.is_some() && files.refused.is_none());
        assert_eq!((&certificates.problems[..], certificates.failing), (&["certs/a.crt: no PEM; replace it".to_owned()][..], false));
        assert_eq!(metrics.reloads.in_force().1.as_deref(), Some("b"));
    }
}
