//! The promises of all policies together.
