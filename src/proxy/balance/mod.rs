//! Balance: which endpoint of a cluster gets the next request.
//!
//! Everything that can be decided when a snapshot is compiled is decided here, once: the healthy endpoints and the order in
//! which they take turns. `pick` is one atomic addition.

mod round_robin;

pub use round_robin::RoundRobin;
