//! The last refusals: what was not served of late, and why, for whoever asks the admin API.
//!
//! A request that is served leaves nothing here and costs two comparisons.

use std::{collections::VecDeque, fmt::Write};

use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;

use super::record::{Flag, Record};

/// How many refusals are kept.
const KEPT: usize = 100;
/// The most characters that are kept of what a client chose: method, host, path, and why its handshake failed.
const LONGEST: usize = 200;
/// How a record says that the answer is an endpoint's own.
const SERVED: &str = "via_upstream";

/// One request, connection or handshake that was not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Counts the refusals of the process, from 1.
    pub number: u64,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The listener it came in on, as metrics name it.
    pub listener: String,
    /// The calling service, if it proved to be one.
    pub source: Option<String>,
    /// The client's address.
    pub client: Option<String>,
    /// The request's method, of HTTP.
    pub method: Option<String>,
    /// The host that was asked for, of HTTP.
    pub host: Option<String>,
    /// The path, never the query, of HTTP.
    pub path: Option<String>,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The access log's flag; `-` for none.
    pub flag: Flag,
    /// The access log's stable words, for example `intention_denied`.
    pub reason: String,
    /// The same in full, for example which intention decided.
    pub why: Option<String>,
}

/// The last refusals of a process, the newest last.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    total: u64,
    last: VecDeque<Refused>,
}

impl Refusals {
    /// Keeps a record of something that was refused; others leave nothing.
    pub fn note(&self, record: &Record<'_>) {
        if is_refusal(record) {
            self.keep(record);
        }
    }

    /// Keeps a record, whatever it says: of a handshake that failed.
    pub fn keep(&self, record: &Record<'_>) {
        let mut refused = Refused::of(record);
        let mut ring = self.0.lock();
        ring.total += 1;
        refused.number = ring.total;
        if ring.last.len() == KEPT {
            ring.last.pop_front();
        }
        ring.last.push_back(refused);
    }

    /// How many there were, and the last of them, the newest first.
    pub fn last(&self) -> (u64, Vec<Refused>) {
        let ring = self.0.lock();
        (ring.total, ring.last.iter().rev().cloned().collect())
    }
}

/// Whether a "no" of ours ended it: it has a flag, or an error's status that is no endpoint's own answer. That the client left is none.
fn is_refusal(record: &Record<'_>) -> bool {
    match record.flag {
        Flag::None => record.http.is_some_and(|http| http.status >= 400) && record.details != SERVED,
        Flag::DownstreamConnectionTermination => false,
        _ => true,
    }
}

impl Refused {
    fn of(record: &Record<'_>) -> Self {
        let http = record.http.as_ref();
        let said = |text: &str| Some(short(text)).filter(|text| !text.is_empty());
        Self {
            number: 0,
            at: record.start.into(),
            listener: record.listener.key.to_string(),
            source: record.source.map(|id| id.as_service().map_or_else(|| id.to_string(), ToString::to_string)),
            client: record.downstream_remote.map(|address| address.to_string()),
            method: http.and_then(|http| said(http.method)),
            host: http.and_then(|http| said(http.authority)),
            path: http.and_then(|http| said(http.path.split('?').next().unwrap_or_default())),
            status: http.map(|http| http.status).filter(|status| *status != 0),
            flag: record.flag,
            reason: record.details.to_owned(),
            why: record.why.map(|why| short(&why.to_string())).or_else(|| record.downstream_failure.map(short)),
        }
    }
}

/// The beginning of a text, without control characters.
fn short(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars().take(LONGEST) {
        // Writing into a String cannot fail.
        let _ = if character.is_control() { write!(kept, "{}", character.escape_default()) } else { write!(kept, "{character}") };
    }
    if text.chars().nth(LONGEST).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::access_log::AccessLog,
        telemetry::{
            record::HttpPart,
            testing::{http, id, inbound, record},
        },
    };

    #[test]
    fn only_our_own_refusals_are_kept_without_query_and_with_the_reason() {
        let (refusals, listener, caller) = (Refusals::default(), inbound(AccessLog::default(), 0), id("web"));
        let of = |status, flag, details| Record { http: Some(http(status)), flag, details, ..record(&listener) };
        for served in [
            of(200, Flag::None, SERVED),
            of(404, Flag::None, SERVED),
            of(307, Flag::None, "path_normalized"),
            of(0, Flag::DownstreamConnectionTermination, "downstream_remote_disconnect"),
            record(&listener),
        ] {
            refusals.note(&served);
        }
        assert_eq!(refusals.last(), (0, Vec::new()));
        let why = std::io::Error::other("intention web -> api (precedence 9) denies it");
        let part = HttpPart { path: "/pay\u{7}?card=4111", ..http(403) };
        let denied = Record { http: Some(part), source: Some(&caller), why: Some(&why), ..of(403, Flag::Unauthorized, "intention_denied") };
        refusals.note(&denied);
        refusals.note(&of(404, Flag::None, "file_not_found"));
        refusals.keep(&Record { details: "tls_handshake_failed", downstream_failure: Some("no certificate"), ..record(&listener) });
        let (total, last) = refusals.last();
        let [handshake, _, denied] = &last[..] else { panic!("{last:?}") };
        assert_eq!((total, denied.number, denied.status), (3, 1, Some(403)));
        assert_eq!(denied.path.as_deref(), Some("/pay\\u{7}"));
        assert_eq!((denied.source.as_deref(), denied.reason.as_str()), (Some("web"), "intention_denied"));
        assert_eq!(denied.why.as_deref(), Some("intention web -> api (precedence 9) denies it"));
        assert_eq!((handshake.why.as_deref(), handshake.status, &handshake.path), (Some("no certificate"), None, &None));
    }

    #[test]
    fn the_oldest_give_way_and_long_texts_are_cut() {
        let (refusals, listener) = (Refusals::default(), inbound(AccessLog::default(), 0));
        let long = "/é".repeat(LONGEST);
        for _ in 0..KEPT + 5 {
            let part = HttpPart { path: &long, ..http(404) };
            refusals.note(&Record { http: Some(part), flag: Flag::NoRoute, details: "route_not_found", ..record(&listener) });
        }
        let (total, last) = refusals.last();
        assert_eq!((total, last.len(), last[0].number), (KEPT as u64 + 5, KEPT, KEPT as u64 + 5));
        assert_eq!(last[0].path.as_ref().unwrap().chars().count(), LONGEST + 1);
    }
}
