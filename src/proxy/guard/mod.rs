//! What protects a cluster: limits ([`breaker`]), passive health ([`outlier`]), and which failed tries are repeated ([`retry`]).
//!
//! The state here is alive: it belongs to a cluster's target and to the ids of its endpoints, and a new snapshot never resets it. What is decided
//! follows from the arguments alone; the time is one of them.

pub mod breaker;
pub mod cluster;
pub mod outcome;
pub mod outlier;
pub mod retry;

pub use breaker::{Breaker, NotAdmitted, Overflow};
pub use cluster::{ActiveRequest, ClusterState, Ejected};
pub use outcome::Outcome;
pub use outlier::EndpointState;
