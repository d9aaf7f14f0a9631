//! Weighted round robin.

use std::collections::BTreeMap;

use super::weighted::{Choice, Weighted};

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

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of one round, in order.
    fn round(weights: &[u32], turns: u64) -> Vec<usize> {
        let weighted = Weighted::new(weights);
        let robin = Turns::new(&weighted);
        (0..turns).map(|turn| robin.at(turn, &weighted).unwrap().place).collect()
    }

    #[test]
    fn a_heavy_choice_is_spread_over_the_round() {
        assert_eq!(round(&[1, 3], 8), [1, 1, 0, 1, 1, 1, 0, 1]);
        assert_eq!(round(&[2, 2], 4), [0, 1, 0, 1]);
        assert_eq!(round(&[4, 0, 8, 4], 4), [2, 0, 3, 2]);
    }
}
