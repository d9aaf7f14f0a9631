//! The one form of a path: what policy compares, routes match and the app receives.

use serde::Serialize;

/// What is done with `%2F`, `%2f`, `%5C` and `%5c` in a path (`mesh.HTTP.Incoming.RequestNormalization.PathWithEscapedSlashesAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EscapedSlashes {
    /// Left as they are (also `IMPLEMENTATION_SPECIFIC_DEFAULT`, as in Envoy).
    #[default]
    Keep,
    /// The request is refused with 400.
    Reject,
    /// They are decoded and the client is sent to the new path (307).
    UnescapeAndRedirect,
    /// They are decoded.
    UnescapeAndForward,
}

/// What is done with a header whose name has an underscore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Underscores {
    /// Nothing.
    #[default]
    Allow,
    /// The request is refused with 400.
    Reject,
    /// The header is dropped.
    Drop,
}

/// How requests are brought into their one form (`mesh.HTTP.Incoming.RequestNormalization`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Normalization {
    /// Dot segments, backslashes and needlessly escaped characters are resolved; on unless `InsecureDisablePathNormalization`.
    pub path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What is done with escaped slashes.
    pub escaped_slashes: EscapedSlashes,
    /// What is done with header names with underscores.
    pub underscores: Underscores,
}

impl Default for Normalization {
    fn default() -> Self {
        Self { path: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep, underscores: Underscores::Allow }
    }
}
