//! HTTP: Pingora's phases, each a few lines that hand on to the nine steps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Version, header::HeaderMap};
use pingora_core::{
    Error, ErrorSource, ErrorType,
    modules::http::HttpModules,
    protocols::Digest,
    upstreams::peer::{HttpPeer, Peer as _},
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    connection::Context,
    exchange::Exchange,
    gate, headers,
    live::{Live, Side},
    refusal::Refusal,
    tls::{ServerIdentity, min_version},
};
use crate::{
    model::listener::{Listener, Role},
    telemetry::{
        Telemetry,
        record::{Flag, HttpPart, Record},
    },
};

/// A server showed an identity that is not the target's.
const UNEXPECTED_IDENTITY: ErrorType = ErrorType::Custom("UnexpectedServerIdentity");
/// Bodies up to this size, bytes, are taken as sent at once: the whole-request timeout then also bounds the wait for the answer.
const SMALL_BODY: u64 = 64 * 1024;
/// How long an exchange may stand still when no whole-request timeout applies (Envoy's stream idle timeout).
const STREAM_IDLE: Duration = Duration::from_secs(300);

/// The one Pingora application of the process.
pub struct Sidecar {
    telemetry: Arc<Telemetry>,
}

impl Sidecar {
    /// An application that records into `telemetry`.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry }
    }

    /// Refuses: answers, and leaves the reason for the record.
    async fn refuse(session: &mut Session, exchange: &mut Exchange, refusal: Refusal) -> pingora_core::Result<bool> {
        if let Refusal::BadRequest(_) = refusal {
            // Whatever follows on such a connection cannot be trusted to be a request.
            session.set_keepalive(None);
        }
        let answered = refusal.answer(session).await;
        exchange.refusal = Some(refusal);
        answered.map(|()| true)
    }
}

#[async_trait]
impl ProxyHttp for Sidecar {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::default()
    }

    /// None: Pingora's default adds a compression module that costs every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// identify (made with the connection) → authorize → route.
    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> pingora_core::Result<bool> {
        let Some(context) = Context::of(session.digest()).cloned() else {
            return Self::refuse(session, exchange, Refusal::Internal("a connection without context".to_owned())).await;
        };
        let live = exchange.pin(&context);
        exchange.active = Some(live.metrics.request_began());
        let admitted = gate::check(session.req_header(), || session.to_h1_raw())
            .and_then(|()| Exchange::authorize(&context, &live))
            .and_then(|_| if live.has_endpoint() { Ok(()) } else { Err(Refusal::NoHealthyEndpoint) });
        if let Err(refusal) = admitted {
            return Self::refuse(session, exchange, refusal).await;
        }
        if session.as_downstream_mut().is_body_empty() {
            exchange.deadline = deadline(session, &live);
        }
        Ok(false)
    }

    /// balance.
    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> pingora_core::Result<Box<HttpPeer>> {
        let Some(live) = exchange.live.clone() else { return Error::e_explain(ErrorType::InternalError, "no listener") };
        let chosen = match exchange.choose(&live) {
            Ok(chosen) => chosen,
            Err(refusal) => {
                let error = Error::explain(ErrorType::HTTPStatus(refusal.status()), refusal.to_string());
                exchange.refusal = Some(refusal);
                return Err(error.into_up());
            }
        };
        let mut peer = match (&live.side, &chosen.cluster) {
            (_, Some(cluster)) => cluster.peer(&chosen.endpoint),
            (Side::Inbound(app), None) => app.peer(session.as_downstream().is_http2() && live.listener.protocol.is_http2()),
            (Side::Upstream(_), None) => return Error::e_explain(ErrorType::InternalError, "no cluster"),
        };
        peer.options.read_timeout = read_timeout(session, &live);
        // Pingora forwards no answer while a write of the request is stuck: without a limit, two sides that only write would wait for ever.
        peer.options.write_timeout = Some(STREAM_IDLE);
        Ok(Box::new(peer))
    }

    /// connect: before a byte of the request leaves, the server's identity must be one of the target's. Runs for reused connections too.
    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<()> {
        let Some(cluster) = exchange.chosen.as_ref().and_then(|c| c.cluster.as_ref()) else { return Ok(()) };
        let shown = digest.and_then(|d| d.ssl_digest.as_ref()).and_then(|s| s.extension.get::<ServerIdentity>());
        let floor = exchange.live.as_ref().map(|l| min_version(&l.listener.tls));
        match shown {
            Some(ServerIdentity { id: Some(id), version }) if cluster.cluster.expected.contains(id) && *version >= floor => Ok(()),
            Some(ServerIdentity { id: Some(id), .. }) if cluster.cluster.expected.contains(id) => {
                Error::e_explain(UNEXPECTED_IDENTITY, "the server's TLS version is below the mesh entry's minimum")
            }
            Some(ServerIdentity { id: Some(id), .. }) => Error::e_explain(UNEXPECTED_IDENTITY, format!("the server is {id}")),
            _ => Error::e_explain(UNEXPECTED_IDENTITY, "the server showed no SPIFFE ID"),
        }
        .map_err(Error::into_up)
    }

    /// forward: the request's head.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<()> {
        if let Some(live) = &exchange.live {
            headers::ensure_host(request, live.listener.role.destination(&live.listener.service))?;
        }
        match (exchange.live.as_ref().map(|l| &l.listener.role), &exchange.context) {
            (Some(Role::Inbound(inbound)), Some(context)) => {
                let element = context.peer.as_ref().and_then(|p| p.xfcc.as_deref());
                headers::towards_app(request, inbound.xfcc, element)?;
            }
            _ => headers::towards_peer(request)?,
        }
        Ok(())
    }

    /// forward: the request's body. An HTTP/2 request that ends in an empty DATA frame makes Pingora write the last chunk twice to an
    /// HTTP/1 server (pingora issue 935), which would poison the app's connection.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<()> {
        if let (true, Some(live)) = (end, &exchange.live) {
            exchange.deadline = deadline(session, live);
            exchange.request_time = Some(exchange.begun.elapsed());
        }
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    /// forward: the answer's head.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<()> {
        exchange.upstream_time = exchange.handed.map(|h| h.elapsed());
        exchange.response_time = Some(exchange.begun.elapsed());
        exchange.grpc_status = grpc_status(&response.headers);
        if let Some(context) = &exchange.context {
            if context.draining.load(std::sync::atomic::Ordering::Relaxed) {
                session.set_keepalive(None);
            }
            if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
                context.upgraded.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// forward: the answer's body, within the whole request's time.
    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end: bool,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<Option<Duration>> {
        match exchange.deadline {
            Some(deadline) if deadline < Instant::now() => {
                Err(Error::explain(ErrorType::ReadTimedout, "the whole request took too long").into_up())
            }
            _ => Ok(None),
        }
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<Option<Bytes>> {
        exchange.grpc_status = grpc_status(trailers).or(exchange.grpc_status);
        if exchange.live.as_ref().is_some_and(|live| live.listener.access_log.reads_trailers()) {
            exchange.trailers = Some(trailers.clone());
        }
        Ok(None)
    }

    /// Nothing was sent: any request may go to the next endpoint.
    fn fail_to_connect(&self, session: &mut Session, peer: &HttpPeer, exchange: &mut Exchange, mut error: Box<Error>) -> Box<Error> {
        let why = format!("{}: {}", peer.address(), error.root_cause());
        let again = exchange.unreachable(Refusal::Connect(why));
        error.set_retry(again && !session.as_ref().retry_buffer_truncated());
        error
    }

    /// Something may have been sent: only what can be repeated goes to the next endpoint.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        let started = session.response_written().is_some();
        let replayable = !started && !session.as_ref().retry_buffer_truncated();
        let again = if *error.etype() == UNEXPECTED_IDENTITY {
            exchange.unreachable(Refusal::Connect(error.root_cause().to_string())) && replayable
        } else if *error.esource() == ErrorSource::Downstream {
            false
        } else {
            let refusal = Refusal::of(&error).unwrap_or(Refusal::Internal(error.to_string()));
            let broke = matches!(refusal, Refusal::Closed(_) | Refusal::Protocol(_));
            let unprocessed = never_processed(&error);
            // On the inbound side the app is the only endpoint: a second try makes sense only if the connection was stale.
            let worth = exchange.chosen.as_ref().is_some_and(|c| c.cluster.is_some()) || reused;
            let safe = unprocessed || (broke && worth && session.req_header().method.is_idempotent());
            exchange.broke_off(reused, refusal) && replayable && safe
        };
        error.set_retry(again);
        error
    }

    /// The last error: answer it.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        let downstream = *error.esource() == ErrorSource::Downstream;
        let refusal = exchange.refusal.take().filter(|_| !downstream).or_else(|| Refusal::of(error));
        let started = session.response_written().is_some();
        let error_code = refusal.as_ref().map_or(0, Refusal::status);
        if let (Some(refusal), false) = (&refusal, started)
            && let Err(gone) = refusal.answer(session).await
        {
            tracing::debug!("the client left before it was answered: {gone}");
        }
        exchange.refusal = refusal;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// record.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        let Some(live) = exchange.live.clone() else { return };
        if exchange.retries() > 0 {
            live.metrics.retry(if exchange.refusal.is_some() { "failed" } else { "succeeded" });
        }
        let head = session.req_header();
        let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
        let authority = head.uri.authority().map(|a| a.as_str()).or_else(|| text("host")).unwrap_or_default();
        let path = head.uri.path_and_query().map(|p| p.as_str()).unwrap_or_default();
        // A request that went through after a retry still carries the first attempt's failure: it is no refusal of the request.
        let refusal = exchange.refusal.as_ref().filter(|_| error.is_some() || exchange.handed.is_none());
        let gone = error.is_some_and(|e| *e.esource() == ErrorSource::Downstream);
        let flag = match refusal {
            Some(refusal) => refusal.flag(),
            None if gone => Flag::DownstreamConnectionTermination,
            None => Flag::None,
        };
        let record = Record {
            http: Some(HttpPart {
                method: head.method.as_str(),
                path,
                authority,
                version: version(head.version),
                status: session.response_written().map_or(0, |r| r.status.as_u16()),
                grpc_status: exchange.grpc_status,
                forwarded_for: text("x-forwarded-for"),
                user_agent: text("user-agent"),
                request_id: text("x-request-id"),
                upstream_time: exchange.upstream_time,
                request: &head.headers,
                response: session.response_written().map(|r| &r.headers),
                trailers: exchange.trailers.as_ref(),
                request_time: exchange.request_time,
                response_time: exchange.response_time,
            }),
            flag,
            details: refusal.map_or(if gone { "downstream_remote_disconnect" } else { "via_upstream" }, Refusal::details),
            received: session.body_bytes_read() as u64,
            sent: session.body_bytes_sent() as u64,
            transport_failure: refusal.and_then(Refusal::transport_failure),
            ..record(exchange, &live)
        };
        self.telemetry.record(&record, &live.metrics);
    }

    /// The record says it all.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error, _context: ProxyWarnLogContext) -> bool {
        true
    }
}

/// What HTTP and opaque connections have in common in their record.
pub fn record<'a>(exchange: &'a Exchange, live: &'a Live) -> Record<'a> {
    let context = exchange.context.as_deref();
    let chosen = exchange.chosen.as_ref();
    let cluster = chosen.and_then(|c| c.cluster.as_ref());
    Record {
        listener: &live.listener,
        start: exchange.wall,
        duration: exchange.begun.elapsed(),
        source: context.and_then(|c| c.peer.as_ref()).map(|p| &p.id),
        destination: match &live.listener.role {
            Role::Inbound(_) => Some(&live.listener.service),
            Role::Upstream(upstream) => Some(cluster.map_or(&upstream.destination, |c| &c.cluster.service)),
        },
        http: None,
        flag: Flag::None,
        details: "",
        received: 0,
        sent: 0,
        endpoint: chosen.map(|c| &c.endpoint.address),
        cluster: chosen.map(|_| cluster.map_or("local_app", |c| &*c.cluster.target.0)),
        upstream_local: None,
        downstream_local: context.and_then(|c| c.local),
        downstream_remote: context.and_then(|c| c.remote),
        server_name: context.and_then(|c| c.server_name.as_deref()),
        tls_version: context.and_then(|c| c.tls_version),
        downstream_failure: None,
        transport_failure: None,
        route: None,
        attempts: exchange.attempts(),
        connection: context.map_or(0, |c| c.id),
    }
}

/// How long the whole request may take.
fn whole_timeout(listener: &Listener) -> Option<Duration> {
    match &listener.role {
        Role::Inbound(inbound) => inbound.request_timeout,
        Role::Upstream(upstream) => upstream.routes.routes.first().and_then(|r| r.timeout),
    }
}

/// When the answer must be complete, counted from the end of the request (Envoy's rule). A tunnel has no end, and a stream of HTTP/2 may
/// be meant to be long: both have the idle limit only.
fn deadline(session: &Session, live: &Live) -> Option<Instant> {
    let open_ended = session.is_upgrade_req() || live.listener.protocol.is_http2();
    whole_timeout(&live.listener).filter(|_| !open_ended).map(|timeout| Instant::now() + timeout)
}

/// How long the endpoint may be silent. The whole-request time counts from the end of the request (Envoy's rule), so it bounds the wait
/// only where the request is known to be short; a stream gets the idle limit, a tunnel none.
fn read_timeout(session: &Session, live: &Live) -> Option<Duration> {
    if session.is_upgrade_req() {
        return None;
    }
    let idle = match &live.listener.role {
        Role::Inbound(inbound) => inbound.idle_timeout,
        Role::Upstream(_) => Some(STREAM_IDLE),
    };
    let head = session.req_header();
    let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let bodiless = head.version != Version::HTTP_2 && !head.headers.contains_key(http::header::TRANSFER_ENCODING);
    let short = length.map_or(bodiless || head.method == http::Method::GET, |l| l <= SMALL_BODY);
    match (whole_timeout(&live.listener).filter(|_| short), idle) {
        (Some(whole), Some(idle)) => Some(whole.min(idle)),
        (whole, idle) => whole.or(idle),
    }
}

/// Whether HTTP/2 says that the request was not processed: a refused stream, or one above a graceful GOAWAY (RFC 9113, sections 6.8, 8.7).
fn never_processed(error: &Error) -> bool {
    let Some(cause) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    let leaving = cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR);
    refused || leaving
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
