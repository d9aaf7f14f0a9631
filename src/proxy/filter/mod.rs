//! What may be asked of a request beside who sends it: one file a filter.

pub mod client;
pub mod jwt;
