//! Black-box tests: the real `aralez` binary against an in-process fake Consul agent.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod agent;
mod ask;
mod book;
mod check;
mod cli;
mod deadlines;
mod details;
mod explain;
mod faults;
mod gate;
mod http;
mod identity;
mod ingress;
mod intentions;
mod jwt;
mod lifecycle;
mod listeners;
mod local;
mod monitoring;
mod nomad;
mod observability;
mod packaging;
mod process;
mod protocols;
mod readiness;
mod repeats;
mod status;
mod telemetry;
mod tracing;
mod upstreams;
mod watches;
mod websockets;
