//! How the process lives: threads, privileges, files, signals' bounds. What `main.yaml` or the flags say, as checked values.

use std::{num::NonZeroUsize, path::PathBuf, thread, time::Duration};

use crate::{model::listener::Bind, telemetry::log::Level};

/// How long open connections may go on after SIGTERM or a hand-over, if nothing else is said: consul-dataplane's default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// How the process lives. Paths are absolute or relative to the working directory: whoever reads a file has resolved them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Worker threads of the data plane; 0 is as many as there are cores.
    pub threads: usize,
    /// Most idle connections to endpoints that are kept, in all; `None` is as many as the data plane thinks best.
    pub keepalive_pool: Option<usize>,
    /// The user to become once all of `listen` is bound; needs to be started as root, or as that user.
    pub user: Option<String>,
    /// The group to become; `None` is the user's own.
    pub group: Option<String>,
    /// Go to the background: the command ends when the process in the background serves, or with its failure.
    pub daemon: bool,
    /// Where the process id is written; removed at the end.
    pub pid_file: Option<PathBuf>,
    /// Where the log goes instead of standard error; opened anew on SIGUSR1.
    pub error_log: Option<PathBuf>,
    /// The Unix socket on which a new process asks for the listeners of this one.
    pub upgrade_sock: Option<PathBuf>,
    /// Take the listeners over from the process that listens on `upgrade_sock`.
    pub upgrade: bool,
    /// How much is logged at first.
    pub log_level: Level,
    /// Log JSON lines rather than text.
    pub log_json: bool,
    /// How long open connections may go on after SIGTERM or a hand-over.
    pub grace: Duration,
    /// What is bound before privileges are dropped: every listener of the configuration that is known at start. An address that cannot
    /// be bound is then an error at start.
    pub listen: Vec<Bind>,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            threads: 1,
            keepalive_pool: None,
            user: None,
            group: None,
            daemon: false,
            pid_file: None,
            error_log: None,
            upgrade_sock: None,
            upgrade: false,
            log_level: Level::Info,
            log_json: false,
            grace: DEFAULT_GRACE,
            listen: Vec::new(),
        }
    }
}

impl ProcessSettings {
    /// The number of worker threads, with 0 made into the number of cores that this process may use.
    pub fn workers(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.threads).or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_threads_are_as_many_as_cores() {
        let with = |threads| ProcessSettings { threads, ..ProcessSettings::default() }.workers();
        assert_eq!(with(0), thread::available_parallelism().unwrap());
        assert_eq!((with(1).get(), with(7).get()), (1, 7));
    }
}
