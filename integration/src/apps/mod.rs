//! Small apps in the test's own process, each on a port of its own or a Unix socket.
//!
//! [`tcp_echo`] for bytes; [`http_echo`] for HTTP/1.1, WebSocket, HTTP/2 and gRPC-shaped streams on one port; [`head_echo`] for
//! raw heads. An app ends, with its connections, when its [`App`] is dropped.

mod head;
mod http;
mod tcp;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;

use crate::net::Address;

pub use head::head_echo;
pub use http::{http_echo, http_echo_on};
pub use tcp::{FAREWELL, tcp_echo, tcp_echo_on};

/// A running app.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: Address,
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
}

/// What an app has seen.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
}

impl App {
    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// HTTP requests received so far.
    pub fn requests(&self) -> u64 {
        self.counters.requests.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // The accepting task owns its connections' tasks: they end with it.
        self.accepting.abort();
    }
}
