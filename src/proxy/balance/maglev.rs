//! Consistent hashing by Maglev's table ("Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4).

use xxhash_rust::xxh64::xxh64;

use super::{
    Hosts,
    draw::Chances,
    weighted::{Choice, TRIES, Weighted},
};
use crate::model::listener::Address;

/// Entries of the table: a prime, Envoy's default.
const SIZE: u32 = 65_537;

/// A table in which each endpoint has a share of the entries, in places that its address decides.
#[derive(Debug)]
pub(super) struct Maglev {
    /// Indices of choices; empty when there are none.
    table: Box<[u32]>,
}

/// An endpoint that fills in its entries.
struct Filling {
    choice: u32,
    weight: u64,
    /// The next entry that it wants.
    at: u32,
    /// From there to the one after.
    skip: u32,
    /// Entries that it has.
    taken: u64,
}

impl Maglev {
    /// The endpoints take their entries in turns, in order of their addresses, so that all sidecars have one table; one of half the weight has
    /// a turn every second time.
    pub(super) fn new<'a>(weighted: &Weighted, address: impl Fn(usize) -> Option<&'a Address>) -> Self {
        const FREE: u32 = u32::MAX;
        let named = weighted.choices().iter().zip(0u32..).filter_map(|(c, at)| Some((address(c.place)?.to_string(), at, c.weight)));
        let mut named: Vec<(String, u32, u32)> = named.collect();
        named.sort_unstable();
        let below = |hash: u64, bound: u32| (hash % u64::from(bound)) as u32;
        let filling = named.iter().map(|(name, choice, weight)| Filling {
            choice: *choice,
            weight: u64::from(*weight),
            at: below(xxh64(name.as_bytes(), 0), SIZE),
            skip: below(xxh64(name.as_bytes(), 1), SIZE - 1) + 1,
            taken: 0,
        });
        let mut filling: Vec<Filling> = filling.take(SIZE as usize).collect();
        let Some(heaviest) = filling.iter().map(|f| f.weight).max() else { return Self { table: Box::default() } };
        let mut table = vec![FREE; SIZE as usize];
        let mut free = SIZE;
        for round in 0u64.. {
            for endpoint in filling.iter_mut().filter(|f| round * f.weight >= f.taken * heaviest) {
                if free == 0 {
                    return Self { table: table.into() };
                }
                while let Some(entry) = table.get_mut(endpoint.at as usize) {
                    let wanted = *entry == FREE;
                    if wanted {
                        *entry = endpoint.choice;
                    }
                    endpoint.at = (endpoint.at + endpoint.skip) % SIZE;
                    if wanted {
                        break;
                    }
                }
                endpoint.taken += 1;
                free -= 1;
            }
        }
        Self { table: table.into() }
    }

    /// The endpoint whose entry the hash is, or one of the available ones that follow from hashing on. Constant time.
    pub(super) fn pick(&self, hash: u64, weighted: &Weighted, hosts: &impl Hosts) -> Option<Choice> {
        let mut chances = Chances::new(hash);
        let mut hash = hash;
        for _ in 0..TRIES {
            let entry = usize::try_from(hash.checked_rem(self.table.len() as u64)?).ok()?;
            let choice = weighted.choices().get(*self.table.get(entry)? as usize).copied()?;
            if hosts.available(choice.place) {
                return Some(choice);
            }
            hash = chances.next();
        }
        weighted.any(hash, hosts)
    }
}
