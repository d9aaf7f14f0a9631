//! Black-box tests: the real `aralez` binary against an in-process fake Consul agent.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod agent;
