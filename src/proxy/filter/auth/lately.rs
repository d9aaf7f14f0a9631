//! What happened lately: bounded, and forgotten after a while.

use std::{
    collections::HashSet,
    hash::Hash,
    mem,
    time::{Duration, Instant},
};

/// How long something is lately, at least; it is forgotten after twice that at the latest.
pub const LIFE: Duration = Duration::from_secs(5 * 60);

/// The most of one generation; together they are some hundred kilobytes.
const MOST: usize = 4096;

/// Things in two generations: when the young one is old or full it takes the old one's place.
pub struct Lately<K> {
    young: HashSet<K>,
    old: HashSet<K>,
    turned: Instant,
}

impl<K> Default for Lately<K> {
    fn default() -> Self {
        Self { young: HashSet::new(), old: HashSet::new(), turned: Instant::now() }
    }
}

impl<K: Eq + Hash> Lately<K> {
    /// Whether this happened lately.
    pub fn has(&mut self, thing: &K, now: Instant) -> bool {
        self.turn(now);
        self.young.contains(thing) || self.old.contains(thing)
    }

    /// This happens now.
    pub fn note(&mut self, thing: K, now: Instant) {
        self.turn(now);
        if self.young.len() >= MOST {
            self.next(now);
        }
        self.young.insert(thing);
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age >= LIFE {
            self.next(now);
        }
        if age >= 2 * LIFE {
            self.old.clear();
        }
    }

    fn next(&mut self, now: Instant) {
        self.old = mem::take(&mut self.young);
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_forgotten_in_time_and_bounded() {
        let mut lately = Lately::default();
        let begun = Instant::now();
        lately.note(1, begun);
        assert!(lately.has(&1, begun + LIFE - Duration::from_secs(1)) && !lately.has(&2, begun));
        assert!(lately.has(&1, begun + LIFE + Duration::from_secs(1)));
        assert!(!lately.has(&1, begun + 3 * LIFE));
        lately.note(1, begun);
        assert!(!lately.has(&1, begun + 6 * LIFE), "both generations are old");
        for thing in 0..10 * MOST {
            lately.note(thing, begun + 6 * LIFE);
            assert!(lately.young.len() + lately.old.len() <= 2 * MOST);
        }
        assert!(lately.has(&(10 * MOST - 1), begun + 6 * LIFE) && !lately.has(&0, begun + 6 * LIFE));
    }
}
