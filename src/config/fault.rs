//! What is wrong with a configuration file: all of it at once, each with its place.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_saphyr::Location;

use crate::model::registration::Unusable;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file as it was named; `None` for a text that came without one.
    pub file: Option<Arc<str>>,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl Place {
    /// The first character of a file.
    pub fn start(file: Option<Arc<str>>) -> Self {
        Self { file, line: 1, column: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub what: String,
    /// What to do; empty where `what` says it.
    pub advice: String,
}

/// `path:line:column: what; advice`, without the path for a text that has none.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.advice.is_empty() { "" } else { "; " };
        write!(f, "{}: {}{between}{}", self.place, self.what, self.advice)
    }
}

impl From<&Fault> for Unusable {
    fn from(fault: &Fault) -> Self {
        Self { path: fault.place.to_string(), why: fault.what.clone(), advice: fault.advice.clone() }
    }
}

/// Everything that is wrong, sorted by place; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// One fault.
    pub(super) fn one(place: Place, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self(vec![Fault { place, what: what.into(), advice: advice.into() }])
    }
}

/// A line for each fault.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// A place as the parser gives it.
pub(super) fn place(at: Location, file: &Option<Arc<str>>) -> Place {
    Place { file: file.clone(), line: at.line().max(1), column: at.column().max(1) }
}

/// What the parser does not understand.
pub(super) fn of_parser(error: &serde_saphyr::Error, file: &Option<Arc<str>>) -> Faults {
    let error = error.without_snippet();
    let at = error.location().map_or_else(|| Place::start(file.clone()), |at| place(at, file));
    if let serde_saphyr::Error::MultipleDocuments { .. } = error {
        return Faults::one(at, "a second document begins here", "a file is one; take the `---` away");
    }
    // The message names the place once more, at its end.
    let text = error.to_string();
    Faults::one(at, text.split(" at line ").next().unwrap_or(&text), "")
}

/// Gathers faults while a file is checked.
#[derive(Debug, Default)]
pub(super) struct Check {
    faults: Vec<Fault>,
    read: Vec<PathBuf>,
    /// Values of which a part was refused.
    spoiled: HashSet<Place>,
}

impl Check {
    /// Notes a fault.
    pub(super) fn fault(&mut self, at: &Place, what: impl Into<String>, advice: impl Into<String>) {
        self.faults.push(Fault { place: at.clone(), what: what.into(), advice: advice.into() });
    }

    /// Notes that a part of a value was refused: what seems to lack there may be that part.
    pub(super) fn spoil(&mut self, at: &Place) {
        self.spoiled.insert(at.clone());
    }

    /// Notes that something lacks in a value, unless a part of it was refused: one mistake is told once.
    pub(super) fn lacking(&mut self, at: &Place, what: impl Into<String>, advice: impl Into<String>) {
        if !self.spoiled.contains(at) {
            self.fault(at, what, advice);
        }
    }

    /// Notes a file that was read beside those that are checked.
    pub(super) fn also_read(&mut self, path: &Path) {
        self.read.push(path.to_owned());
    }

    /// The files that were noted, sorted.
    pub(super) fn files_read(&mut self) -> Vec<PathBuf> {
        self.read.sort();
        self.read.dedup();
        std::mem::take(&mut self.read)
    }

    /// Notes the faults of something that was checked apart.
    pub(super) fn faults(&mut self, others: Faults) {
        self.faults.extend(others.0);
    }

    /// The value, if nothing was wrong.
    pub(super) fn finish<T>(mut self, value: T) -> Result<T, Faults> {
        if self.faults.is_empty() {
            return Ok(value);
        }
        self.faults.sort_by(|one, other| one.place.cmp(&other.place));
        self.faults.dedup();
        Err(Faults(self.faults))
    }
}
