//! The ingress role: names and paths, filters, and what becomes of a request that passed them.

use std::sync::Arc;

use http::{HeaderValue, Method, header};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{
    exchange::{Exchange, Place},
    filter::{
        address,
        auth::{Asking, Authenticator},
        body,
        client::Client,
        compress, cors,
        files::{self, FileAnswer},
        limit::{self, Buckets},
    },
    gate, headers,
    live::{Live, LiveCluster, Side},
    refusal::{Answer, Refusal},
    tls::names::Front,
};
use crate::model::{
    ingress::{
        Action, Challenges, Ingress, IngressRoute, IngressTls, Paths,
        auth::AuthKind,
        filters::{LimitKey, RateLimit, Redirect},
        hosts::NORMALIZATION,
    },
    jwt::Tokens as _,
    matching::{RequestView, TextMatch},
    path::{EscapedSlashes, Normalization},
    route::Route,
};
use crate::telemetry::traces::Step;

/// The living parts of an ingress listener.
pub struct IngressSide {
    /// Terminates TLS; `None` serves in clear.
    pub acceptor: Option<Arc<Front>>,
    /// `Strict-Transport-Security` of its answers.
    hsts: Option<HeaderValue>,
    /// The clusters of the routing's pools, by their places.
    pub clusters: Vec<Arc<LiveCluster>>,
    /// Who is asking.
    auth: Arc<Authenticator>,
    /// The buckets of the rate limits.
    pub buckets: Arc<Buckets>,
}

impl IngressSide {
    /// Makes an ingress listener live; what lives longer than a snapshot is in `shared`.
    ///
    /// # Errors
    /// In words, when a certificate or a filter cannot be used.
    pub fn new(ingress: &Ingress, clusters: Vec<Arc<LiveCluster>>, shared: &mut Shared) -> Result<Self, String> {
        if !clusters.is_empty() {
            shared.clusters.clone_from(&clusters);
        }
        let acceptor = ingress.tls.as_ref().map(|tls| shared.front(tls, &ingress.challenges)).transpose()?;
        let hsts = ingress.tls.as_ref().and_then(|tls| tls.hsts).map(|age| format!("max-age={}", age.as_secs()));
        let hsts = hsts.map(HeaderValue::try_from).transpose().map_err(|e| e.to_string())?;
        Ok(Self { acceptor, hsts, clusters, auth: shared.auth.clone(), buckets: shared.buckets.clone() })
    }
}

/// What the ingress listeners of the process share, and what of theirs outlives snapshots: counters live here by the name of who set them.
#[derive(Default)]
pub struct Shared {
    /// The clusters that were made last: a server's limits and its passive health are one, whichever listener a request came in by.
    pub clusters: Vec<Arc<LiveCluster>>,
    /// What terminates TLS; with it live the keys of session tickets.
    front: Option<Arc<Front>>,
    /// Failures to authenticate, and who was found right lately.
    auth: Arc<Authenticator>,
    /// The buckets of the rate limits: a client fills the same one by every listener, and a new configuration empties none.
    pub buckets: Arc<Buckets>,
}

impl Shared {
    fn front(&mut self, tls: &IngressTls, challenges: &Challenges) -> Result<Arc<Front>, String> {
        match &self.front {
            Some(front) if front.is_for(tls) => front.follow(&tls.certificates, challenges)?,
            _ => self.front = Some(Arc::new(Front::new(tls, challenges)?)),
        }
        self.front.clone().ok_or_else(|| "no TLS".to_owned())
    }
}

/// `Strict-Transport-Security` (RFC 6797) of answers on a listener, made once; none in clear, where clients must ignore it (section 7.2).
pub fn strict_transport(live: &Live) -> Option<HeaderValue> {
    match &live.side {
        Side::Ingress(side) => side.hsts.clone(),
        Side::App(_) | Side::Upstream(_) => None,
    }
}

/// What the ingress role made of a request.
pub enum Admitted {
    /// It goes on to a server.
    Forward,
    /// A file is the answer.
    File(Box<FileAnswer>),
}

/// client → route → filters → action.
///
/// # Errors
/// [`Refusal`], with the answer that the client gets.
pub async fn admit(session: &mut Session, exchange: &mut Exchange, live: &Live, ingress: &Ingress) -> Result<Admitted, Refusal> {
    let Side::Ingress(side) = &live.side else { return Err(Refusal::Internal("no ingress side".to_owned())) };
    gate::normalize(session.req_header_mut(), &NORMALIZATION)?;
    let context = exchange.context.clone();
    let remote = context.as_ref().and_then(|context| context.remote).map(|remote| remote.ip());
    let client = Client::of(session.req_header(), remote, side.acceptor.is_some(), &ingress.client);
    headers::name_request(session.req_header_mut(), client.is_behind_trusted()).map_err(internal)?;
    exchange.client = Some(client);
    if let Some(answer) = acme_answer(ingress, session.req_header().uri.path()) {
        return Err(answer);
    }
    let view = gate::view(session.req_header());
    let paths = ingress.routing.hosts.find(view.authority).ok_or(Refusal::NoRoute)?;
    let place = paths.find(view.path).ok_or(Refusal::NoRoute)?;
    refuse_hidden_route(paths, view.path, place)?;
    let route = ingress.routing.routes.get(place).ok_or(Refusal::NoRoute)?;
    let (further, taken) = taken(route, &view).ok_or(Refusal::NoRoute)?;
    exchange.take(live, Place { route: place, further }, taken, Some(&view));
    exchange.lap(Step::Route);
    filter(session, exchange, side, ingress, route).await?;
    match &route.action {
        Action::Redirect(redirect) => Err(redirected(redirect, session)),
        Action::Files(files) => {
            let mut file = files::find(files, session.req_header()).await?;
            if let Some(rules) = &route.filters.compression {
                let request = session.req_header().clone();
                compress::prepare(rules, &request, &mut file.head, &mut session.upstream_compression).map_err(internal)?;
            }
            Ok(Admitted::File(Box::new(file)))
        }
        Action::Forward => exchange.has_endpoint(live).map(|()| Admitted::Forward),
    }
}

fn internal(error: Box<pingora_core::Error>) -> Refusal {
    Refusal::Internal(error.to_string())
}

/// The route's filters, in the order that [`crate::model::ingress::Filters`] gives.
async fn filter(
    session: &mut Session,
    exchange: &mut Exchange,
    side: &IngressSide,
    ingress: &Ingress,
    route: &IngressRoute,
) -> Result<(), Refusal> {
    let filters = &*route.filters;
    let client = exchange.client.clone();
    if let Some(rules) = &filters.addresses {
        address::check(rules, client.as_ref().and_then(|client| client.address))?;
    }
    if filters.to_https && client.as_ref().is_some_and(|client| !client.https) {
        return Err(to_https(session, ingress));
    }
    if let Some(answer) = filters.cors.as_ref().and_then(|cors| cors::preflight(cors, session.req_header())) {
        return Err(answer);
    }
    let needs_token = |limit: &&RateLimit| matches!(limit.key, LimitKey::Claim(_));
    for limit in filters.limits.iter().filter(|limit| !needs_token(limit)) {
        count(limit, session.req_header(), exchange, side, route)?;
    }
    if let (Some(auth), Some(client)) = (&filters.auth, &client) {
        let port = exchange.context.as_ref().and_then(|context| context.local).map(|local| local.port());
        let mut asking = Asking { request: session.req_header_mut(), client, ingress, port, wall: exchange.wall };
        exchange.tokens = side.auth.admit(auth, &mut asking).await?;
    }
    for limit in filters.limits.iter().filter(needs_token) {
        count(limit, session.req_header(), exchange, side, route)?;
    }
    filters.body_limit.map_or(Ok(()), |limit| body::check(limit, session.req_header()))
}

/// Counts a request against a limit, and notes where its client stands with the tightest.
fn count(
    limit: &RateLimit,
    request: &RequestHeader,
    exchange: &mut Exchange,
    side: &IngressSide,
    route: &IngressRoute,
) -> Result<(), Refusal> {
    let claims = match route.filters.auth.as_ref().map(|auth| &auth.kind) {
        Some(AuthKind::Jwt(jwt)) => exchange.tokens.claims(&jwt.entry.name),
        _ => None,
    };
    let client = exchange.client.as_ref().and_then(|client| client.address);
    let context = exchange.context.clone();
    let source = context.as_ref().and_then(|context| context.source.as_deref());
    let mut text = String::new();
    let whom = limit::whom(&limit.key, &request.headers, claims, source, client, &mut text);
    let standing = side.buckets.take(limit, whom, exchange.begun);
    if exchange.filtered.standing.is_none_or(|before| standing.is_tighter(&before)) {
        exchange.filtered.standing = Some(standing);
    }
    standing.refusal().map_or(Ok(()), Err)
}

/// What the filters say on every answer of a route, the refusals too: they have the last word on its head.
///
/// # Errors
/// When a header cannot be written, which no checked configuration can cause.
pub fn finish(request: &RequestHeader, head: &mut ResponseHeader, exchange: &Exchange) -> pingora_core::Result<()> {
    let Some(route) = exchange.live.as_ref().and_then(|live| exchange.ingress_route(live)) else { return Ok(()) };
    if let Some(cors) = &route.filters.cors {
        cors::answer(cors, &request.headers, head)?;
    }
    exchange.filtered.standing.map_or(Ok(()), |standing| standing.tell(head))
}

/// The first route that takes a request of a path, with its place: on its path as the service sees it.
fn taken<'a>(route: &'a IngressRoute, view: &RequestView<'_>) -> Option<(usize, &'a Route)> {
    if route.further.is_empty() {
        return Some((0, &route.route));
    }
    let path = rewritten(&route.route, view.path);
    let seen = RequestView { path: path.as_deref().unwrap_or(view.path), ..*view };
    route.further.iter().enumerate().find(|(_, further)| further.matches.is_match(&seen))
}

/// The path that is sent on by a route, and what the one among its [`IngressRoute::further`] that was taken makes of it; none where it stays.
pub fn sent_on(route: &IngressRoute, taken: &Route, path: &str) -> Option<String> {
    let own = rewritten(&route.route, path);
    let further = if route.further.is_empty() { None } else { taken.rewritten(own.as_deref().unwrap_or(path)) };
    further.or(own)
}

/// The path that a server of a rewriting route sees: the route's prefix is replaced at its `/` boundary. It begins with one slash: with two a server
/// might take what follows for a host.
fn rewritten(route: &Route, path: &str) -> Option<String> {
    let rewrite = route.rewrite.as_deref()?;
    let prefix = match route.matches.path.as_ref().map(|path| &path.text) {
        Some(TextMatch::Prefix(prefix)) => prefix.trim_end_matches('/'),
        _ => "",
    };
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let whole =
        if rest.is_empty() { rewrite.to_owned() } else { format!("{}/{}", rewrite.trim_end_matches('/'), rest.trim_start_matches('/')) };
    Some(format!("/{}", whole.trim_start_matches('/')))
}

/// A path with escaped slashes must lead to the route that it leads to without them: a server may decode what we do not.
fn refuse_hidden_route(paths: &Paths, path: &str, place: usize) -> Result<(), Refusal> {
    let is_escaped = |three: &[u8]| matches!(three, [b'%', b'2', b'f' | b'F'] | [b'%', b'5', b'c' | b'C']);
    if !path.as_bytes().windows(3).any(is_escaped) {
        return Ok(());
    }
    let unescaped = Normalization { escaped_slashes: EscapedSlashes::UnescapeAndForward, ..NORMALIZATION };
    match crate::model::path::normalize(path, &unescaped) {
        Ok(decoded) if paths.find(&decoded.path_and_query) == Some(place) => Ok(()),
        _ => Err(Refusal::BadRequest("an escaped slash in its path leads to another route")),
    }
}

/// The answer to an ACME server's HTTP-01 question (RFC 8555, section 8.3), for tokens that were asked for.
fn acme_answer(ingress: &Ingress, path: &str) -> Option<Refusal> {
    let token = path.strip_prefix("/.well-known/acme-challenge/")?;
    let answer = ingress.challenges.http.get(token)?;
    Some(Answer::new(200, "acme_challenge").header(header::CONTENT_TYPE, "application/octet-stream").body(answer.to_string()).into())
}

/// To the same place in https: 301, or 308 where method and body must be kept (RFC 9110, section 15.4.9).
fn to_https(session: &Session, ingress: &Ingress) -> Refusal {
    let request = session.req_header();
    let view = gate::view(request);
    let host = crate::model::ingress::hosts::canonical(view.authority);
    if host.is_empty() {
        return Refusal::BadRequest("without a host there is no https address to go to");
    }
    let port = ingress.https_port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let status = if matches!(request.method, Method::GET | Method::HEAD) { 301 } else { 308 };
    Answer::new(status, "to_https").header(header::LOCATION, format!("https://{host}{port}{target}")).into()
}

/// `redirect_to`: path and query follow unless the file gives the whole location.
fn redirected(redirect: &Redirect, session: &Session) -> Refusal {
    let target = session.req_header().uri.path_and_query().map_or("/", |target| target.as_str());
    let location = if redirect.exact { redirect.to.to_string() } else { format!("{}{target}", redirect.to.trim_end_matches('/')) };
    Answer::new(redirect.status, "redirect").header(header::LOCATION, location).into()
}

#[cfg(test)]
mod tests;
