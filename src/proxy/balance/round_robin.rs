//! Weighted round robin.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::weighted::{Choice, Weighted};

/// Takes turns among weighted choices: over one round, which has as many turns as the weights sum up to (reduced by their greatest
/// common divisor), each choice has its exact share, spread evenly.
#[derive(Debug)]
pub struct RoundRobin {
    /// The round: indices of choices, in order of their turns.
    turns: Box<[u32]>,
    /// Counts the turns taken; shared with the schedule's successors, so that a changed endpoint does not restart the round.
    taken: Arc<AtomicUsize>,
}

impl RoundRobin {
    /// A schedule for the weights; a choice of weight 0 never has a turn. It goes on where `before` stands, or at a random turn,
    /// so that many sidecars started together do not call one endpoint at once.
    pub fn new(weights: &[u32], before: Option<&Self>) -> Self {
        let taken = before.map(|b| b.taken.clone()).unwrap_or_else(|| Arc::new(AtomicUsize::new(fastrand::usize(..))));
        Self { turns: schedule(weights), taken }
    }

    /// Whether there is nothing to choose from.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The choice whose turn it is; `None` when there is nothing to choose from. Constant time.
    pub fn pick(&self) -> Option<usize> {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(self.turns.len())?;
        self.turns.get(at).map(|choice| *choice as usize)
    }
}

/// Turns among weighted choices: over one round, which has as many turns as the weights sum up to (reduced by their greatest common divisor),
/// each choice has its exact share, spread evenly.
///
/// A round is made of laps, as many as the heaviest choice has turns; it has one in each lap, a choice of half its weight in each second.
#[derive(Debug)]
pub(super) struct Turns {
    /// Choices of one weight, the lightest first.
    classes: Box<[Class]>,
    /// Laps of a round.
    laps: u64,
}

#[derive(Debug)]
struct Class {
    weight: u64,
    /// Indices of choices.
    members: Box<[u32]>,
}

impl Turns {
    pub(super) fn new(weighted: &Weighted) -> Self {
        let divisor = u64::from(weighted.choices().iter().map(|c| c.weight).fold(0, gcd).max(1));
        let mut classes: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (choice, at) in weighted.choices().iter().zip(0u32..) {
            classes.entry(u64::from(choice.weight) / divisor).or_default().push(at);
        }
        let laps = classes.keys().next_back().copied().unwrap_or(1);
        Self { classes: classes.into_iter().map(|(weight, members)| Class { weight, members: members.into() }).collect(), laps }
    }

    /// Whose turn it is; `None` when there is nobody. Logarithmic in the greatest weight, linear in the number of different weights.
    pub(super) fn at(&self, turn: u64, weighted: &Weighted) -> Option<Choice> {
        let turn = turn.checked_rem(self.before(self.laps))?;
        let lap = self.lap_of(turn);
        let mut rest = turn - self.before(lap);
        for class in self.classes.iter().filter(|class| self.taken(class, lap + 1) > self.taken(class, lap)) {
            let members = class.members.len() as u64;
            if rest < members {
                let at = *class.members.get(usize::try_from(rest).ok()?)?;
                return weighted.choices().get(at as usize).copied();
            }
            rest -= members;
        }
        None
    }

    /// Turns that each member of a class has before a lap.
    fn taken(&self, class: &Class, lap: u64) -> u64 {
        lap * class.weight / self.laps
    }

    /// Turns of all before a lap.
    fn before(&self, lap: u64) -> u64 {
        self.classes.iter().map(|class| class.members.len() as u64 * self.taken(class, lap)).sum()
    }

    /// The lap in which a turn of the round is: the last that begins no later.
    fn lap_of(&self, turn: u64) -> u64 {
        let (mut low, mut high) = (0, self.laps);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.before(middle) <= turn { low = middle } else { high = middle }
        }
        low
    }
}

/// Earliest deadline first: choice `i`'s `n`-th turn is due at `n / weight`.
fn schedule(weights: &[u32]) -> Box<[u32]> {
    let divisor = weights.iter().copied().filter(|w| *w > 0).fold(0, gcd).max(1);
    let reduced: Vec<u64> = weights.iter().map(|w| u64::from(w / divisor)).collect();
    let round = reduced.iter().sum::<u64>();
    // Due times are compared as fractions of a common scale; the scale keeps integer division exact enough to be fair,
    // since each choice still gets exactly `weight` turns.
    const SCALE: u64 = 1 << 32;
    let due = |n: u64, weight: u64| n * SCALE / weight;
    let mut heap: BinaryHeap<Reverse<(u64, u32, u64)>> = BinaryHeap::new();
    for (choice, weight) in (0u32..).zip(&reduced) {
        if *weight > 0 {
            heap.push(Reverse((due(1, *weight), choice, 1)));
        }
    }
    let mut turns = Vec::with_capacity(usize::try_from(round).unwrap_or_default());
    while let Some(Reverse((_, choice, n))) = heap.pop() {
        turns.push(choice);
        let weight = reduced.get(choice as usize).copied().unwrap_or_default();
        if n < weight {
            heap.push(Reverse((due(n + 1, weight), choice, n + 1)));
        }
    }
    turns.into()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(weights: &[u32], picks: usize) -> Vec<usize> {
        let robin = RoundRobin::new(weights, None);
        let mut count = vec![0; weights.len()];
        for _ in 0..picks {
            if let Some(choice) = robin.pick() {
                count[choice] += 1;
            }
        }
        count
    }

    #[test]
    fn equal_weights_alternate() {
        assert_eq!(shares(&[5, 5], 100), [50, 50]);
    }

    #[test]
    fn nothing_to_choose_from_is_none_not_a_panic() {
        assert_eq!(RoundRobin::new(&[], None).pick(), None);
        assert_eq!(RoundRobin::new(&[0, 0], None).pick(), None);
    }

    #[test]
    fn a_heavy_choice_is_spread_over_the_round() {
        assert_eq!(*schedule(&[1, 3]), [1, 1, 0, 1]);
        assert_eq!(*schedule(&[2, 2]), [0, 1]);
    }

    #[test]
    fn a_successor_goes_on_where_the_schedule_stood() {
        let first = RoundRobin::new(&[1, 1, 1], None);
        let before = first.pick().unwrap();
        let second = RoundRobin::new(&[1, 1, 1], Some(&first));
        assert_eq!(second.pick().unwrap(), (before + 1) % 3);
    }

    proptest! {
        #[test]
        fn over_whole_rounds_every_choice_has_its_exact_share(weights in proptest::collection::vec(0u32..129, 1..12)) {
            let divisor = weights.iter().copied().fold(0, gcd).max(1);
            let round: u32 = weights.iter().map(|w| w / divisor).sum();
            let shares = shares(&weights, 3 * round as usize);
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert_eq!(*share as u32, 3 * weight / divisor);
            }
        }
    }
}
