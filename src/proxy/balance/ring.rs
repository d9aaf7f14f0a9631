//! Consistent hashing on a ring (Ketama).

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

use super::{
    Hosts,
    weighted::{Choice, TRIES, Weighted},
};
use crate::model::listener::Address;

/// Points of an endpoint of full weight. It depends on the number of endpoints only where [`ORDINARY`] bounds it: were it a share of the
/// least ring, as in Envoy, each endpoint that leaves would give points to all others, and keys that it never served would move.
const EACH: f64 = 1024.0;
/// Most points of a ring for whose size nobody asked.
const ORDINARY: f64 = 65_536.0;

/// Endpoints on a circle of hashes, each at many points; a key belongs to the first point that is not before it.
#[derive(Debug)]
pub(super) struct Ring {
    /// The points, ascending.
    points: Box<[u64]>,
    /// Whose they are: indices of choices.
    owners: Box<[u32]>,
}

impl Ring {
    /// A ring of at least `min` and at most `max` points, where every endpoint has at least one. A point is the hash of the endpoint's address
    /// and the point's number, `10.0.0.1:80_0`, as in Envoy.
    pub(super) fn new<'a>(weighted: &Weighted, address: impl Fn(usize) -> Option<&'a Address>, min: u64, max: u64) -> Self {
        let heaviest = f64::from(weighted.choices().iter().map(|c| c.weight).max().unwrap_or(1));
        let full = weighted.choices().iter().map(|c| f64::from(c.weight) / heaviest).sum::<f64>();
        let size = (full * EACH).min(ORDINARY).max(min as f64).min(max as f64);
        let mut ring: Vec<(u64, u32)> = Vec::new();
        let mut key = String::new();
        for (choice, at) in weighted.choices().iter().zip(0u32..) {
            let Some(address) = address(choice.place) else { continue };
            let points = (size / full * f64::from(choice.weight) / heaviest).round().max(1.0) as u64;
            key.clear();
            // Writing to a string cannot fail.
            let _ = write!(key, "{address}_");
            let stem = key.len();
            for number in 0..points {
                key.truncate(stem);
                let _ = write!(key, "{number}");
                ring.push((xxh64(key.as_bytes(), 0), at));
            }
        }
        ring.sort_unstable();
        let (points, owners): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        Self { points: points.into(), owners: owners.into() }
    }

    /// The available owner of the first point that is not before `hash`, or of one of the next; far from there any endpoint, by the hash.
    /// Logarithmic time.
    pub(super) fn pick(&self, hash: u64, weighted: &Weighted, hosts: &impl Hosts) -> Option<Choice> {
        let (before, after) = self.owners.split_at(self.points.partition_point(|point| *point < hash));
        let near = after.iter().chain(before).take(TRIES * 4).filter_map(|owner| weighted.choices().get(*owner as usize));
        near.copied().find(|choice| hosts.available(choice.place)).or_else(|| weighted.any(hash, hosts))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}
