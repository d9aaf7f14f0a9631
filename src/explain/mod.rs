//! What a snapshot makes of one request, in words: pure, by the very tests that the data plane makes.
//!
//! [`Outbound`] follows a call of the local app through an upstream, [`Inbound`] one of a peer through the intentions. Both are shown as
//! text for people and serialised for programs.

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;
mod words;

pub use self::{
    inbound::{Inbound, Token},
    outbound::{EndpointView, LegView, Outbound, Passed, Taken, TargetView},
};
