//! Wire to model: pure, and the only place beside the queries where wire types are known.

pub mod chain;
pub mod checks;
pub mod endpoints;
pub mod expose;
pub mod intentions;
pub mod jwt_provider;
pub mod mesh;
pub mod observability;
pub mod query;
pub mod registration;
mod upstream;
