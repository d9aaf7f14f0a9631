//! What the tests stand on: a fake Consul agent with a CA of its own, sidecar processes, a small mesh, mTLS peers.

pub mod api_server;
pub mod ca;
pub mod fake_agent;
pub mod issuer;
pub mod mesh;
pub mod raw;
pub mod sidecar;
pub mod tls;
pub mod wire;
