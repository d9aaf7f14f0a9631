//! How often each rule of a listener's intentions decided.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        // Each number stands for itself.
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::model::intention::{Action, DecidedBy, Intentions, Source};

/// How often a rule allowed, and how often it denied.
#[derive(Debug, Default)]
struct Tally {
    allowed: AtomicU64,
    denied: AtomicU64,
}

/// The tallies of one listener's rules, made once for a set of intentions: counting looks nothing up by name.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    /// Each intention's, with those of its permissions, in the order in which they are considered.
    intentions: Vec<(Arc<Tally>, Vec<Arc<Tally>>)>,
    default: Arc<Tally>,
    nobody: Arc<Tally>,
}

impl Hits {
    /// Counts one decision.
    pub fn count(&self, by: DecidedBy, action: Action) {
        let Some(tally) = self.tally(by) else { return };
        let counter = match action {
            Action::Allow => &tally.allowed,
            Action::Deny => &tally.denied,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// How often a rule allowed, and how often it denied.
    pub fn of(&self, by: DecidedBy) -> (u64, u64) {
        self.tally(by).map_or((0, 0), |tally| (tally.allowed.load(Relaxed), tally.denied.load(Relaxed)))
    }

    fn tally(&self, by: DecidedBy) -> Option<&Tally> {
        Some(match by {
            DecidedBy::Intention(rank) => &self.intentions.get(rank)?.0,
            DecidedBy::Permission(rank, place) => self.intentions.get(rank)?.1.get(place.checked_sub(1)?)?,
            DecidedBy::Default => &self.default,
            DecidedBy::Nobody => &self.nobody,
        })
    }
}

/// What tells a rule from the others over changes: whom it speaks of, and its name.
type RuleName = (Option<Source>, String);

/// All tallies of a listener: a rule that stays goes on counting where it was.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<HashMap<RuleName, Arc<Tally>>>);

impl Tallies {
    /// Those of a set of intentions. What no set has any more is forgotten.
    pub(super) fn of(&self, intentions: &Intentions) -> Hits {
        let mut known = self.0.lock();
        let mut tally = |of: Option<&Source>, name: String| known.entry((of.cloned(), name)).or_default().clone();
        let mut hits = Hits { default: tally(None, "default".to_owned()), nobody: tally(None, String::new()), ..Hits::default() };
        for (id, intention) in intentions.iter() {
            let mut tally = |name| tally(Some(&intention.source), name);
            let permissions = intention.permissions().iter().enumerate();
            let permissions = permissions.map(|(at, permission)| tally(format!("{id}, permission {}: {permission}", at + 1))).collect();
            hits.intentions.push((tally(id.to_string()), permissions));
        }
        known.retain(|_, tally| Arc::strong_count(tally) > 1);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        identity::TrustDomain,
        intention::{DefaultPolicy, Intention, Pattern, Rule, Source},
        listener::Protocol,
    };

    fn intentions(sources: &[&str]) -> Intentions {
        let of = |name: &&str| Intention {
            source: Source { peer: None, partition: "default".into(), namespace: Pattern::parse("default"), name: Pattern::parse(name) },
            destination: "api".to_owned(),
            precedence: 9,
            rule: Rule::Action(Action::Deny),
            jwt: None,
        };
        let trust_domain = TrustDomain::parse("td.consul").unwrap();
        Intentions::new(trust_domain, DefaultPolicy::Allow, Protocol::Http, sources.iter().map(of).collect())
    }

    #[test]
    fn a_rule_goes_on_counting_at_another_place_and_is_forgotten_when_it_is_gone() {
        let tallies = Tallies::default();
        let first = tallies.of(&intentions(&["web", "job"]));
        first.count(DecidedBy::Intention(1), Action::Deny);
        first.count(DecidedBy::Default, Action::Allow);
        first.count(DecidedBy::Permission(0, 1), Action::Allow);
        let second = tallies.of(&intentions(&["job"]));
        assert_eq!((second.of(DecidedBy::Intention(0)), second.of(DecidedBy::Default)), ((0, 1), (1, 0)));
        second.count(DecidedBy::Intention(0), Action::Deny);
        assert_eq!(first.of(DecidedBy::Intention(1)), (0, 2), "a connection that began before counts on");
        drop((first, second));
        tallies.of(&intentions(&[]));
        assert_eq!(tallies.of(&intentions(&["job"])).of(DecidedBy::Intention(0)), (0, 0));
    }
}
