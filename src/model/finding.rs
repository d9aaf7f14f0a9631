//! What a check found: in one form, whatever was checked.

use std::fmt;

use serde::Serialize;

use super::registration::Unusable;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was asked for does not work.
    Error,
    /// All works, but perhaps not as it was meant.
    Warning,
}

/// One finding: where, what and why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where, for example `upstream api@127.0.0.1:9191`.
    pub path: String,
    /// What is wrong and why.
    pub why: String,
    /// What to do; empty where `why` says it.
    pub advice: String,
}

impl Finding {
    /// Something does not work.
    pub fn error(Unusable { path, why, advice }: Unusable) -> Self {
        Self { severity: Severity::Error, path, why, advice }
    }

    /// Something may not be as it was meant.
    pub fn warning(Unusable { path, why, advice }: Unusable) -> Self {
        Self { severity: Severity::Warning, path, why, advice }
    }
}

/// `PATH: WHY; ADVICE`, after `warning: ` if it is one: editors look for a place at the beginning.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warning = if self.severity == Severity::Warning { "warning: " } else { "" };
        let between = if self.advice.is_empty() { "" } else { "; " };
        write!(f, "{warning}{}: {}{between}{}", self.path, self.why, self.advice)
    }
}

/// What a check comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What stands, a line each.
    pub facts: Vec<String>,
    /// What does not.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether there is no error.
    pub fn is_fine(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }

    /// Notes something that does not work.
    pub fn error(&mut self, path: impl Into<String>, why: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding::error(Unusable { path: path.into(), why: why.into(), advice: advice.into() }));
    }

    /// Notes something that may not be as it was meant.
    pub fn warning(&mut self, path: impl Into<String>, why: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding::warning(Unusable { path: path.into(), why: why.into(), advice: advice.into() }));
    }
}
