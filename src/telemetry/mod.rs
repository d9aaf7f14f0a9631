//! What is told about the traffic: logs, metrics, the access log.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod record;
pub mod refusals;
pub mod statsd;
#[cfg(test)]
pub(crate) mod testing;
pub mod traces;

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime},
};

use self::{
    access_log::AccessLogger,
    metrics::{ListenerMetrics, Metrics},
    record::Record,
    refusals::Refusals,
    traces::Traces,
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
    /// What was refused of late.
    pub refusals: Refusals,
    /// What collectors are sent.
    pub traces: Traces,
    /// When the process began.
    pub started: (SystemTime, Instant),
}

impl Telemetry {
    /// New counters, and an access log with its writing thread.
    ///
    /// # Errors
    /// When a metric's name is not valid (a mistake in this program) or the system gives no thread.
    pub fn start() -> anyhow::Result<Self> {
        let metrics = Metrics::new()?;
        let access = AccessLogger::start(metrics.access_log_dropped.clone())?;
        let traces = Traces::new(metrics.spans_dropped.clone());
        Ok(Self { metrics, access, refusals: Refusals::default(), traces, started: (SystemTime::now(), Instant::now()) })
    }

    /// Counts and logs one finished request or connection, and sends its part in a trace. Never waits.
    pub fn record(&self, record: &Record<'_>, listener: &ListenerMetrics) {
        listener.record(record);
        self.access.log(record);
        self.refusals.note(record);
        self.traces.send(record);
    }

    /// Logs a connection that was refused before it could become a request. Never waits.
    pub fn refused(&self, record: &Record<'_>) {
        self.access.log_refused(record);
        self.refusals.keep(record);
    }
}
