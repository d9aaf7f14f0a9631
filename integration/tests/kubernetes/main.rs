//! The reverse proxy on a real API server of Kubernetes: `cargo test -p aralez-integration --features heavy --test kubernetes`, as root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod classes;
mod cluster;
mod edge;
mod ingress;
mod lab;
mod objects;
