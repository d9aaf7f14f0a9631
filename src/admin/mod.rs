//! The admin API, on a listener of its own: is it alive, is it ready, what is in force, what happens.
//!
//! | path | answers |
//! |---|---|
//! | `GET /` | the status page |
//! | `GET /status.json` | what it shows, see [`status`] |
//! | `GET /live` | 200 as long as the process runs |
//! | `GET /ready` | 200 `LIVE`, or 503 with `{"missing": […]}` |
//! | `GET /metrics`, `/stats/prometheus` | Prometheus text |
//! | `GET /snapshot`, `/config_dump` | the snapshot in force, without secrets |
//! | `GET /listeners`, `/clusters`, `/watches` | parts of it, short |
//! | `GET /log`, `POST /log?level=debug` | shows, changes the level |
//! | `POST /drain` | takes no new work from now on |
//!
//! It trusts who can connect to it, so it is bound to loopback unless told otherwise; changes are taken from its own host alone. Web pages cannot use
//! it: see `guard`.

pub mod config_api;
mod guard;
pub mod outlets;
mod page;
mod read;
mod ready;
mod serve;
pub mod status;
pub mod tokens;
mod write;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{
    model::{cluster::TargetId, listener::ListenerKey},
    snapshot::Subscriber,
    telemetry::{Telemetry, log::LogHandle},
};

/// How the data plane protects a listener's cluster now, as JSON of its own shape; `None` for one that it does not have.
pub type Protection = Arc<dyn Fn(&ListenerKey, &TargetId) -> Option<serde_json::Value> + Send + Sync>;

/// What the admin API shows and touches. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// The snapshot in force, and what is missing before readiness.
    pub snapshots: Subscriber,
    /// The metrics.
    pub telemetry: Arc<Telemetry>,
    /// The log's level.
    pub log: LogHandle,
    /// The state of the control plane's watches, as JSON of its own shape.
    pub watches: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// What the data plane still waits for before it can serve, for example listeners that are not bound yet.
    pub pending: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// How the data plane protects a listener's cluster now, as JSON of its own shape.
    pub protection: Protection,
    /// Set while the process drains: it is not ready then.
    pub draining: Arc<AtomicBool>,
    /// Starts draining; called for each `POST /drain`.
    pub drain: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("draining", &self.draining.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

/// A bound admin listener that does not serve yet.
#[derive(Debug)]
pub struct Admin {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds; port 0 takes a free one. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`io::Error`] when the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::on(TcpListener::bind(address)?)
    }

    /// Takes a socket that listens already. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`io::Error`] when the socket cannot be used.
    pub fn on(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: tokio::net::TcpListener::from_std(listener)?, address })
    }

    /// The address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the whole API until `shutdown` ends and its open requests are answered.
    pub async fn serve(self, state: AdminState, shutdown: impl Future<Output = ()>) {
        let snapshots = state.snapshots.clone();
        state.telemetry.metrics.leaf_expiry_from(move || read::leaf_expiries(&snapshots.current()));
        let router = Router::new()
            .route("/", get(page::page))
            .route("/status.json", get(status::json))
            .route("/live", get(ready::live))
            .route("/ready", get(ready::ready))
            .route("/metrics", get(read::metrics))
            .route("/stats/prometheus", get(read::metrics))
            .route("/snapshot", get(read::snapshot))
            .route("/config_dump", get(read::snapshot))
            .route("/listeners", get(read::listeners))
            .route("/clusters", get(read::clusters))
            .route("/watches", get(read::watches))
            .route("/log", get(read::level).post(write::level).put(write::level))
            .route("/drain", post(write::drain).put(write::drain))
            .with_state(state)
            .layer(middleware::from_fn_with_state(self.address, guard::refuse_web_pages));
        serve::serve(self.listener, router, shutdown).await;
    }

    /// Serves `/live` and `/ready` only, to anybody: for probes from outside.
    pub async fn serve_ready(self, state: AdminState, shutdown: impl Future<Output = ()>) {
        let router = Router::new().route("/live", get(ready::live)).route("/ready", get(ready::ready)).with_state(state);
        serve::serve(self.listener, router, shutdown).await;
    }
}

#[cfg(test)]
mod tests;
