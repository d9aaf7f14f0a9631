//! What is wrong with servers at present, for the log, the status page and readers of snapshots.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    control::reconciler::{IngressChange, IngressFeed},
    model::registration::Unusable,
};

/// The problems of all sources of servers.
#[derive(Debug)]
pub struct Notes {
    feed: IngressFeed,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By source, then by the place of a note among all that were ever made.
    problems: BTreeMap<&'static str, BTreeMap<u64, Unusable>>,
    made: u64,
}

impl Notes {
    /// None yet; all that changes is told to `feed`.
    pub fn new(feed: IngressFeed) -> Arc<Self> {
        Arc::new(Self { feed, known: Mutex::default() })
    }

    /// A note of `source` on `path`, empty at first.
    pub fn note(self: &Arc<Self>, source: &'static str, path: impl Into<String>) -> Note {
        let mut known = self.known.lock();
        known.made += 1;
        Note { notes: self.clone(), source, path: path.into(), place: known.made }
    }

    fn change(&self, source: &'static str, place: u64, problem: Option<Unusable>) {
        let mut known = self.known.lock();
        let problems = known.problems.entry(source).or_default();
        if problems.get(&place) == problem.as_ref() {
            return;
        }
        match problem {
            Some(problem) => drop(problems.insert(place, problem)),
            None => drop(problems.remove(&place)),
        }
        // A server of several pools is said once.
        let mut said = BTreeSet::new();
        let told = problems.values().filter(|p| said.insert((&p.path, &p.why))).cloned().collect();
        self.feed.send(IngressChange::Problems { source: source.into(), problems: told });
    }
}

/// What is wrong with one thing; nothing any more once this is dropped.
#[derive(Debug)]
pub struct Note {
    notes: Arc<Notes>,
    source: &'static str,
    path: String,
    place: u64,
}

impl Note {
    /// Says what is wrong and what to do.
    pub fn set(&self, why: impl Into<String>, advice: impl Into<String>) {
        let problem = Unusable { path: self.path.clone(), why: why.into(), advice: advice.into() };
        self.notes.change(self.source, self.place, Some(problem));
    }

    /// All is well.
    pub fn clear(&self) {
        self.notes.change(self.source, self.place, None);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.clear();
    }
}
