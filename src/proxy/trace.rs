//! How an exchange takes part in traces: a few words at the end of each step, without effect where the request is not sampled.

use std::time::Instant;

use http::HeaderMap;
use pingora_core::Result;
use pingora_http::RequestHeader;

use super::{connection::Context, exchange::Exchange, live::Live, refusal::Refusal};
use crate::{
    model::listener::Role,
    telemetry::{
        record::Flag,
        traces::{Step, Trace},
    },
};

/// When the steps that belong to a connection ended.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// When the connection was accepted.
    pub began: Instant,
    /// When whoever speaks for others had said for whom.
    pub accepted: Option<Instant>,
    /// When the TLS handshake was done.
    pub secured: Option<Instant>,
    /// When it was known who calls.
    pub identified: Option<Instant>,
}

impl Default for Greeting {
    fn default() -> Self {
        Self { began: Instant::now(), accepted: None, secured: None, identified: None }
    }
}

impl Exchange {
    /// Takes part in the trace that a request with these headers belongs to, where the listener does so. The first request of a connection has the steps
    /// of the connection too.
    pub fn begin_trace(&mut self, live: &Live, context: &Context, headers: &HeaderMap) {
        let Some(settings) = &live.listener.tracing else { return };
        self.trace = Trace::begin(settings, headers, self.begun);
        if let Some(trace) = &mut self.trace
            && context.heard() <= 1
        {
            let Greeting { mut began, accepted, secured, identified } = context.greeting;
            for (step, ended) in [(Step::Accept, accepted), (Step::Tls, secured), (Step::Identify, identified)] {
                if let Some(ended) = ended {
                    trace.preceded(step, began, ended);
                    began = ended;
                }
            }
        }
    }

    fn note(&mut self, step: impl FnOnce(&Trace) -> Step, failure: impl FnOnce() -> Option<String>) {
        let Self { trace: Some(trace), chosen, .. } = self else { return };
        let step = step(trace);
        let is_of_try = matches!(step, Step::Balance | Step::Connect | Step::Forward);
        let endpoint = || chosen.as_ref().filter(|_| is_of_try).map(|chosen| chosen.endpoint.address.to_string());
        trace.lap(step, endpoint, failure);
    }

    /// A step ended well.
    pub fn lap(&mut self, step: Step) {
        self.note(|_| step, || None);
    }

    /// A step ended in a refusal, or in an answer of our own.
    pub fn lap_refused(&mut self, step: Step, refusal: &Refusal) {
        self.note(|_| step, || (refusal.flag() != Flag::None).then(|| refusal.to_string()));
    }

    /// It was decided whether a request is let through: not, if there is a refusal.
    pub fn lap_admission(&mut self, live: &Live, refusal: Option<&Refusal>) {
        let step = match &live.listener.role {
            Role::Inbound(_) => Step::Authorize,
            Role::Ingress(_) if self.taken(live).is_some() => Step::Authorize,
            Role::Ingress(_) | Role::Upstream(_) | Role::Exposed(_) => Step::Route,
        };
        match refusal {
            None => self.lap(step),
            Some(refusal) => self.lap_refused(step, refusal),
        }
    }

    /// A try ended without an answer that is passed on.
    pub fn lap_failed_try(&mut self, why: &dyn std::fmt::Display) {
        self.note(Trace::of_try, || Some(why.to_string()));
    }

    /// Nothing but the record is left.
    pub fn close_trace(&mut self) {
        if let Self { trace: Some(trace), chosen, .. } = self {
            trace.close(|| chosen.as_ref().map(|chosen| chosen.endpoint.address.to_string()));
        }
    }

    /// Tells the endpoint of the trace.
    ///
    /// # Errors
    /// When a header cannot be written, which no input can cause.
    pub fn pass_trace_on(&self, request: &mut RequestHeader) -> Result<()> {
        let Some(trace) = &self.trace else { return Ok(()) };
        let mut outcome = Ok(());
        trace.pass_on(|name, value| match value {
            None => _ = request.remove_header(name),
            Some(value) => {
                if let Err(why) = request.insert_header(name, value) {
                    outcome = Err(why);
                }
            }
        });
        outcome
    }
}
