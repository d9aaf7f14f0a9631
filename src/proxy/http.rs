//! HTTP: Pingora's phases, each a few lines that hand on to the nine steps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Version, header::HeaderMap};
use pingora_core::{
    Error, ErrorSource, ErrorType, OrErr,
    modules::http::HttpModules,
    protocols::{ALPN, Digest, http::ServerSession},
    upstreams::peer::{HttpPeer, Peer as _},
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    connection::{Context, Upload},
    edits::{self, Head},
    exchange::{Exchange, Forwarding, Replay},
    filter::{auth::jwt::without_token, body, client::called, compress},
    gate,
    guard::Outcome,
    headers,
    ingress::{self, Admitted},
    live::{Live, Side},
    record::{grpc_status, http_record},
    refusal::{Refusal, is_grpc},
    timing,
    tls::{AddressShown, ServerIdentity, min_version},
    upgrade,
};
use crate::{
    model::{
        cluster::Trust,
        listener::Role,
        route::{self, Edits, HeaderEdits},
    },
    telemetry::{Telemetry, traces::Step},
};

/// A server showed an identity that is not the target's.
const UNEXPECTED_IDENTITY: ErrorType = ErrorType::Custom("UnexpectedServerIdentity");
/// A request whose body turned out to be too long.
const BODY_TOO_LARGE: ErrorType = ErrorType::Custom("BodyTooLarge");
/// An answer that is not passed on, since the route's policy asks for another try.
const ANOTHER_TRY: ErrorType = ErrorType::Custom("AnotherTry");

/// The one Pingora application of the process.
pub struct Sidecar {
    telemetry: Arc<Telemetry>,
    /// Whether connections to endpoints are kept once they are idle.
    keeps_idle: bool,
}

impl Sidecar {
    /// An application that records into `telemetry`; `keeps_idle` says whether connections to endpoints are kept once they are idle.
    pub fn new(telemetry: Arc<Telemetry>, keeps_idle: bool) -> Self {
        Self { telemetry, keeps_idle }
    }

    /// gate → authorize → route.
    fn admit(session: &mut Session, exchange: &mut Exchange, context: &Context, live: &Live) -> Result<(), Refusal> {
        gate::check(session.req_header())?;
        gate::hop::leave(session.req_header_mut())?;
        headers::drop_controls(session.req_header_mut());
        if session.req_header().uri.path() == "*" {
            // It asks about the server, not about anything that a route or a permission could name (RFC 9110, section 9.3.7).
            return Err(Refusal::NoRoute);
        }
        gate::origin_form(session.req_header_mut())?;
        match &live.listener.role {
            Role::Inbound(inbound) => {
                gate::normalize(session.req_header_mut(), &inbound.normalization)?;
                exchange.authorize(context, live, Some(&gate::view(session.req_header())))
            }
            Role::Upstream(_) if session.req_header().version == Version::HTTP_10 && live.listener.protocol.is_http2() => {
                // Pingora would answer it in chunks, which it cannot read.
                Err(Refusal::BadRequest("HTTP/1.0 to a service that speaks HTTP/2"))
            }
            Role::Upstream(_) => exchange.route(live, Some(&gate::view(session.req_header()))),
            Role::Exposed(exposed) if *exposed.path == *session.req_header().uri.path() => Ok(()),
            Role::Exposed(_) => Err(Refusal::NoRoute),
            Role::Ingress(_) => Ok(()),
        }
    }

    /// Edits a head as the request's leg and route say, in Envoy's order: the route has the last word. `status` is the answer's; 0 edits the request.
    fn edit(
        request: &RequestHeader,
        head: &mut impl Head,
        exchange: &Exchange,
        status: u16,
        side: impl Fn(&HeaderEdits) -> &Edits,
    ) -> pingora_core::Result<()> {
        let Some(live) = &exchange.live else { return Ok(()) };
        if status != 0
            && let Some(hsts) = ingress::strict_transport(live)
        {
            head.set("strict-transport-security".to_owned(), hsts)?;
        }
        let Some((route, leg)) = exchange.taken(live) else { return Ok(()) };
        for edits in [&leg.headers, &route.headers].map(side).into_iter().filter(|edits| **edits != Edits::default()) {
            edits::apply(edits, head, &exchange.inputs(request, route, status))?;
        }
        Ok(())
    }

    /// What the leg, the route and the filters make of an answer's head.
    fn finish(request: &RequestHeader, head: &mut ResponseHeader, exchange: &Exchange, status: u16) -> pingora_core::Result<()> {
        Self::edit(request, head, exchange, status, |edits| &edits.response)?;
        ingress::finish(request, head, exchange)
    }

    /// Refuses: answers, and leaves the reason for the record.
    async fn refuse(session: &mut Session, exchange: &mut Exchange, refusal: Refusal) -> pingora_core::Result<bool> {
        if let Some(live) = exchange.live.clone() {
            exchange.lap_admission(&live, Some(&refusal));
        }
        if let Refusal::BadRequest(_) | Refusal::NoForm(_) = refusal {
            // Whatever follows on such a connection cannot be trusted to be a request.
            session.set_keepalive(None);
        }
        let discards = matches!(refusal, Refusal::Answer(_)) && !session.as_downstream().is_http2();
        if discards && body::is_small(session.req_header()) {
            body::discard(session).await;
        }
        let status = refusal.status();
        let answered = refusal.answer(session, |request, head| Self::finish(request, head, exchange, status)).await;
        exchange.refusal = Some(refusal);
        if discards && !session.is_body_done() {
            body::discard(session).await;
        }
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
        context.hear();
        context.overdue_at(None);
        exchange.notes.in_flight = Some(live.metrics.request_began());
        exchange.begin_trace(&live, &context, &session.req_header().headers);
        if let Role::Ingress(_) = live.listener.role {
            exchange.notes.target = without_token(&session.req_header().uri);
        }
        if let Err(refusal) = Self::admit(session, exchange, &context, &live) {
            return Self::refuse(session, exchange, refusal).await;
        }
        if let Role::Ingress(role) = &live.listener.role {
            match ingress::admit(session, exchange, &live, role).await {
                Ok(Admitted::Forward) => {}
                Ok(Admitted::File(mut file)) => {
                    let status = file.head.status.as_u16();
                    Self::finish(session.req_header(), &mut file.head, exchange, status)?;
                    exchange.lap_admission(&live, None);
                    return file.send(session).await.map(|()| true);
                }
                Err(refusal) => return Self::refuse(session, exchange, refusal).await,
            }
        }
        exchange.lap_admission(&live, None);
        timing::take_in(session, exchange, &live).await?;
        Ok(false)
    }

    /// balance.
    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> pingora_core::Result<Box<HttpPeer>> {
        let Some(live) = exchange.live.clone() else { return Error::e_explain(ErrorType::InternalError, "no listener") };
        exchange.filtered.sent = 0;
        let chosen = match exchange.choose(&live).await {
            Ok(chosen) => chosen,
            Err(refusal) => {
                exchange.lap_refused(Step::Balance, &refusal);
                let error = Error::explain(ErrorType::HTTPStatus(refusal.status()), refusal.to_string());
                exchange.refusal = Some(refusal);
                return Err(error.into_up());
            }
        };
        exchange.lap(Step::Balance);
        let mut peer = match (&live.side, &chosen.cluster) {
            (_, Some(cluster)) => match cluster.peer(chosen.place, &chosen.endpoint) {
                Some(peer) => cluster.announced(peer, exchange.context.as_deref()),
                None => return Error::e_explain(ErrorType::InternalError, "no such endpoint"),
            },
            (Side::App(app), None) => {
                // An exposed path's protocol says what the app speaks; a service's follows the caller.
                let follows = matches!(live.listener.role, Role::Inbound(_));
                app.peer(live.listener.protocol.is_http2() && (!follows || session.as_downstream().is_http2()))
            }
            (Side::Upstream(_) | Side::Ingress(_), None) => return Error::e_explain(ErrorType::InternalError, "no cluster"),
        };
        if session.is_upgrade_req() && matches!(live.listener.role, Role::Ingress(_)) {
            // A WebSocket never rides HTTP/2: its upgrade would be lost.
            peer.options.alpn = ALPN::H1;
        }
        if !self.keeps_idle {
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        peer.options.read_timeout = timing::read_timeout(session, exchange, &live);
        exchange.upgrade = upgrade::prepare(&mut peer, session.req_header());
        // Pingora forwards no answer while a write of the request is stuck: without a limit, two sides that only write would wait for ever.
        peer.options.write_timeout = Some(route::IDLE_TIMEOUT);
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
        let extension = digest.and_then(|d| d.ssl_digest.as_ref()).map(|s| &s.extension);
        let Trust::Mesh { expected, .. } = &cluster.cluster.trust else {
            return match extension.and_then(|extension| extension.get::<AddressShown>()) {
                Some(AddressShown(false)) => {
                    Error::e_explain(UNEXPECTED_IDENTITY, "the server's certificate is not for its address").map_err(Error::into_up)
                }
                _ => Ok(()),
            };
        };
        let shown = extension.and_then(|extension| extension.get::<ServerIdentity>());
        let floor = exchange.live.as_ref().map(|l| min_version(&l.listener.tls));
        match shown {
            Some(ServerIdentity { id: Some(id), version }) if expected.contains(id) && *version >= floor => Ok(()),
            Some(ServerIdentity { id: Some(id), .. }) if expected.contains(id) => {
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
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<()> {
        exchange.lap(Step::Connect);
        exchange.forwarding = if request.version == Version::HTTP_2 { Forwarding::Framed } else { Forwarding::Piped };
        exchange.pass_trace_on(request)?;
        if let Some(upgrade) = &exchange.upgrade {
            upgrade.begin();
        }
        if is_grpc(session) {
            // A call without messages ends in an empty DATA frame, never in its headers (gRPC over HTTP/2): grpc-go waits for it.
            request.set_send_end_stream(false);
        }
        if let Some(live) = &exchange.live {
            let dial = exchange.chosen.as_ref().and_then(|chosen| chosen.endpoint.dial.as_ref());
            let called = || &live.listener.role.destination(&live.listener.service).name;
            headers::ensure_host(request, dial.map_or_else(called, |dial| &dial.name))?;
        }
        match (exchange.live.as_ref().map(|l| &l.listener.role), &exchange.context) {
            (Some(Role::Inbound(inbound)), Some(context)) => {
                let element = context.peer.as_ref().and_then(|p| p.xfcc.as_deref());
                headers::towards_app(request, inbound.xfcc, element)?;
                exchange.tokens.apply(request)?;
            }
            (Some(Role::Ingress(role)), Some(context)) => {
                if let Some(client) = &exchange.client {
                    let port = context.local.map(|local| local.port());
                    client.tell(request, called(session.req_header()), port, &role.client)?;
                }
                headers::towards_server(request, context.certificate.as_deref())?;
            }
            _ => headers::towards_peer(request)?,
        }
        if let Some(live) = &exchange.live
            && let Some((route, _)) = exchange.taken(live)
            && let Some(path) = match exchange.ingress_route(live) {
                Some(own) => ingress::sent_on(own, route, request.uri.path()),
                None => route.rewritten(request.uri.path()),
            }
        {
            let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            gate::set_target(request, path + &query).or_err(ErrorType::InternalError, "the rewritten path is no path")?;
        }
        Self::edit(session.req_header(), request, exchange, 0, |edits| &edits.request)?;
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
        if let Some(refusal) = over_limit(session, exchange, body.as_ref().map_or(0, Bytes::len)) {
            exchange.refusal = Some(refusal);
            return Error::e_explain(BODY_TOO_LARGE, "the request's body is over the route's limit").map_err(Error::into_down);
        }
        if exchange.deadline.is_none()
            && let Some(live) = &exchange.live
        {
            if end {
                exchange.deadline = timing::deadline(session, exchange, live);
            }
            timing::watch(session, exchange, end);
        }
        if end {
            exchange.notes.request_time = Some(exchange.begun.elapsed());
        }
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        if !end && let Some(upload) = upload(session, exchange) {
            *body = body.take().map(|piece| upload.piece(piece));
        }
        Ok(())
    }

    /// The endpoint's answer, before anything of it is passed on: passive health learns of it, and the route's policy may want another try.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> pingora_core::Result<()> {
        let unclean = |why| Error::explain(ErrorType::InvalidHTTPHeader, why).into_up();
        gate::response::check(response).map_err(unclean)?;
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS && exchange.upgrade.is_none() {
            return Err(unclean("a 101 that nobody asked for"));
        }
        if response.status.is_informational() && response.status != http::StatusCode::SWITCHING_PROTOCOLS {
            return gate::response::interim(&mut exchange.interim).map_err(unclean);
        }
        timing::answered(session, exchange);
        let outcome = Outcome::Answer {
            status: response.status.as_u16(),
            grpc: grpc_status(&response.headers),
            ratelimited: response.headers.contains_key("x-envoy-ratelimited"),
        };
        if exchange.ended(outcome, None, replay(session, exchange)) {
            return Error::e_explain(ANOTHER_TRY, "the route's policy asks for another try").map_err(Error::into_up);
        }
        if let Some(live) = &exchange.live
            && let Some(rules) = exchange.ingress_route(live).and_then(|route| route.filters.compression.as_ref())
        {
            let request = session.downstream_session.req_header();
            compress::prepare(rules, request, response, &mut session.upstream_compression)?;
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
        exchange.notes.response_time = Some(exchange.begun.elapsed());
        exchange.grpc_status = grpc_status(&response.headers);
        if headers::towards_client(response, session.req_header().version) {
            session.set_keepalive(None);
        }
        if let Some(context) = &exchange.context {
            if context.draining.load(std::sync::atomic::Ordering::Relaxed) {
                session.set_keepalive(None);
            }
            if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
                context.tunnel.begin(exchange.live.as_ref().and_then(|live| timing::idle(exchange, live)));
            }
        }
        if let Some(live) = exchange.live.clone()
            && exchange.taken(&live).is_some()
        {
            Self::finish(session.req_header(), response, exchange, response.status.as_u16())?;
            for cookie in exchange.cookies() {
                response.append_header(http::header::SET_COOKIE, cookie)?;
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
            exchange.notes.trailers = Some(trailers.clone());
        }
        Ok(None)
    }

    /// Nothing was sent: any request may go to the next endpoint.
    fn fail_to_connect(&self, session: &mut Session, peer: &HttpPeer, exchange: &mut Exchange, mut error: Box<Error>) -> Box<Error> {
        let why = Refusal::Connect(format!("{}: {}", peer.address(), error.root_cause()));
        exchange.lap_failed_try(&why);
        error.set_retry(exchange.ended(Outcome::ConnectFailure, Some(why), replay(session, exchange)));
        error
    }

    /// Something may have been sent: what becomes of the request depends on how much, and on the route's policy.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        timing::unwatch(session, exchange);
        exchange.lap_failed_try(&error);
        let again = if *error.etype() == ANOTHER_TRY {
            true
        } else if *error.esource() == ErrorSource::Downstream {
            if timing::is_overdue(exchange) {
                exchange.ended(Outcome::Timeout, None, Replay::default());
            }
            false
        } else {
            let refusal = match Refusal::of(&error) {
                _ if *error.etype() == UNEXPECTED_IDENTITY => Refusal::Connect(error.root_cause().to_string()),
                Some(refusal) => refusal,
                None => Refusal::Internal(error.to_string()),
            };
            let outcome = match &refusal {
                Refusal::Connect(_) => Outcome::ConnectFailure,
                Refusal::Timeout => Outcome::Timeout,
                _ if never_processed(&error) => Outcome::Unprocessed,
                _ => Outcome::Reset,
            };
            exchange.ended(outcome, Some(refusal), Replay { reused, ..replay(session, exchange) })
        };
        error.set_retry(again);
        error
    }

    /// The last error: answer it.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        timing::unwatch(session, exchange);
        let downstream = *error.esource() == ErrorSource::Downstream;
        let malformed = exchange.context.as_ref().and_then(|context| context.malformed()).map(Refusal::BadRequest);
        let refusal = match exchange.refusal.take() {
            _ if downstream && timing::is_overdue(exchange) => Some(Refusal::Timeout),
            _ if downstream && malformed.is_some() => malformed,
            Some(refusal) if !downstream || *error.etype() == BODY_TOO_LARGE => Some(refusal),
            _ => Refusal::of(error),
        };
        let started = session.response_written().is_some_and(|head| !head.status.is_informational());
        let error_code = refusal.as_ref().map_or(0, Refusal::status);
        if let (Some(refusal), false) = (&refusal, started) {
            // What is left of the request is not waited for.
            session.set_keepalive(None);
            match refusal.answer(session, |request, head| Self::finish(request, head, exchange, error_code)).await {
                Ok(()) => {
                    if let ServerSession::H1(http1) = session.as_downstream_mut() {
                        http1.shutdown().await;
                    }
                }
                Err(gone) => tracing::debug!("the client left before it was answered: {gone}"),
            }
        }
        if *error.etype() == BODY_TOO_LARGE {
            body::discard(session).await;
        }
        exchange.refusal = refusal;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// record.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        let Some(live) = exchange.live.clone() else { return };
        if let Some(error) = error {
            tracing::debug!(listener = %live.listener.key, "the exchange broke off: {error}");
        }
        if exchange.retries() > 0 {
            live.metrics.retry(if exchange.refusal.is_some() { "failed" } else { "succeeded" });
        }
        exchange.close_trace();
        self.telemetry.record(&http_record(session, error, exchange, &live), &live.metrics);
    }

    /// The record says it all.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error, _context: ProxyWarnLogContext) -> bool {
        true
    }
}

/// Counts a part of the request's body; the refusal once it is longer than the route takes. What goes through a tunnel is no body.
fn over_limit(session: &Session, exchange: &mut Exchange, bytes: usize) -> Option<Refusal> {
    let limit = exchange.live.as_ref().and_then(|live| exchange.ingress_route(live)?.filters.body_limit)?;
    exchange.filtered.sent += bytes as u64;
    (exchange.filtered.sent > limit && !session.was_upgraded()).then(body::too_large)
}

/// Where the pieces of a body that wait for a connection of HTTP/1 are counted. What goes through a tunnel is no body.
fn upload<'a>(session: &Session, exchange: &'a Exchange) -> Option<&'a Arc<Upload>> {
    if session.as_http1().is_some() {
        return exchange.context.as_ref().filter(|context| !context.tunnel.has_begun()).map(|context| &context.upload);
    }
    exchange.waiting.as_ref().map(|waiting| &waiting.upload)
}

/// The request can be sent once more while its body is at hand, nothing of an answer has left, and there is time.
fn replay(session: &Session, exchange: &Exchange) -> Replay {
    let in_time = exchange.deadline.is_none_or(|deadline| Instant::now() < deadline);
    let possible = session.response_written().is_none() && !session.as_ref().retry_buffer_truncated() && in_time;
    Replay { possible, idempotent: session.req_header().method.is_idempotent(), reused: false }
}

/// Whether HTTP/2 says that the request was not processed: a refused stream, or one above a graceful GOAWAY (RFC 9113, sections 6.8, 8.7).
fn never_processed(error: &Error) -> bool {
    let Some(cause) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    let leaving = cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR);
    refused || leaving
}
