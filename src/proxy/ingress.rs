//! The ingress role: names and paths, filters, and what becomes of a request that passed them.

use std::sync::Arc;

use http::header;
use openssl::ssl::SslAcceptor;
use pingora_proxy::Session;

use super::{
    exchange::Exchange,
    filter::client::Client,
    gate,
    live::{Live, LiveCluster, Side},
    refusal::{Answer, Refusal},
};
use crate::model::{
    ingress::{Action, Ingress, IngressRoute, Paths, filters::Redirect},
    path::{EscapedSlashes, Normalization, Underscores},
};

/// How requests of an ingress listener are brought into their one form: routes, policy and servers see the same path. Escaped slashes stay, but may not
/// lead elsewhere (see [`refuse_hidden_route`]).
const NORMALIZATION: Normalization =
    Normalization { path: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep, underscores: Underscores::Allow };

/// The living parts of an ingress listener.
pub struct IngressSide {
    /// Terminates TLS; `None` serves in clear.
    pub acceptor: Option<SslAcceptor>,
    /// The clusters of the routing's pools, by their places.
    pub clusters: Vec<Arc<LiveCluster>>,
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
        match &ingress.tls {
            None => Ok(Self { acceptor: None, clusters }),
            Some(_) => Err("TLS is not served yet".to_owned()),
        }
    }
}

/// What the ingress listeners of the process share, and what of theirs outlives snapshots: counters live here by the name of who set them.
#[derive(Default)]
pub struct Shared {
    /// The clusters that were made last: a server's limits and its passive health are one, whichever listener a request came in by.
    pub clusters: Vec<Arc<LiveCluster>>,
}

/// What the ingress role made of a request.
pub enum Admitted {
    /// It goes on to a server.
    Forward,
    /// It has its answer.
    Answered,
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
    exchange.client = Some(client);
    if let Some(answer) = acme_answer(ingress, session.req_header().uri.path()) {
        return Err(answer);
    }
    let view = gate::view(session.req_header());
    let paths = ingress.routing.hosts.find(view.authority).ok_or(Refusal::NoRoute)?;
    let place = paths.find(view.path).ok_or(Refusal::NoRoute)?;
    refuse_hidden_route(paths, view.path, place)?;
    let route = ingress.routing.routes.get(place).ok_or(Refusal::NoRoute)?;
    exchange.take(live, place, &route.route, Some(&view));
    filter(session, exchange, ingress, route)?;
    match &route.action {
        Action::Redirect(redirect) => Err(redirected(redirect, session)),
        Action::Files(_) => Err(Refusal::Internal("files are not served yet".to_owned())),
        Action::Forward => exchange.has_endpoint(live).map(|()| Admitted::Forward),
    }
}

/// The route's filters, in the order that [`crate::model::ingress::Filters`] gives.
fn filter(session: &Session, exchange: &Exchange, ingress: &Ingress, route: &IngressRoute) -> Result<(), Refusal> {
    if route.filters.to_https && exchange.client.as_ref().is_some_and(|client| !client.https) {
        return Err(to_https(session, ingress));
    }
    Ok(())
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

/// 308 to the same place in https: method and body are kept (RFC 9110, section 15.4.9).
fn to_https(session: &Session, ingress: &Ingress) -> Refusal {
    let request = session.req_header();
    let view = gate::view(request);
    let host = crate::model::ingress::hosts::canonical(view.authority);
    if host.is_empty() {
        return Refusal::BadRequest("without a host there is no https address to go to");
    }
    let port = ingress.https_port.filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    let safe = matches!(*request.method.as_str().as_bytes(), [b'G', b'E', b'T'] | [b'H', b'E', b'A', b'D']);
    let status = if safe { 301 } else { 308 };
    Answer::new(status, "to_https").header(header::LOCATION, format!("https://{host}{port}{target}")).into()
}

/// `redirect_to`: path and query follow unless the file gives the whole location.
fn redirected(redirect: &Redirect, session: &Session) -> Refusal {
    let target = session.req_header().uri.path_and_query().map_or("/", |target| target.as_str());
    let location = if redirect.exact { redirect.to.to_string() } else { format!("{}{target}", redirect.to.trim_end_matches('/')) };
    Answer::new(redirect.status, "redirect").header(header::LOCATION, location).into()
}
