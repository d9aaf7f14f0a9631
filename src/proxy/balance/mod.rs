//! Balance: which endpoint of a cluster gets the next request.
//!
//! Everything that can be decided when a snapshot is compiled is decided then, once a change of the cluster's endpoints, by
//! [`Balancer::new`]; [`Balancer::pick`] is pure: chance, order and the request's hash come in as a [`Draw`], what changes from request to
//! request is asked of [`Hosts`]. An endpoint goes by its place in the cluster's list.

mod balancer;
pub mod cookie;
mod draw;
pub mod hash;
mod least_request;
mod maglev;
mod ring;
mod round_robin;
mod slow_start;
pub mod sticky;
#[cfg(test)]
mod tests;
mod weighted;

pub use balancer::Balancer;
pub use draw::Draw;
pub use slow_start::warmth;

/// What a policy asks about the endpoints of its cluster, each by its place.
pub trait Hosts {
    /// Whether the endpoint may be chosen now: healthy, not ejected, not tried before.
    fn available(&self, place: usize) -> bool;
    /// Requests (or opaque connections) that it has in flight.
    fn active(&self, place: usize) -> u32;
    /// Its share of its full weight while it warms up, in (0, 1]; 1 when it is warm. See [`warmth`].
    fn warmth(&self, place: usize) -> f64;
}
