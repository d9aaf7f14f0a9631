//! How long things may take.
//!
//! The whole-request timeout counts from the end of the request to the end of the answer, as in Envoy. Pingora's only clock is the time between two
//! reads from the endpoint; so that it bounds the wait for an answer, the request must be known to be complete when it is handed over. Where it is not,
//! [`watch`] sees to it.

use std::time::{Duration, Instant};

use http::Version;
use pingora_proxy::Session;
use tokio::time::timeout;

use super::{
    exchange::{Exchange, Forwarding},
    live::Live,
    waiting::Waiting,
};
use crate::model::{listener::Role, route};

/// Bodies up to this size, bytes, are taken as sent at once: the whole-request timeout then also bounds the wait for the answer.
const SMALL_BODY: u64 = 64 * 1024;
/// A body of unknown length is taken in before the request is routed while it is no longer than this, bytes: with one more frame (16 KiB) it still fits into
/// Pingora's replay buffer of 64 KiB.
const TAKEN_IN: usize = 48 * 1024;
/// How long the rest of such a body is waited for: what comes in one piece comes within this, a stream does not have to wait noticeably.
const PROMPT: Duration = Duration::from_millis(2);

/// How long the whole request may take.
fn whole(exchange: &Exchange, live: &Live) -> Option<Duration> {
    match &live.listener.role {
        Role::Inbound(inbound) => inbound.request_timeout,
        Role::Upstream(_) | Role::Ingress(_) => exchange.taken(live).and_then(|(route, _)| route.timeout),
        Role::Exposed(_) => Some(route::TIMEOUT),
    }
}

/// How long the exchange may stand still.
pub fn idle(exchange: &Exchange, live: &Live) -> Option<Duration> {
    match &live.listener.role {
        Role::Inbound(inbound) => inbound.idle_timeout,
        Role::Exposed(_) => Some(route::IDLE_TIMEOUT),
        Role::Upstream(_) | Role::Ingress(_) => exchange.taken(live).map_or(Some(route::IDLE_TIMEOUT), |(route, _)| route.idle_timeout),
    }
}

/// When the answer must be complete, counted from now, the end of the request. A tunnel has no end.
pub fn deadline(session: &Session, exchange: &Exchange, live: &Live) -> Option<Instant> {
    whole(exchange, live).filter(|_| !session.is_upgrade_req()).map(|timeout| Instant::now() + timeout)
}

/// Sees to it that a request whose end [`read_timeout`] could not foresee still ends in time. For each piece of its body, and its end.
pub fn watch(session: &mut Session, exchange: &mut Exchange, end: bool) {
    let deadline = exchange.deadline.filter(|_| end && !is_short(session));
    if session.as_http1().is_some() {
        if let (Some(deadline), Some(context)) = (deadline, &exchange.context) {
            context.overdue_at(Some(deadline.into()));
        }
        return;
    }
    let begins = match exchange.forwarding {
        Forwarding::Piped => !end || deadline.is_some(),
        Forwarding::Framed => deadline.is_some(),
        Forwarding::Not => false,
        // Its end was held back when the answer began.
        Forwarding::Answered => return unwatch(session, exchange),
    };
    if begins && exchange.waiting.is_none() {
        exchange.waiting = Waiting::begin(session.as_downstream_mut());
    }
    if let (Some(deadline), Some(waiting)) = (deadline, &exchange.waiting) {
        waiting.overdue_at(deadline);
    }
}

/// The answer has begun: from here on the time between two reads from the endpoint bounds it.
pub fn answered(session: &mut Session, exchange: &mut Exchange) {
    exchange.forwarding = Forwarding::Answered;
    exchange.waiting = exchange.waiting.take().and_then(|waiting| waiting.answered(session.as_downstream_mut()));
}

/// The try is over.
pub fn unwatch(session: &mut Session, exchange: &mut Exchange) {
    if let Some(waiting) = exchange.waiting.take() {
        waiting.end(session.as_downstream_mut());
    }
}

/// Whether the answer is overdue.
pub fn is_overdue(exchange: &Exchange) -> bool {
    exchange.deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// How long the endpoint may be silent.
pub fn read_timeout(session: &Session, exchange: &Exchange, live: &Live) -> Option<Duration> {
    if session.is_upgrade_req() {
        return None;
    }
    let whole = match exchange.deadline {
        Some(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
        None => whole(exchange, live).filter(|_| is_short(session)),
    };
    match (whole, idle(exchange, live)) {
        (Some(whole), Some(idle)) => Some(whole.min(idle)),
        (whole, idle) => whole.or(idle),
    }
}

/// Whether the body is small by its announced length, so that it is as good as sent.
fn is_short(session: &Session) -> bool {
    let head = session.req_header();
    let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let bodiless = head.version != Version::HTTP_2 && !head.headers.contains_key(http::header::TRANSFER_ENCODING);
    length.map_or(bodiless, |length| length <= SMALL_BODY)
}

/// Takes a request in whose length is not announced, as those of gRPC never are, if it comes in one piece: then its end is known, and with it its
/// deadline. Pingora sends on what was taken in as it does for a retry.
///
/// # Errors
/// When the client's stream breaks.
pub async fn take_in(session: &mut Session, exchange: &mut Exchange, live: &Live) -> pingora_core::Result<()> {
    let downstream = session.as_downstream_mut();
    let headers = &downstream.req_header().headers;
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    let unknown = chunked || (downstream.is_http2() && !headers.contains_key(http::header::CONTENT_LENGTH));
    if unknown && whole(exchange, live).is_some() {
        downstream.enable_retry_buffering();
        let mut taken = 0;
        while !downstream.is_body_done() && taken <= TAKEN_IN {
            match timeout(PROMPT, downstream.read_request_body()).await {
                Ok(Ok(Some(bytes))) => taken += bytes.len(),
                Ok(Ok(None)) | Err(_) => break,
                Ok(Err(why)) => return Err(why.into_down()),
            }
        }
    }
    if session.as_downstream_mut().is_body_done() {
        exchange.deadline = deadline(session, exchange, live);
    }
    Ok(())
}
