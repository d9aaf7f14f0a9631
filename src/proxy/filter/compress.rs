//! Compression of answers, by what the client takes.
//!
//! Pingora (0.9.1) compresses, and every session has the place for it; which answers it may have and which coding they get is decided here: its own
//! look at `Accept-Encoding` knows no weights, and it would take everything of 20 bytes and more.

use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, TRAILER},
};
use pingora_core::{
    Result,
    protocols::http::compression::{Algorithm, ResponseCompressionCtx},
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::cors::vary;
use crate::model::ingress::filters::Compression;

/// The shortest answer that is compressed, bytes: below it fits in one packet anyway.
const SHORTEST: u64 = 1024;
/// Codings, the one that we would rather use first.
const CODINGS: [Algorithm; 3] = [Algorithm::Zstd, Algorithm::Brotli, Algorithm::Gzip];
/// Types beside `text/*` that are text, or as good as.
const TEXT: [&str; 12] = [
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/rss+xml",
    "application/atom+xml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/xhtml+xml",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/svg+xml",
];
/// A server's word that an answer is a stream, which must not wait for more (nginx).
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Has an answer compressed by `context`, if it may be and the client takes it.
///
/// # Errors
/// When a header cannot be written, which no input can cause.
pub fn prepare(
    rules: &Compression,
    request: &RequestHeader,
    answer: &mut ResponseHeader,
    context: &mut ResponseCompressionCtx,
) -> Result<()> {
    if request.method == Method::HEAD || !context.is_header_phase() || !may_be_compressed(answer) {
        return Ok(());
    }
    vary(answer, &ACCEPT_ENCODING)?;
    if let Some(coding) = coding(&request.headers) {
        // What Pingora reads from the request is put into its mouth.
        let mut asked = RequestHeader::build("GET", b"/", Some(1))?;
        asked.insert_header(ACCEPT_ENCODING, coding.as_str())?;
        context.adjust_algorithm_level(coding, rules.level);
        context.request_filter(&asked);
        context.response_header_filter(answer, false);
    }
    Ok(())
}

/// Whether an answer is a text of some length that nobody has coded yet, and no stream.
fn may_be_compressed(answer: &ResponseHeader) -> bool {
    let field = |name: &HeaderName| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let status = answer.status;
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) {
        return false;
    }
    if answer.headers.contains_key(CONTENT_ENCODING)
        || answer.headers.contains_key(CONTENT_RANGE)
        || answer.headers.contains_key(TRAILER)
        || field(&BUFFERING) == "no"
    {
        return false;
    }
    let mut directives =
        answer.headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    if directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-transform")) {
        return false;
    }
    let kind = field(&CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_text = kind.starts_with("text/") && kind != "text/event-stream" || kind.ends_with("+json") || TEXT.contains(&&*kind);
    let length = field(&CONTENT_LENGTH);
    is_text && (length.is_empty() || length.parse().is_ok_and(|length: u64| length >= SHORTEST))
}

/// The coding that the client likes best (RFC 9110, section 12.5.3), if it likes one no less than none; of equals the first of ours.
fn coding(request: &HeaderMap) -> Option<Algorithm> {
    let lists = request.get_all(ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    let asked: Vec<(&str, f32)> = lists.flat_map(|list| list.split(',')).filter_map(weighted).collect();
    let weight = |name: &str| {
        let of = |name: &str| asked.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight);
        of(name).or_else(|| of("*"))
    };
    let plain = asked.iter().find(|(known, _)| known.eq_ignore_ascii_case("identity")).map_or(0.0, |(_, weight)| *weight);
    let weights = CODINGS.map(|coding| weight(coding.as_str()).filter(|weight| *weight > 0.0 && *weight >= plain));
    let best =
        weights.iter().flatten().copied().fold(None, |best: Option<f32>, weight| Some(best.map_or(weight, |best| best.max(weight))))?;
    CODINGS.into_iter().zip(weights).find(|(_, weight)| *weight == Some(best)).map(|(coding, _)| coding)
}

/// An element of `Accept-Encoding` with its weight; one whose weight is no weight is passed over.
fn weighted(element: &str) -> Option<(&str, f32)> {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = match parts.next() {
        None => 1.0,
        Some(parameter) => parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="))?.parse().ok()?,
    };
    (0.0..=1.0).contains(&weight).then_some((name, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses_by_weight() {
        for (accepted, expected) in [
            ("gzip", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, deflate, br", Some("br")),
            ("GZIP", Some("gzip")),
            ("gzip;q=1.0, br;q=0.5", Some("gzip")),
            ("gzip; q=0.2, br; q=0.3, zstd;q=0", Some("br")),
            ("gzip;q=0", None),
            ("gzip;q=0.000, *;q=0", None),
            ("*", Some("zstd")),
            ("*;q=0.5, zstd;q=0", Some("br")),
            ("identity", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some("gzip")),
            ("gzip;q=2", None),
            ("gzip;q=x", None),
            ("gzip;level=1", None),
            ("deflate", None),
            (", ,", None),
            ("", None),
        ] {
            let mut request = HeaderMap::new();
            request.insert(ACCEPT_ENCODING, accepted.parse().unwrap());
            assert_eq!(coding(&request).map(|coding| coding.as_str()), expected, "{accepted}");
        }
        assert_eq!(coding(&HeaderMap::new()), None);
    }

    #[test]
    fn only_long_plain_texts_are_compressed() {
        let html = ("content-type", "text/html; charset=utf-8");
        for (status, fields, expected) in [
            (200, vec![html], true),
            (200, vec![html, ("content-length", "1024")], true),
            (404, vec![html], true),
            (200, vec![html, ("content-length", "1023")], false),
            (200, vec![html, ("content-length", "x")], false),
            (200, vec![("content-type", "Application/JSON")], true),
            (200, vec![("content-type", "application/problem+json")], true),
            (200, vec![("content-type", "image/svg+xml")], true),
            (200, vec![("content-type", "image/png")], false),
            (200, vec![("content-type", "application/octet-stream")], false),
            (200, vec![("content-type", "text/event-stream")], false),
            (200, vec![("content-type", "application/grpc")], false),
            (200, vec![("content-type", "application/x-ndjson")], false),
            (200, vec![], false),
            (200, vec![html, ("content-encoding", "gzip")], false),
            (200, vec![html, ("content-range", "bytes 0-1/2")], false),
            (200, vec![html, ("cache-control", "public, No-Transform")], false),
            (200, vec![html, ("x-accel-buffering", "no")], false),
            (200, vec![html, ("trailer", "x")], false),
            (204, vec![html], false),
            (206, vec![html], false),
            (304, vec![html], false),
            (101, vec![html], false),
        ] {
            let mut answer = ResponseHeader::build(status, None).unwrap();
            for (name, value) in &fields {
                answer.append_header(*name, *value).unwrap();
            }
            assert_eq!(may_be_compressed(&answer), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_compressed_answer_says_so() {
        let compressed = |method: &str, accepted: &str| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            request.insert_header(ACCEPT_ENCODING, accepted).unwrap();
            let mut answer = ResponseHeader::build(200, None).unwrap();
            for (name, value) in [("content-type", "text/html"), ("content-length", "2000"), ("etag", "\"1\""), ("accept-ranges", "bytes")]
            {
                answer.insert_header(name, value).unwrap();
            }
            let mut context = ResponseCompressionCtx::new(0, false, false);
            prepare(&Compression { level: 5 }, &request, &mut answer, &mut context).unwrap();
            let body = context.is_enabled().then(|| context.response_body_filter(Some(&"a".repeat(2000).into()), true));
            let field = |name: &str| answer.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            (["content-encoding", "vary", "etag", "content-length"].map(field), body.flatten().map(|body| body.len() < 100))
        };
        let expected = |coding: &str| (["", "accept-encoding", "W/\"1\"", ""].map(str::to_owned), coding.to_owned());
        for coding in ["gzip", "br", "zstd"] {
            let (mut fields, body) = compressed("GET", &format!("deflate, {coding}"));
            let said = std::mem::take(&mut fields[0]);
            assert_eq!(((fields, said), body), (expected(coding), Some(true)));
        }
        let plain = |vary: &str| ["", vary, "\"1\"", "2000"].map(str::to_owned);
        assert_eq!(compressed("GET", "deflate"), (plain("accept-encoding"), None));
        assert_eq!(compressed("HEAD", "gzip"), (plain(""), None));
    }
}
