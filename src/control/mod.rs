//! The control plane: keeps the inputs fresh and publishes snapshots. It never names the data plane.
//!
//! Sources (Consul here, the embedded catalog in `dev`) feed [`reconciler::Change`]s to one [`reconciler::Reconciler`],
//! which alone owns the inputs and alone publishes.

pub mod consul;
mod dns;
pub mod embedded;
pub mod ingress;
mod keys;
pub mod kubernetes;
pub mod reconciler;
pub mod watches;

#[cfg(test)]
mod testing;
