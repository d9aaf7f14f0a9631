//! Real components around Aralez, for tests that must not believe a stand-in.
//!
//! A test registers services with a real Consul agent ([`consul`], [`registration`]), starts small apps in its own process
//! ([`apps`], [`datagrams`], [`otlp`]), starts sidecars as child processes ([`sidecar`]) and talks through them ([`clients`], [`certs`],
//! [`web_pki`], [`tokens`]).
//! What has to be built first is built once ([`components`]). Everything listens on loopback, on free [`ports`], and is stopped
//! when its handle is dropped; a child's log is printed when the test that owns it panics ([`process`]).

pub mod apps;
pub mod book;
pub mod certs;
pub mod chromium;
pub mod clients;
pub mod components;
pub mod consul;
pub mod datagrams;
pub mod dns;
pub mod envoy;
pub mod load;
pub mod net;
pub mod netns;
pub mod otlp;
pub mod ports;
pub mod process;
pub mod registration;
pub mod sidecar;
pub mod ssllabs;
pub mod sslyze;
pub mod tokens;
pub mod wait;
pub mod web_pki;
