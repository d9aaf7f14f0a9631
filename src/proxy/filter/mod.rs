//! What may be asked of a request beside who sends it: one file a filter.

pub mod address;
pub mod auth;
pub mod body;
pub mod client;
pub mod compress;
pub mod cors;
pub mod files;
pub mod jwt;
pub mod limit;

/// What the filters know of a request on its way.
#[derive(Debug, Default)]
pub struct Filtered {
    /// Where its client stands with the limit that is nearest to refusing it.
    pub standing: Option<limit::Standing>,
    /// Bytes of its body that this try has sent to the server.
    pub sent: u64,
}
