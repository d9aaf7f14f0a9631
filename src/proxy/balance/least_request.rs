//! Least request.

use super::{
    Hosts,
    draw::Chances,
    weighted::{Choice, Weighted},
};

/// The least busy of `choices` endpoints drawn at random by weight, with replacement; of all when there are not more than that. Busy is what an
/// endpoint has in flight per unit of its weight, as far as it is warm; of equals the one drawn first is taken, so that idle endpoints are
/// chosen by weight.
pub(super) fn pick(weighted: &Weighted, choices: u32, chances: &mut Chances, hosts: &impl Hosts) -> Option<Choice> {
    let first = weighted.choose(None, chances, hosts)?;
    let less_busy = |best: Choice, other: Choice| if busy(other, hosts) < busy(best, hosts) { other } else { best };
    let count = usize::try_from(choices).unwrap_or(usize::MAX);
    let all = weighted.choices();
    if all.len() <= count {
        let others = all.iter().filter(|c| hosts.available(c.place) && chances.happens(hosts.warmth(c.place)));
        return Some(others.copied().fold(first, less_busy));
    }
    Some((1..count).filter_map(|_| weighted.choose(None, chances, hosts)).fold(first, less_busy))
}

fn busy(choice: Choice, hosts: &impl Hosts) -> f64 {
    f64::from(hosts.active(choice.place)) / (f64::from(choice.weight) * hosts.warmth(choice.place))
}
