//! The jobs of `nomad/` on a real Nomad agent: `cargo test -p aralez-integration --features heavy --test nomad`, as root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acl;
mod agent;
mod docker;
mod edge;
mod lab;
mod mesh;
