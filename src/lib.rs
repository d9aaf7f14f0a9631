//! Aralez.
