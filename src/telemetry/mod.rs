//! What is told about the traffic: logs, metrics, the access log.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod record;
pub mod statsd;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::LazyLock;

use self::{
    access_log::AccessLogger,
    metrics::{ListenerMetrics, Metrics},
    record::Record,
};

/// The name of this host, as `uname` and the command `%HOSTNAME%` tell it.
pub fn hostname() -> &'static str {
    static HOSTNAME: LazyLock<String> = LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    &HOSTNAME
}

/// Everything that a finished request is told to. One for each process, shared behind an `Arc`.
#[derive(Debug)]
pub struct Telemetry {
    /// The counters.
    pub metrics: Metrics,
    /// The access log.
    pub access: AccessLogger,
}

impl Telemetry {
    /// New counters, and an access log with its writing thread.
    ///
    /// # Errors
    /// When a metric's name is not valid (a mistake in this program) or the system gives no thread.
    pub fn start() -> anyhow::Result<Self> {
        let metrics = Metrics::new()?;
        let access = AccessLogger::start(metrics.access_log_dropped.clone())?;
        Ok(Self { metrics, access })
    }

    /// Counts and logs one finished request or connection. Never waits.
    pub fn record(&self, record: &Record<'_>, listener: &ListenerMetrics) {
        listener.record(record);
        self.access.log(record);
    }
}
