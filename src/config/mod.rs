//! What people write: flags and files, as plain checked values.

pub mod acme;
pub mod agent;
pub mod bootstrap;
pub mod changes;
pub mod check;
pub mod fault;
pub mod kubernetes;
pub mod main_file;
pub mod mesh_file;
mod named;
pub mod process;
mod read;
pub mod schema;
mod shape;
pub mod shown;
pub mod tracing;
mod tree;
pub mod upstreams;

#[cfg(test)]
mod tests;
