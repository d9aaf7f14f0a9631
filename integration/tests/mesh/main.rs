//! The mesh on real components: every test talks through sidecars that a real Consul agent configures.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acl;
mod balance;
mod builtin;
mod cases;
mod cases_resolver;
mod differential;
mod drain;
mod echo;
mod intentions;
mod interop;
mod mixed;
mod outage;
mod refusals;
mod rotation;
mod scene;
mod shipped;
mod upstreams;
