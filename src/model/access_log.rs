//! Access log settings, as proxy-defaults `AccessLogs` has them.

use std::path::PathBuf;

use serde::Serialize;

/// Where access log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// Standard output, Consul's default.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

/// Whether and where requests are logged. The default is off, as in Consul.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct AccessLog {
    /// One line for each request (http) or connection (tcp).
    pub enabled: bool,
    /// Where the lines go.
    pub sink: Sink,
}
