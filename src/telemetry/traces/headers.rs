//! The headers that a trace travels in: W3C Trace Context (`traceparent`), and Zipkin's B3 in its single and its several form (openzipkin/b3-propagation).

use http::HeaderMap;
use opentelemetry::trace::TraceId;

use crate::model::tracing::Forms;

const TRACEPARENT: &str = "traceparent";
const B3: &str = "b3";
const B3_TRACE: &str = "x-b3-traceid";
const B3_SPAN: &str = "x-b3-spanid";
const B3_PARENT: &str = "x-b3-parentspanid";
const B3_SAMPLED: &str = "x-b3-sampled";
const B3_FLAGS: &str = "x-b3-flags";

/// Travels with `traceparent` and means nothing without it (W3C Trace Context, section 3.3).
pub(super) const TRACESTATE: &str = "tracestate";
/// By this a client of Envoy asks for a trace; Consul's Envoy grants it.
const CLIENT_TRACE: &str = "x-client-trace-id";

/// The bits of `trace-flags`: sampled, and that the id is random (level 2).
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// What a caller says of the trace that its request belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// The trace, and the caller's span in it; neither is ever zero.
    pub(super) ids: Option<(u128, u64)>,
    /// Whether the trace is recorded; `None` leaves it to us.
    pub(super) sampled: Option<bool>,
    /// B3's debug: recorded, whatever samplers say.
    pub(super) debug: bool,
    /// The trace's id is known to be random.
    random: bool,
    /// It was said in W3C's form, so that its `tracestate` holds.
    pub(super) is_w3c: bool,
}

impl Caller {
    /// The first of W3C, B3 in one header, B3 in several that can be understood; what cannot be is as if it were not there.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let found = w3c(headers).or_else(|| single(one(headers, B3)?)).or_else(|| several(headers));
        let mut caller = found.unwrap_or_default();
        if caller.sampled.is_none() && headers.contains_key(CLIENT_TRACE) {
            caller.sampled = Some(true);
        }
        caller
    }
}

/// The trace's id in a `traceparent` header.
pub fn trace_id(headers: &HeaderMap) -> Option<TraceId> {
    w3c(headers)?.ids.map(|(trace, _)| trace.into())
}

/// The forms in which something stands in the headers, be it understood or not.
pub(super) fn forms(headers: &HeaderMap) -> Forms {
    Forms {
        w3c: headers.contains_key(TRACEPARENT),
        b3: headers.contains_key(B3),
        b3_multi: [B3_TRACE, B3_SAMPLED, B3_FLAGS].into_iter().any(|name| headers.contains_key(name)),
    }
}

/// The value of a header that stands there once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let value = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(value)
}

/// A number of so many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// The id of a span, which is not zero.
fn span(text: &str) -> Option<u64> {
    u64::try_from(hex(text, 16)?).ok().filter(|id| *id != 0)
}

/// W3C Trace Context, section 3.2: version 00 exactly, later ones as far as 00 goes; ff is none.
fn w3c(headers: &HeaderMap) -> Option<Caller> {
    let mut fields = one(headers, TRACEPARENT)?.split('-');
    let version = hex(fields.next()?, 2)?;
    let trace = hex(fields.next()?, 32).filter(|id| *id != 0)?;
    let span = span(fields.next()?)?;
    let flags = u8::try_from(hex(fields.next()?, 2)?).ok()?;
    let fine = version != 0xff && (version != 0 || fields.next().is_none());
    let (sampled, random) = (Some(flags & SAMPLED != 0), flags & RANDOM != 0);
    fine.then_some(Caller { ids: Some((trace, span)), sampled, debug: false, random, is_w3c: true })
}

/// B3 writes a trace's id with 16 digits or with 32.
fn b3_trace(text: &str) -> Option<u128> {
    hex(text, 32).or_else(|| hex(text, 16)).filter(|id| *id != 0)
}

/// A state of sampling in B3's single header: recorded or not, and whether that is debug.
fn b3_state(text: &str) -> Option<(bool, bool)> {
    match text {
        "0" => Some((false, false)),
        "1" => Some((true, false)),
        "d" => Some((true, true)),
        _ => None,
    }
}

/// `b3: TRACE-SPAN[-STATE[-PARENT]]`, or the state alone.
fn single(text: &str) -> Option<Caller> {
    if let Some((sampled, debug)) = b3_state(text) {
        return Some(Caller { sampled: Some(sampled), debug, ..Caller::default() });
    }
    let mut fields = text.split('-');
    let ids = (b3_trace(fields.next()?)?, span(fields.next()?)?);
    let state = fields.next().map(|state| b3_state(state).ok_or(())).transpose().ok()?;
    let parent = fields.next().is_none_or(|parent| hex(parent, 16).is_some());
    let (sampled, debug) = state.unzip();
    (parent && fields.next().is_none()).then_some(Caller { ids: Some(ids), sampled, debug: debug.unwrap_or_default(), ..Caller::default() })
}

/// `X-B3-TraceId` and `X-B3-SpanId`, with `X-B3-Sampled` or `X-B3-Flags`; or one of the latter alone.
fn several(headers: &HeaderMap) -> Option<Caller> {
    let debug = one(headers, B3_FLAGS) == Some("1");
    let sampled = match one(headers, B3_SAMPLED) {
        _ if debug => Some(true),
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        _ => None,
    };
    let ids = one(headers, B3_TRACE).and_then(b3_trace).zip(one(headers, B3_SPAN).and_then(span));
    (ids.is_some() || sampled.is_some()).then_some(Caller { ids, sampled, debug, ..Caller::default() })
}

/// What is told to whoever is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) trace: u128,
    pub(super) span: u64,
    /// The span above that.
    pub(super) parent: Option<u64>,
    pub(super) sampled: bool,
}

impl Told {
    /// The headers, in these forms; `caller` is what was said to us.
    pub(super) fn write(&self, forms: Forms, caller: &Caller, mut set: impl FnMut(&'static str, String)) {
        let Self { trace, span, parent, sampled } = *self;
        let state = u8::from(sampled);
        // B3's short form of an id means the same as the long one with zeros.
        let b3_trace = if trace >> 64 == 0 { format!("{trace:016x}") } else { format!("{trace:032x}") };
        if forms.w3c {
            // An id that we made is random.
            let random = if caller.random || caller.ids.is_none() { RANDOM } else { 0 };
            set(TRACEPARENT, format!("00-{trace:032x}-{span:016x}-{:02x}", state | random));
        }
        if forms.b3 {
            let state = if caller.debug { "d".to_owned() } else { state.to_string() };
            let parent = parent.map(|parent| format!("-{parent:016x}")).unwrap_or_default();
            set(B3, format!("{b3_trace}-{span:016x}-{state}{parent}"));
        }
        if forms.b3_multi {
            set(B3_TRACE, b3_trace);
            set(B3_SPAN, format!("{span:016x}"));
            if let Some(parent) = parent {
                set(B3_PARENT, format!("{parent:016x}"));
            }
            // Debug says that it is sampled.
            if caller.debug { set(B3_FLAGS, "1".to_owned()) } else { set(B3_SAMPLED, state.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests;
