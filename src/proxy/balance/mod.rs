//! Balance: which endpoint of a cluster gets the next request.
//!
//! Everything that can be decided when a snapshot is compiled is decided here, once: the healthy endpoints and the order in
//! which they take turns. `pick` is one atomic addition.

mod round_robin;

pub use round_robin::RoundRobin;

/// What a policy asks about the endpoints of its cluster, each by its place.
pub trait Hosts {
    /// Whether the endpoint may be chosen now: healthy, not ejected, not tried before.
    fn available(&self, place: usize) -> bool;
    /// Requests (or opaque connections) that it has in flight.
    fn active(&self, place: usize) -> u32;
    /// Its share of its full weight while it warms up, in (0, 1]; 1 when it is warm.
    fn warmth(&self, place: usize) -> f64;
}
