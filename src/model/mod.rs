//! The vocabulary of Aralez as plain values: no I/O, no async, no clock.
//!
//! Strings are parsed once into these types and never looked at again; policy, routing and forwarding use one form.

pub mod access_log;
pub mod balance;
pub mod cluster;
pub mod credentials;
pub mod finding;
pub mod format;
pub mod identity;
pub mod ingress;
pub mod intention;
pub mod jwt;
pub mod listener;
pub mod matching;
pub mod mesh;
pub mod metrics;
pub mod moment;
pub mod path;
pub mod registration;
pub mod route;
pub mod secret;
#[cfg(test)]
pub(crate) mod testing;
pub mod tracing;
