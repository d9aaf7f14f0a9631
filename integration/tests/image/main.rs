//! What users install: the container image and the Debian package, made as the documentation says and run. Needs root, and minutes:
//! `cargo test -p aralez-integration --features heavy --test image`. The program inside is `ARALEZ_BIN` where that is set.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod container;
mod deb;
mod lab;
mod units;
