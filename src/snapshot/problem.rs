//! A problem in what somebody wrote or what the agent said, in one form for the log, `check` and the admin API.

use std::fmt;

use serde::Serialize;

/// One problem: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Problem {
    /// The sidecar it belongs to.
    pub sidecar: String,
    /// Where: a path in the registration, or the name of what was read.
    pub path: String,
    /// What is wrong and why.
    pub why: String,
    /// What to do.
    pub advice: String,
}

/// A setting that means nothing here: no mistake, but without effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The sidecar it belongs to.
    pub sidecar: String,
    /// Where: a path in the registration.
    pub path: String,
    /// Why it has no effect.
    pub why: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.sidecar, self.path, self.why, self.advice)
    }
}
