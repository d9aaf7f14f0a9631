//! Listeners and records for tests.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use http::HeaderMap;

use crate::{
    model::{
        access_log::AccessLog,
        cluster::{Endpoint, Health},
        credentials::{Identity, Leaf, Roots},
        identity::{ServiceName, SpiffeId, TrustDomain},
        intention::{DefaultPolicy, Intentions},
        listener::{Address, Bind, Inbound, Listener, ListenerKey, Protocol, Role, Upstream, Xfcc},
        mesh::TlsBounds,
        path::Normalization,
        secret::Secret,
    },
    telemetry::record::{Flag, HttpPart, Record},
};

static NO_HEADERS: OnceLock<HeaderMap> = OnceLock::new();

/// The ID of a service of the test mesh.
pub(crate) fn id(service: &str) -> SpiffeId {
    SpiffeId::service(TrustDomain::parse("td.consul").unwrap(), ServiceName::local(service), "dc1")
}

/// A listener of the sidecar `web-sidecar-proxy`; its leaf carries no certificate and expires at `not_after`.
fn listener(name: &str, role: Role, access_log: AccessLog, not_after: i64) -> Listener {
    let leaf =
        Leaf { chain: Vec::new(), key: Secret::new("the-private-key"), id: id("web"), serial: "1".to_owned(), not_before: 0, not_after };
    let roots = Roots { trust_domain: TrustDomain::parse("td.consul").unwrap(), certificates: Vec::new() };
    Listener {
        key: ListenerKey { sidecar: "web-sidecar-proxy".into(), name: name.into() },
        service: ServiceName::local("web"),
        bind: Bind { address: Address::Tcp(([127, 0, 0, 1], 0).into()), mode: None },
        protocol: Protocol::Http,
        identity: Some(Arc::new(Identity::new(leaf, roots))),
        tls: TlsBounds::default(),
        access_log: Arc::new(access_log),
        tracing: None,
        role,
    }
}

/// The public listener of `web`.
pub(crate) fn inbound(access_log: AccessLog, not_after: i64) -> Listener {
    let trust_domain = TrustDomain::parse("td.consul").unwrap();
    let app = Address::Tcp(([127, 0, 0, 1], 8080).into());
    let role = Role::Inbound(Inbound {
        intentions: Arc::new(Intentions::new(trust_domain, DefaultPolicy::Deny, Protocol::Http, Vec::new())),
        providers: Arc::default(),
        app: Arc::new(Endpoint { id: "local_app".into(), address: app, weight: 1, health: Health::Passing, dial: None }),
        connect_timeout: Duration::from_secs(5),
        request_timeout: None,
        idle_timeout: None,
        max_connections: None,
        normalization: Normalization::default(),
        xfcc: Xfcc::AppendForward,
    });
    listener("public", role, access_log, not_after)
}

/// The listener of `web` for calls to `api`.
pub(crate) fn outbound() -> Listener {
    let upstream = Upstream { destination: ServiceName::local("api"), routes: Arc::default(), clusters: Vec::new() };
    listener("upstream:api", Role::Upstream(upstream), AccessLog::default(), i64::MAX)
}

/// A connection record with nothing but a listener in it.
pub(crate) fn record(listener: &Listener) -> Record<'_> {
    Record {
        listener,
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        duration: Duration::from_millis(12),
        source: None,
        destination: None,
        http: None,
        flag: Flag::None,
        details: "via_upstream",
        why: None,
        received: 3,
        sent: 5,
        endpoint: None,
        cluster: None,
        upstream_local: None,
        downstream_local: None,
        downstream_remote: None,
        server_name: None,
        tls_version: None,
        downstream_failure: None,
        transport_failure: None,
        route: None,
        attempts: 0,
        connection: 0,
        trace: None,
    }
}

/// A plain `GET /` with a status.
pub(crate) fn http(status: u16) -> HttpPart<'static> {
    HttpPart {
        method: "GET",
        path: "/",
        authority: "web",
        version: "HTTP/1.1",
        status,
        grpc_status: None,
        forwarded_for: None,
        user_agent: None,
        request_id: None,
        upstream_time: None,
        request: NO_HEADERS.get_or_init(HeaderMap::new),
        response: None,
        trailers: None,
        request_time: None,
        response_time: None,
        trace: None,
    }
}
