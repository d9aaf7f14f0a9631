//! The configuration API of the reverse proxy, on listeners of its own (`config_address`, `config_tls_address`).
//!
//! | request | key | answers |
//! |---|---|---|
//! | `POST /conf` | yes | takes a whole `upstreams.yaml`; 200 once it is in force, 400 with every problem |
//! | `POST /conf?dry_run` | yes | only checks it, and says what it would change |
//! | `POST /conf?save` | yes | writes the file, too |
//! | `GET /conf` | yes | what is in force, as YAML without secrets |
//! | `POST /jwt` | in the body | a token |
//! | `GET /metrics`, `GET /status` | from other hosts | Prometheus text; hosts, paths and backends with their health |
//!
//! The key is `master_key` of `main.yaml`, as `Authorization: Bearer`, `x-api-key` or `?key=`; it is compared before a body is read, and never logged.
//! Web pages cannot use the API: an `Origin` is refused, and without the key only a `Host` that is an address or `localhost` is served (see `guard`).

mod conf;
mod key;
mod status;
pub mod tls;
mod token;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header::WWW_AUTHENTICATE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use tokio::time::timeout;

pub use self::key::MasterKey;
use super::{Protection, guard, read, serve::serve};
use crate::{model::registration::Unusable, snapshot::Subscriber, telemetry::Telemetry};

/// The most bytes of a pushed configuration: what a file may have.
pub const MOST_BYTES: usize = 8 << 20;

/// How long anybody without the key in the head may take for a body.
const BODY: Duration = Duration::from_secs(10);

/// A configuration that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// A whole `upstreams.yaml`.
    pub text: String,
    /// Whether it becomes the file.
    pub save: bool,
    /// Whether it is only checked.
    pub dry_run: bool,
}

/// Why a push changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All that is wrong with it.
    Wrong(Vec<Unusable>),
    /// Its sender is not at fault; why, in words.
    Failed(String),
}

/// A future behind a pointer.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A configuration that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its version.
    pub version: Arc<str>,
    /// What it changed, or would change, in words; a line each.
    pub changes: Vec<String>,
}

/// Puts a configuration in force and waits until the listeners follow it, or only checks it.
pub type Push = Arc<dyn Fn(Pushed) -> Later<Result<Accepted, Refused>> + Send + Sync>;

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// It, as YAML without secrets.
    pub shown: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// Whether it was pushed rather than read from its files.
    pub pushed: bool,
    /// Since when, in seconds since the Unix epoch.
    pub since: u64,
}

/// Issues a token on a body of a media type; gives a status and a JSON body.
pub type Issue = Arc<dyn Fn(&[u8], Option<&str>) -> (StatusCode, serde_json::Value) + Send + Sync>;

/// What the API shows and does. Cheap to clone.
#[derive(Clone)]
pub struct ConfigApi {
    /// Who may use it.
    pub key: Arc<MasterKey>,
    /// `config_api_enabled`: without it nothing can be changed, and no token be had.
    pub enabled: bool,
    /// The snapshot in force.
    pub snapshots: Subscriber,
    /// The metrics.
    pub telemetry: Arc<Telemetry>,
    /// How a listener's cluster fares.
    pub protection: Protection,
    /// Takes a configuration.
    pub push: Push,
    /// Shows the configuration.
    pub in_force: Arc<dyn Fn() -> InForce + Send + Sync>,
    /// Issues tokens.
    pub issue: Issue,
}

impl fmt::Debug for ConfigApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigApi").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

impl ConfigApi {
    /// Serves on a socket that listens, in clear, until `shutdown`.
    ///
    /// # Errors
    /// [`io::Error`] when the socket cannot be used.
    pub async fn serve(self, socket: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        serve(tokio::net::TcpListener::from_std(socket)?, self.router(bound), shutdown).await;
        Ok(())
    }

    /// Serves on a socket that listens, over TLS, until `shutdown`.
    ///
    /// # Errors
    /// [`io::Error`] when the socket cannot be used.
    pub async fn serve_tls(self, socket: TcpListener, identity: Arc<tls::Identity>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        serve(tls::TlsListener::start(tokio::net::TcpListener::from_std(socket)?, identity), self.router(bound), shutdown).await;
        Ok(())
    }

    fn router(self, bound: SocketAddr) -> Router {
        let keyed = Router::new()
            .route("/conf", get(conf::show).post(conf::push))
            .route_layer(middleware::from_fn_with_state(self.clone(), with_key));
        let from_near = Router::new()
            .route("/metrics", get(metrics))
            .route("/status", get(status::status))
            .route_layer(middleware::from_fn_with_state((self.clone(), bound), with_key_or_from_near));
        let open = Router::new()
            .route("/jwt", post(token::issue))
            .layer(DefaultBodyLimit::max(token::MOST_BYTES))
            .route_layer(middleware::from_fn(in_time));
        keyed.merge(from_near).merge(open).with_state(self).layer(middleware::from_fn(without_origin))
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    timeout(BODY, next.run(request))
        .await
        .unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n").into_response())
}

async fn without_origin(request: Request, next: Next) -> Response {
    match guard::without_origin(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, why).into_response(),
    }
}

async fn with_key(State(api): State<ConfigApi>, ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    match api.key.judge(peer.ip().to_canonical(), request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Whoever is on this host may look, unless a web page does it under a name of its own; others need the key.
async fn with_key_or_from_near(
    State((api, bound)): State<(ConfigApi, SocketAddr)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let near = peer.ip().to_canonical().is_loopback() && guard::is_for_us(bound.ip(), request.headers(), request.uri());
    match api.key.judge(peer.ip().to_canonical(), request.headers(), request.uri()) {
        Err(_) if near => next.run(request).await,
        Err(key::Refusal::Absent) => {
            let how = "other hosts need the master key; on this one, use localhost or an address\n";
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], how).into_response()
        }
        Err(refusal) => refusal.into_response(),
        Ok(()) => next.run(request).await,
    }
}

async fn metrics(State(api): State<ConfigApi>, headers: HeaderMap) -> Response<Body> {
    read::encoded(&headers, |format| api.telemetry.metrics.encode_as(format))
}

#[cfg(test)]
mod tests;
