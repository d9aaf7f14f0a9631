//! What people write: flags and files, as plain checked values.

pub mod acme;
pub mod agent;
pub mod mesh_file;
pub mod process;
