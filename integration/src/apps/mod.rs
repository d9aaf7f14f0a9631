//! Small apps in the test's own process, each on a port of its own or a Unix socket.
//!
//! [`tcp_echo`] for bytes; [`http_echo`] for HTTP/1.1, WebSocket, HTTP/2 and gRPC-shaped streams on one port ([`h2c_echo`], [`https_echo`]); [`head_echo`] for raw
//! heads; [`raw_echo`] for requests exactly as they arrive. An app ends, with its connections, when its [`App`] is dropped.

mod head;
mod http;
mod orders;
mod raw;
mod tcp;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;

use crate::net::Address;

pub use head::head_echo;
pub use http::{h2c_echo, http_echo, http_echo_at, http_echo_on, https_echo};
pub use orders::HANG_UP;
use orders::Orders;
pub use raw::raw_echo;
pub use tcp::{FAREWELL, tcp_echo, tcp_echo_on};

/// A running app.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: Address,
    counters: Arc<Counters>,
    orders: Arc<Orders>,
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

    /// The next HTTP requests get these statuses, one each ([`HANG_UP`]: the connection is closed instead); later ones the usual.
    pub fn answer_next(&self, statuses: impl IntoIterator<Item = u16>) {
        self.orders.queue(statuses);
    }

    /// HTTP requests get this status from now on; 200 at first.
    pub fn answer_always(&self, status: u16) {
        self.orders.usual(status);
    }

    /// HTTP requests get this text as their answer's body from now on.
    pub fn answer_text(&self, text: impl Into<String>) {
        self.orders.tell(text.into());
    }

    /// HTTP requests get no answer from now on, until [`App::release`].
    pub fn hold(&self) {
        self.orders.hold(true);
    }

    /// Answers the held requests, and those to come.
    pub fn release(&self) {
        self.orders.hold(false);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // The accepting task owns its connections' tasks: they end with it.
        self.accepting.abort();
    }
}
