//! Aralez: the proxy that stands beside a service.
//!
//! One process, one data plane, several roles. Everything that decides where a byte may go is an immutable
//! [`snapshot::Snapshot`]; the control plane makes snapshots, the data plane reads them, and neither knows the other.
//!
//! # Rooms
//! | room | owns |
//! |---|---|
//! | [`model`] | the vocabulary as plain values: identity, credentials, intention, listener, cluster, endpoint. No I/O, no async |
//! | [`snapshot`] | what is known: inputs, check, compile, publish (one writer), subscribe (many readers) |
//! | [`control`] | keeps the inputs fresh (Consul, embedded catalog) and publishes |
//! | [`proxy`] | the data plane: listeners, TLS, the HTTP and TCP paths, balancing, refusals |
//! | [`explain`] | what the snapshot makes of one request, in words |
//! | [`trust`] | whom the system trusts |
//! | [`telemetry`] | log set-up, metric names, the access log |
//! | [`admin`] | the admin listener: live, ready, metrics, snapshot, log |
//! | [`config`] | files that people write: `mesh.yaml` |
//! | [`process`] | what the operating system sees: sockets, user, pid file, log file, hand-over, service manager |
//! | [`cli`] | the command line |
//! | [`app`] | the one place that knows every part: build, run, drain |
//!
//! # The path of a configuration change
//! watch → decode → check → compile → publish → reconcile.
//!
//! # The path of a request
//! accept → tls → identify → authorize → route → balance → connect → forward → record.
//!
//! # The import rule
//! `model` ← `snapshot` ← { `control`, `proxy` } ← `app`; `explain` needs `model` alone. `control` and `proxy` never name each other; wire types of Consul
//! stay in `control::consul`; Pingora stays in `proxy` and `app`; `telemetry` and `process` may be used by all. `tests/architecture.rs` keeps it.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod explain;
pub mod model;
pub mod process;
pub mod proxy;
pub mod snapshot;
pub mod telemetry;
pub mod trust;
