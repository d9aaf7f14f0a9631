//! The ingress role: anybody calls, by names and paths.
//!
//! Everything here is made once, when the configuration is checked or a snapshot is compiled; a request only looks up.

pub mod auth;
pub mod certificates;
pub mod filters;
pub mod hosts;
pub mod network;
pub mod pool;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use self::auth::{AuthKind, JwtAuth};
pub use self::{
    certificates::{CertificatePair, Certificates, Challenges, TlsGrade},
    filters::{Action, Filters},
    hosts::{Hosts, Paths},
    network::{ClientAddress, Networks, ProxyProtocol},
    pool::{Pool, PoolSource, Server, ServerHost},
};
use super::{
    access_log::AccessLog,
    cluster::Cluster,
    jwt::{KeyPlace, KeySource, Providers},
    listener::Bind,
    route::Route,
    secret::Secret,
    tracing::TracingSettings,
};

/// The ingress role of a listener: its name and path tables, and where they lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ingress {
    /// TLS, on the listener that terminates it; `None` is in clear.
    pub tls: Option<IngressTls>,
    /// Which request goes where.
    pub routing: Arc<Routing>,
    /// The clusters of the routing's pools, each at the place of its pool; behind them the further targets of services in the mesh.
    pub clusters: Vec<Arc<Cluster>>,
    /// Whose tokens the routes take, with their keys; by the name that [`auth::JwtAuth::provider`] has.
    pub providers: Arc<Providers>,
    /// Who the client is.
    pub client: Arc<ClientAddress>,
    /// Where clients reach the TLS listener of this process, for `to_https`; `None` without one.
    pub https_port: Option<u16>,
    /// Answers that an ACME server asks for.
    pub challenges: Arc<Challenges>,
    /// What sticky cookies are sealed with.
    pub sealing: Secret,
}

/// How an ingress listener terminates TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngressTls {
    /// Versions and suites.
    pub grade: TlsGrade,
    /// Its certificates; empty only while an ACME server asks over TLS (see [`Ingress::challenges`]).
    pub certificates: Arc<Certificates>,
    /// Whose client certificates are asked for, and whether they must come.
    pub client_auth: Option<ClientAuth>,
    /// `Strict-Transport-Security` of every answer; `None` sends none.
    pub hsts: Option<Duration>,
}

/// Certificates that clients show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientAuth {
    /// Whom to trust; never empty.
    #[serde(skip)]
    pub roots: Vec<super::credentials::Certificate>,
    /// A client without a certificate is refused.
    pub required: bool,
}

/// Which request goes where: the checked form of `upstreams.yaml`, one immutable value swapped whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Routing {
    /// By name and path: places in `routes`.
    pub hosts: Hosts,
    /// The routes.
    pub routes: Vec<IngressRoute>,
    /// Where the servers come from, by place; the legs of routes name these places.
    pub pools: Vec<Arc<Pool>>,
}

impl Routing {
    /// The places that the keys of its routes' token issuers are read from.
    pub fn key_places(&self) -> impl Iterator<Item = &KeyPlace> {
        self.routes.iter().filter_map(|route| match &route.filters.auth.as_ref()?.kind {
            AuthKind::Jwt(JwtAuth { entry, .. }) => match &entry.keys {
                KeySource::Place(place) => Some(place),
                KeySource::Entry(_) | KeySource::Nowhere(_) => None,
            },
            AuthKind::Basic(_) | AuthKind::ApiKey(_) | AuthKind::Forward(_) => None,
        })
    }
}

/// One route: a host's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngressRoute {
    /// Name (`shop.example/api`), rewrite, timeouts, retries, header edits, hashing and legs, as routes of the mesh have them. Its path test is
    /// the configured prefix, which rewriting needs; which route takes a request was decided by [`Hosts`].
    pub route: Route,
    /// The routes of the service in the mesh that it leads to, joined with `route`, in order: the first that takes the request, its path rewritten as
    /// `route` says, decides. Empty where `route` says all.
    pub further: Vec<Route>,
    /// What becomes of a request that passed the filters.
    pub action: Action,
    /// What a request must pass.
    pub filters: Arc<Filters>,
}

impl IngressRoute {
    /// Those that say where requests go: [`IngressRoute::further`], or `route` alone.
    pub fn routes(&self) -> &[Route] {
        if self.further.is_empty() { std::slice::from_ref(&self.route) } else { &self.further }
    }
}

/// The listeners of the process and what is theirs alone: the checked form of `main.yaml`, read once at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IngressListeners {
    /// `proxy_address_http`.
    pub http: Option<Bind>,
    /// `proxy_address_tls`.
    pub tls: Option<TlsListener>,
    /// `file_server_address` with `file_server_folder`.
    pub files: Option<(Bind, filters::Files)>,
    /// Who the client is.
    pub client: Arc<ClientAddress>,
    /// The access log.
    pub access_log: Arc<AccessLog>,
    /// `tracing`.
    pub tracing: TracingSettings,
    /// What sticky cookies are sealed with: made of `master_key`, so that they stand over restarts and on every instance; without one, drawn at the start.
    pub sealing: Secret,
}

/// `proxy_address_tls` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsListener {
    /// Where it listens.
    pub bind: Bind,
    /// `proxy_tls_grade`.
    pub grade: TlsGrade,
    /// Client certificates.
    pub client_auth: Option<ClientAuth>,
    /// `Strict-Transport-Security`; with grade `high` two years unless it is set.
    pub hsts: Option<Duration>,
    /// The port that clients reach it at, if it is not the one of `bind`.
    pub public_port: Option<u16>,
}

/// The endpoints of each pool as they are known, by the pool's id; made by the control plane before it hands a routing over.
pub type PoolEndpoints = BTreeMap<super::cluster::TargetId, Arc<[Arc<super::cluster::Endpoint>]>>;
