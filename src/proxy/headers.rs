//! What a hop does to a request's headers.

use std::fmt::Write as _;

use http::{
    HeaderValue, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, TRANSFER_ENCODING},
};
use openssl::{hash::MessageDigest, ssl::SslRef, x509::X509Ref};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::model::{identity::SpiffeId, listener::Xfcc};

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields of one hop that need not be named in `Connection`.
const HOP: [HeaderName; 2] = [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];
/// By these a caller could steer Envoy's router, or what it tells others of the call. Envoy under Consul takes none of them from an app or a peer, and
/// removes them before its policies look.
const CONTROLS: [&str; 16] = [
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

/// Removes the fields by which a caller would steer Envoy.
pub fn drop_controls(request: &mut RequestHeader) {
    if request.headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
        for control in CONTROLS {
            request.remove_header(control);
        }
    }
}

/// The `x-forwarded-client-cert` element of a connection, in Envoy's form: By, Hash, Cert, Chain, Subject, URI.
///
/// Made once a connection: per request it is what makes Envoy slow under Consul.
pub fn xfcc_element(ssl: &SslRef, ours: &SpiffeId, peer: &SpiffeId) -> Option<String> {
    let certificate = ssl.peer_certificate()?;
    let digest = certificate.digest(MessageDigest::sha256()).ok()?;
    let mut element = format!("By={ours};Hash=");
    for byte in digest.iter() {
        let _ = write!(element, "{byte:02x}");
    }
    let _ = write!(element, ";Cert=\"{}\";Chain=\"", escaped_pem(&certificate)?);
    element += &escaped_pem(&certificate)?;
    // On the server's side OpenSSL lists what followed the leaf.
    for intermediate in ssl.peer_cert_chain().into_iter().flatten() {
        element += &escaped_pem(intermediate)?;
    }
    let _ = write!(element, "\";Subject=\"{}\";URI={peer}", subject(&certificate));
    Some(element)
}

/// The `x-forwarded-client-cert` element of a client that showed a certificate to an ingress listener: Hash, Subject, and each URI and DNS name.
///
/// Names that could end their part of the element are left out.
pub fn client_element(ssl: &SslRef) -> Option<String> {
    let certificate = ssl.peer_certificate()?;
    let digest = certificate.digest(MessageDigest::sha256()).ok()?;
    let mut element = String::from("Hash=");
    for byte in digest.iter() {
        let _ = write!(element, "{byte:02x}");
    }
    let _ = write!(element, ";Subject=\"{}\"", subject(&certificate));
    for name in certificate.subject_alt_names().iter().flatten() {
        let part = name.uri().map(|uri| ("URI", uri)).or_else(|| name.dnsname().map(|dns| ("DNS", dns)));
        if let Some((kind, name)) = part.filter(|(_, name)| name.bytes().all(|byte| byte.is_ascii_graphic() && !b",;=\"\\".contains(&byte)))
        {
            let _ = write!(element, ";{kind}={name}");
        }
    }
    Some(element)
}

fn escaped_pem(certificate: &X509Ref) -> Option<String> {
    let pem = String::from_utf8(certificate.to_pem().ok()?).ok()?;
    let mut escaped = String::with_capacity(pem.len() + pem.len() / 8);
    for c in pem.chars() {
        match c {
            '\n' => escaped += "%0A",
            ' ' => escaped += "%20",
            '+' => escaped += "%2B",
            '/' => escaped += "%2F",
            '=' => escaped += "%3D",
            c => escaped.push(c),
        }
    }
    Some(escaped)
}

/// The subject for XFCC; Consul's leaves have an empty one. Quotes and backslashes are escaped, since the value stands in quotes.
fn subject(certificate: &X509Ref) -> String {
    let mut text = String::new();
    for entry in certificate.subject_name().entries() {
        let value = entry.data().to_string().unwrap_or_default();
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{}={}", entry.object().nid().short_name().unwrap_or("?"), value.escape_default());
    }
    text
}

/// Prepares a request for the local app.
///
/// # Errors
/// When a header cannot be written, which no input can cause.
pub fn towards_app(request: &mut RequestHeader, xfcc: Xfcc, element: Option<&str>) -> Result<()> {
    match (xfcc, element) {
        (Xfcc::AppendForward, Some(element)) => {
            let before: Vec<&str> = request.headers.get_all(XFCC).iter().filter_map(|v| v.to_str().ok()).collect();
            let joined = if before.is_empty() { element.to_owned() } else { format!("{},{element}", before.join(",")) };
            request.insert_header(XFCC, joined)?;
        }
        _ => {
            request.remove_header(&XFCC);
        }
    }
    common(request, "https")
}

/// Prepares the local app's request for a mesh peer: what the app says of client certificates is dropped, it may not speak for others.
///
/// # Errors
/// When a header cannot be written, which no input can cause.
pub fn towards_peer(request: &mut RequestHeader) -> Result<()> {
    request.remove_header(&XFCC);
    common(request, "http")
}

/// Gives a request its id before anything is recorded of it: one that came is kept if its sender is `believed`.
///
/// # Errors
/// When a header cannot be written, which no input can cause.
pub fn name_request(request: &mut RequestHeader, believed: bool) -> Result<()> {
    if !believed || !request.headers.contains_key(REQUEST_ID) {
        request.insert_header(REQUEST_ID, request_id())?;
    }
    Ok(())
}

/// Prepares a client's request for a server behind an ingress listener: only the certificate that we verified ourselves is told of.
///
/// # Errors
/// When a header cannot be written, which no input can cause.
pub fn towards_server(request: &mut RequestHeader, certificate: Option<&str>) -> Result<()> {
    request.remove_header(&XFCC);
    if let Some(element) = certificate {
        request.insert_header(XFCC, element)?;
    }
    common(request, "http")
}

/// Prepares an answer for a client of this version: what concerns the last hop alone ends here (RFC 9110, section 7.6.1), and HTTP/1.0 knows no chunks
/// (RFC 9112, section 6.1). `true` when the body then ends with the connection.
#[must_use = "such a connection must be closed after the answer"]
pub fn towards_client(response: &mut ResponseHeader, version: Version) -> bool {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return false;
    }
    // The version is each hop's own (RFC 9112, section 2.3): a client would not keep a connection that an old server answers on.
    if response.version == Version::HTTP_10 {
        response.set_version(Version::HTTP_11);
    }
    let lists = response.headers.get_all(CONNECTION).iter().filter_map(|list| list.to_str().ok());
    let named = lists.flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    // What frames the message is no option of a connection, whoever says so.
    let named: Vec<HeaderName> =
        named.filter(|name| *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != CONNECTION).collect();
    for name in named.iter().chain(&HOP) {
        response.remove_header(name);
    }
    version == Version::HTTP_10 && response.remove_header(&TRANSFER_ENCODING).is_some()
}

/// HTTP/1.0 needs no `Host`, the HTTP/1.1 that we speak does (RFC 9112, section 3.2): the name of what is called takes its place.
///
/// # Errors
/// When a header cannot be written, which only a name that is no header value can cause.
pub fn ensure_host(request: &mut RequestHeader, name: &str) -> Result<()> {
    if request.headers.contains_key(HOST) || request.uri.authority().is_some() {
        return Ok(());
    }
    request.insert_header(HOST, name)
}

fn common(request: &mut RequestHeader, scheme: &'static str) -> Result<()> {
    if !request.headers.contains_key(FORWARDED_PROTO) {
        request.insert_header(FORWARDED_PROTO, scheme)?;
    }
    if !request.headers.contains_key(REQUEST_ID) {
        request.insert_header(REQUEST_ID, request_id())?;
    }
    join_cookies(request)
}

/// HTTP/2 clients may split cookies into several fields; HTTP/1 servers expect one (RFC 9113, section 8.2.3). Pingora leaves them split.
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    if request.headers.get_all(COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let all: Vec<&[u8]> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = all.join(&b"; "[..]);
    request.insert_header(COOKIE, joined)
}

/// A random UUID, version 4. It names a request in logs; nothing trusts it.
fn request_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bits = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let mut text = *b"00000000-0000-0000-0000-000000000000";
    for digit in text.iter_mut().rev().filter(|digit| **digit != b'-') {
        *digit = HEX.get((bits & 0xf) as usize).copied().unwrap_or(b'0');
        bits >>= 4;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn values(request: &RequestHeader, name: &str) -> Vec<String> {
        request.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_app_sees_every_hop_and_a_sanitised_listener_shows_none() {
        let mut seen = request(&[("x-forwarded-client-cert", "URI=a"), ("x-forwarded-client-cert", "URI=b")]);
        towards_app(&mut seen, Xfcc::AppendForward, Some("URI=c")).unwrap();
        assert_eq!(values(&seen, "x-forwarded-client-cert"), ["URI=a,URI=b,URI=c"]);
        let mut seen = request(&[("x-forwarded-client-cert", "URI=a")]);
        towards_app(&mut seen, Xfcc::Sanitize, Some("URI=c")).unwrap();
        assert!(values(&seen, "x-forwarded-client-cert").is_empty());
    }

    #[test]
    fn an_app_cannot_speak_for_others() {
        let mut sent = request(&[("x-forwarded-client-cert", "URI=forged")]);
        towards_peer(&mut sent).unwrap();
        assert!(values(&sent, "x-forwarded-client-cert").is_empty());
    }

    #[test]
    fn what_would_steer_envoy_is_dropped_and_what_only_tells_is_kept() {
        let mut seen =
            request(&[("x-envoy-retry-on", "5xx"), ("X-Envoy-Max-Retries", "9"), ("x-envoy-original-path", "/a"), ("x-other", "1")]);
        drop_controls(&mut seen);
        let left: Vec<&str> = seen.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["x-envoy-original-path", "x-other"]);
    }

    #[test]
    fn only_a_request_without_host_gets_one() {
        let mut sent = request(&[]);
        ensure_host(&mut sent, "api").unwrap();
        ensure_host(&mut sent, "other").unwrap();
        assert_eq!(values(&sent, "host"), ["api"]);
    }

    #[test]
    fn an_answer_leaves_its_last_hop_behind() {
        let answer = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in fields {
                head.append_header(*name, *value).unwrap();
            }
            head
        };
        let hop = [("connection", "X-Mine, content-length"), ("x-mine", "1"), ("keep-alive", "timeout=1"), ("content-length", "0")];
        let mut seen = answer(200, &hop);
        assert!(!towards_client(&mut seen, Version::HTTP_11));
        assert_eq!(seen.headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["connection", "content-length"]);
        let mut old = answer(200, &[("content-length", "0")]);
        old.set_version(Version::HTTP_10);
        assert!(!towards_client(&mut old, Version::HTTP_11));
        assert_eq!(old.version, Version::HTTP_11);
        let chunked = [("transfer-encoding", "chunked")];
        for (version, status, removed) in [(Version::HTTP_10, 200, true), (Version::HTTP_11, 200, false)] {
            let mut seen = answer(status, &chunked);
            assert_eq!((towards_client(&mut seen, version), seen.headers.is_empty()), (removed, removed));
        }
        let mut switched = answer(101, &[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert!(!towards_client(&mut switched, Version::HTTP_11));
        assert_eq!(switched.headers.len(), 2);
    }

    #[test]
    fn split_cookies_become_one_field() {
        let mut sent = request(&[("cookie", "a=1"), ("cookie", "b=2")]);
        towards_peer(&mut sent).unwrap();
        assert_eq!(values(&sent, "cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn a_request_id_is_made_once_and_then_kept() {
        let mut sent = request(&[]);
        towards_peer(&mut sent).unwrap();
        let id = values(&sent, "x-request-id").remove(0);
        assert_eq!((id.len(), id.as_bytes()[14], b"89ab".contains(&id.as_bytes()[19])), (36, b'4', true), "{id}");
        towards_app(&mut sent, Xfcc::Sanitize, None).unwrap();
        assert_eq!(values(&sent, "x-request-id"), [id]);
    }
}
