//! What may be asked of a request beside who sends it: one file a filter.

pub mod auth;
pub mod client;
pub mod jwt;
