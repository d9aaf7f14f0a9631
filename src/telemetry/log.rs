//! The process's own log: to standard error, as text or as JSON lines, with a level that can be changed while running.
//!
//! Each line has the time (RFC 3339, UTC, microseconds), the level, the target and the message. Libraries below us are kept at
//! `warn` whatever the level: Pingora logs every closed connection, and a sidecar's log is read by people who run services.

use std::{fmt, io::IsTerminal, str::FromStr, sync::Arc};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// Targets (and all that begin with them) that never log below `warn`.
const QUIET: [&str; 7] = ["pingora", "h2", "hyper", "reqwest", "hickory", "axum", "mio"];

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Everything, byte by byte where there is something to tell.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happens: the default.
    #[default]
    Info,
    /// What is wrong but does not stop anything.
    Warn,
    /// What failed.
    Error,
    /// Nothing.
    Off,
}

impl Level {
    /// The words for levels, as errors and `/log` list them.
    pub const WORDS: &str = "trace, debug, info, warn, error, off";

    fn filter(self) -> Targets {
        let (own, others) = match self {
            Self::Trace => (LevelFilter::TRACE, LevelFilter::WARN),
            Self::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
            Self::Info => (LevelFilter::INFO, LevelFilter::WARN),
            Self::Warn => (LevelFilter::WARN, LevelFilter::WARN),
            Self::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
            Self::Off => (LevelFilter::OFF, LevelFilter::OFF),
        };
        Targets::new().with_default(own).with_targets(QUIET.map(|target| (target, others)))
    }
}

/// A word that names no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log level; use one of {words}", words = Level::WORDS)]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    /// Any case; `warning` and `err` as Consul has them.
    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        match word.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" | "err" => Ok(Self::Error),
            "off" => Ok(Self::Off),
            _ => Err(UnknownLevel(word.to_owned())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Off => "off",
        })
    }
}

/// Changes the level of a running log.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<Mutex<Level>>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogHandle({})", self.level())
    }
}

impl LogHandle {
    /// The level now.
    pub fn level(&self) -> Level {
        *self.level.lock()
    }

    /// Changes the level.
    ///
    /// # Errors
    /// When the log that this handle belongs to is gone.
    pub fn set(&self, level: Level) -> Result<(), reload::Error> {
        let mut current = self.level.lock();
        self.filter.reload(level.filter())?;
        *current = level;
        Ok(())
    }
}

/// Sets up the log of the process, with colours if it goes to a terminal and will not be sent to a file later.
///
/// # Errors
/// When a log is set up already.
pub fn install(level: Level, json: bool, to_file: bool) -> anyhow::Result<LogHandle> {
    // The bridge from the `log` crate, by which Pingora speaks, takes its bound from the filter at this moment and keeps it:
    // `warn`, so that Pingora's debug lines on the hot path cost one comparison and no more.
    let (filter, handle) = filter(Level::Warn);
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(!to_file && std::io::stderr().is_terminal());
    let format = if json { format.json().flatten_event(true).boxed() } else { format.boxed() };
    tracing_subscriber::registry().with(filter).with(format).try_init()?;
    handle.set(level)?;
    Ok(handle)
}

/// The filter that decides what is logged, with its handle.
pub(crate) fn filter(level: Level) -> (reload::Layer<Targets, Registry>, LogHandle) {
    let (layer, filter) = reload::Layer::new(level.filter());
    (layer, LogHandle { filter, level: Arc::new(Mutex::new(level)) })
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn levels_are_read_as_consul_writes_them() {
        for word in ["trace", "DEBUG", "Info", "warning", "warn", "ERR", "error", "off"] {
            assert!(word.parse::<Level>().is_ok(), "{word}");
        }
        assert_eq!("warning".parse::<Level>().unwrap().to_string(), "warn");
        assert_eq!(
            "loud".parse::<Level>().unwrap_err().to_string(),
            r#""loud" is not a log level; use one of trace, debug, info, warn, error, off"#
        );
    }

    #[test]
    fn the_level_changes_while_running_and_pingora_stays_quiet() {
        let (layer, handle) = filter(Level::Info);
        let _guard = tracing_subscriber::registry().with(layer).set_default();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        handle.set(Level::Debug).unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(!tracing::enabled!(target: "pingora_core::protocols", tracing::Level::INFO));
        assert!(tracing::enabled!(target: "pingora_core::protocols", tracing::Level::WARN));
        assert_eq!(handle.level(), Level::Debug);
    }
}
