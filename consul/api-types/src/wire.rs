//! The rules every wire struct of this crate obeys, stated once.
//!
//! | on the wire | in the struct |
//! |---|---|
//! | unknown key | ignored (a newer agent may send more) |
//! | missing key, or `null` (Go prints a nil slice, map or pointer so) | the field's default |
//! | a field that holds its default | left out on output, as Go's `omitempty` does |

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Defines wire structs: ordinary structs in CamelCase spelling, under the rules of this module.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident: $kind:ty, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(
                    deserialize_with = "crate::wire::null_is_default",
                    skip_serializing_if = "crate::wire::is_default"
                )]
                pub $field: $kind,
            )*
        }
    )*};
}
pub(crate) use wire;

/// Reads a value and takes `null` for the default.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a map of lists in which a list may be `null`.
pub(crate) fn null_lists<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let lists = Option::<BTreeMap<String, Option<Vec<T>>>>::deserialize(deserializer)?;
    Ok(lists.unwrap_or_default().into_iter().map(|(key, list)| (key, list.unwrap_or_default())).collect())
}

/// Whether a field may be left out on output.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Text that must not reach a log: `Debug` prints `[redacted]`.
///
/// It serializes in clear, for whoever plays the agent's part; never serialize one into a dump.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps the secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "[empty]" } else { "[redacted]" })
    }
}
