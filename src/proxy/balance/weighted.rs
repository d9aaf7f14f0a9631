//! Choice by weight at random, and what all policies fall back to.

use super::{Hosts, draw::Chances};

/// How often an unavailable endpoint is drawn before all are looked through. With a tenth of the endpoints ejected, the most by default, that
/// happens once in 10^16 picks.
pub(super) const TRIES: usize = 16;

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) place: usize,
    pub(super) weight: u32,
}

/// The endpoints that may be chosen: those of weight above 0.
#[derive(Debug)]
pub(super) struct Weighted {
    choices: Box<[Choice]>,
    /// What the weights up to each choice, its own included, sum up to. Empty when all weigh the same.
    sums: Box<[u64]>,
}

impl Weighted {
    /// Of the weights, each at its endpoint's place.
    pub(super) fn new(weights: &[u32]) -> Self {
        let choices: Box<[Choice]> =
            weights.iter().enumerate().filter(|(_, w)| **w > 0).map(|(place, weight)| Choice { place, weight: *weight }).collect();
        let same = choices.iter().all(|c| Some(c.weight) == choices.first().map(|c| c.weight));
        let running = choices.iter().scan(0, |sum, choice| {
            *sum += u64::from(choice.weight);
            Some(*sum)
        });
        Self { sums: if same { Box::default() } else { running.collect() }, choices }
    }

    pub(super) fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// One at random, by weight; `None` when there is none. Logarithmic time, constant when all weigh the same.
    pub(super) fn draw(&self, chances: &mut Chances) -> Option<Choice> {
        let at = match self.sums.last() {
            None => usize::try_from(chances.below(self.choices.len() as u64)).ok()?,
            Some(total) => {
                let drawn = chances.below(*total);
                self.sums.partition_point(|sum| *sum <= drawn)
            }
        };
        self.choices.get(at).copied()
    }

    /// One that is available: `first` if it is, else one at random. One that warms up is passed over as often as it is cold, unless nothing
    /// else turns up.
    pub(super) fn choose(&self, first: Option<Choice>, chances: &mut Chances, hosts: &impl Hosts) -> Option<Choice> {
        let mut cold = None;
        let mut candidate = first.or_else(|| self.draw(chances));
        for _ in 0..TRIES {
            let choice = candidate?;
            if hosts.available(choice.place) {
                if chances.happens(hosts.warmth(choice.place)) {
                    return Some(choice);
                }
                cold = cold.or(Some(choice));
            }
            candidate = self.draw(chances);
        }
        cold.or_else(|| self.any(chances.next(), hosts))
    }

    /// The first available one after the place that `seed` decides. Looks through all.
    pub(super) fn any(&self, seed: u64, hosts: &impl Hosts) -> Option<Choice> {
        let start = seed.checked_rem(self.choices.len() as u64)?;
        let (before, after) = self.choices.split_at(usize::try_from(start).ok()?);
        after.iter().chain(before).find(|choice| hosts.available(choice.place)).copied()
    }
}
