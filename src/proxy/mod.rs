//! The data plane: reads snapshots, never waits for the control plane.
//!
//! accept ([`listeners`]) → tls, identify ([`serve`], [`tls`]) → authorize, balance ([`exchange`]) → connect, forward ([`http`], [`tcp`])
//! → record ([`crate::telemetry`]). What a step refuses is a [`refusal::Refusal`].

pub mod balance;
pub mod bindings;
pub mod connection;
pub mod edits;
pub mod exchange;
pub mod filter;
pub mod gate;
pub mod guard;
pub mod headers;
pub mod http;
pub mod ingress;
pub mod listeners;
pub mod live;
pub mod proxy_protocol;
pub mod record;
pub mod refusal;
pub mod serve;
pub mod tcp;
pub mod timing;
pub mod tls;
pub mod trace;
pub mod upgrade;
pub mod waiting;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use pingora_core::{apps::HttpServerOptions, protocols::http::v2::server::default_h2_options, server::configuration::ServerConf};
use pingora_proxy::http_proxy;

use crate::telemetry::Telemetry;

/// Idle upstream connections that are kept for each worker thread, unless somebody says how many there are in all.
pub const POOL: usize = 256;
/// Windows of HTTP/2 streams that clients open to us, bytes. Large, since Pingora's loop (0.9.1) takes no request while a write of the answer is stuck
/// and no answer while a write of the request is: two sidecars in a row stop for ever once the data in flight exceeds this.
const STREAM_WINDOW: u32 = 16 << 20;

/// Builds the one HTTP proxy of the process, for `threads` workers. It keeps at most `pool` idle upstream connections in all, rounded up to a multiple of
/// `threads`: of HTTP/1 so many, and of HTTP/2. `no_roots` is a PEM file with one certificate that nobody trusts: Pingora
/// would otherwise load the system's roots, twice, although every connection brings its own.
pub fn plane(threads: usize, pool: usize, no_roots: String, telemetry: Arc<Telemetry>, patience: serve::Patience) -> serve::Plane {
    let conf = ServerConf {
        threads,
        // Pingora multiplies it with the threads. What comes into a pool just while it is evicted again is kept and never looked at
        // (0.9.1), so a pool for none is a wide one, from which each connection is taken by its idle time of zero.
        upstream_keepalive_pool_size: if pool == 0 { POOL } else { pool.div_ceil(threads) },
        // The exchange decides how often a request is tried.
        max_retries: usize::MAX,
        ca_file: Some(no_roots),
        ..ServerConf::default()
    };
    let mut proxy = http_proxy(&Arc::new(conf), http::Sidecar::new(telemetry.clone(), pool > 0));
    let mut options = HttpServerOptions::default();
    // Whether HTTP/2 is spoken is settled before Pingora sees the connection; this makes it believe its own (instant) look.
    options.h2c = true;
    options.h2_idle_timeout = Some(patience.http2_idle);
    proxy.server_options = Some(options);
    let mut h2 = default_h2_options();
    h2.initial_window_size(STREAM_WINDOW).initial_connection_window_size(STREAM_WINDOW * 2);
    proxy.h2_options = Some(h2);
    serve::Plane { patience, http: Arc::new(proxy), telemetry }
}
