//! What the tests stand on: a fake Consul agent with a CA of its own, the sidecar process, a load.

pub mod ca;
pub mod fake_agent;
