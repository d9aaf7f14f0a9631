//! The part that a request takes in a trace.

use std::time::Instant;

use http::HeaderMap;
use opentelemetry::trace::TraceId;

use super::{
    Settings,
    headers::{self, Caller, TRACESTATE, Told},
};
use crate::model::tracing::Forms;

/// The nine steps of a request; their words are the names of the spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the steps; `crate` says what each does")]
pub enum Step {
    Accept,
    Tls,
    Identify,
    Authorize,
    Route,
    Balance,
    Connect,
    Forward,
    Record,
}

impl Step {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Tls => "tls",
            Self::Identify => "identify",
            Self::Authorize => "authorize",
            Self::Route => "route",
            Self::Balance => "balance",
            Self::Connect => "connect",
            Self::Forward => "forward",
            Self::Record => "record",
        }
    }
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) step: Step,
    /// The id of its span.
    pub(super) span: u64,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// The endpoint that it was about.
    pub(super) endpoint: Option<String>,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

/// The part that a request takes in a trace: it has spans if it is sampled, and says to whoever is called that it is not otherwise.
///
/// The steps of a request follow each other: where one ends the next begins.
#[derive(Clone, Debug)]
pub struct Trace {
    settings: Settings,
    caller: Caller,
    forms: Forms,
    id: u128,
    sampled: bool,
    /// The id of the request's own span.
    pub(super) root: u64,
    pub(super) begun: Instant,
    /// The id of the span of the step that is under way.
    underway: u64,
    since: Instant,
    /// A connection to an endpoint is there, so that the step under way is forward.
    forwards: bool,
    pub(super) taken: Vec<Taken>,
}

impl Trace {
    /// The part that a request with these headers takes, which began at `begun`: a trace that the caller began is gone on with as the caller decided.
    /// `None` where nothing is recorded and nothing is to be said, so that all headers pass as they are.
    pub fn begin(settings: &Settings, headers: &HeaderMap, begun: Instant) -> Option<Self> {
        let caller = Caller::read(headers);
        if caller.sampled == Some(false) || (caller.sampled.is_none() && settings.sampling.is_none()) {
            return None;
        }
        let id = caller.ids.map_or_else(|| fastrand::u128(1..), |(trace, _)| trace);
        let came = headers::forms(headers);
        let forms = if came.and(settings.propagate).is_empty() { Forms { w3c: true, ..came } } else { came.and(settings.propagate) };
        Some(Self {
            settings: settings.clone(),
            forms,
            id,
            sampled: caller.sampled.unwrap_or_else(|| settings.sampling.takes(id)),
            caller,
            root: new_span(),
            begun,
            underway: new_span(),
            since: begun,
            forwards: false,
            taken: Vec::new(),
        })
    }

    /// Whether it has spans.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The trace's id.
    pub fn id(&self) -> TraceId {
        self.id.into()
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The caller's span, if the caller named one.
    pub(super) fn parent(&self) -> Option<u64> {
        self.caller.ids.map(|(_, span)| span)
    }

    /// When what is not noted as a step yet began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// The id of the span of what is not noted yet.
    pub(super) fn underway(&self) -> u64 {
        self.underway
    }

    /// Adds a step of the connection, which was taken before the request began.
    pub fn preceded(&mut self, step: Step, began: Instant, ended: Instant) {
        if self.sampled {
            self.taken.push(Taken { step, span: new_span(), began, ended, endpoint: None, failure: None });
        }
    }

    /// A step ended just now. What it was about, and why it failed, is only asked where it is recorded.
    pub fn lap(&mut self, step: Step, endpoint: impl FnOnce() -> Option<String>, failure: impl FnOnce() -> Option<String>) {
        if !self.sampled {
            return;
        }
        let (now, failure) = (Instant::now(), failure());
        self.forwards = step == Step::Connect && failure.is_none();
        let span = std::mem::replace(&mut self.underway, new_span());
        let began = std::mem::replace(&mut self.since, now);
        self.taken.push(Taken { step, span, began, ended: now, endpoint: endpoint(), failure });
    }

    /// Which step of a try is under way.
    pub fn of_try(&self) -> Step {
        if self.forwards { Step::Forward } else { Step::Connect }
    }

    /// Ends what is under way before the request is recorded.
    pub fn close(&mut self, endpoint: impl FnOnce() -> Option<String>) {
        if self.forwards {
            self.lap(Step::Forward, endpoint, || None);
        } else {
            self.since = Instant::now();
        }
    }

    /// Tells whoever is called of the step that is under way: sets headers, and with `None` removes one.
    pub fn pass_on(&self, mut set: impl FnMut(&'static str, Option<String>)) {
        let (span, parent) = match self.caller.ids {
            _ if self.sampled => (self.underway, Some(self.root)),
            // Where there is no span of ours, the caller's stands.
            Some((_, span)) => (span, None),
            None => (self.root, None),
        };
        if self.forms.w3c && !self.caller.is_w3c {
            set(TRACESTATE, None);
        }
        let told = Told { trace: self.id, span, parent, sampled: self.sampled };
        told.write(self.forms, &self.caller, |name, value| set(name, Some(value)));
    }
}

/// An id of a span, which is never zero.
fn new_span() -> u64 {
    fastrand::u64(1..)
}
