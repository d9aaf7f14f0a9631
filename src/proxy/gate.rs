//! The strict gate: what Pingora's parser lets through and a trusted proxy must not.
//!
//! It runs before authorization and routing, on every HTTP listener. Pingora 0.9.1 accepts HTTP/1.1 without `Host`, a
//! `Content-Length` with a sign, and lists of transfer codings; each of them means different things to different servers.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use pingora_http::RequestHeader;

use super::{edits, refusal::Refusal};
use crate::model::{
    matching::RequestView,
    path::{self, Normalization},
};

/// A request's head as routes and permissions see it.
pub fn view(head: &RequestHeader) -> RequestView<'_> {
    let authority = head.uri.authority().map(|a| a.as_str());
    RequestView {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query(),
        authority: authority.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default(),
        headers: &head.headers,
    }
}

/// Checks a request's head. `raw` gives an HTTP/1 head's bytes as received: Pingora's parsed form has lost some of them.
///
/// # Errors
/// [`Refusal::BadRequest`], with what is wrong.
pub fn check(head: &RequestHeader, raw: impl FnOnce() -> Bytes) -> Result<(), Refusal> {
    let refuse = |why| Err(Refusal::BadRequest(why));
    let one = |name: &http::HeaderName| head.headers.get_all(name).iter().count();
    let raw = if head.version == Version::HTTP_2 { Bytes::new() } else { raw() };
    if head.version == Version::HTTP_2 {
        if one(&TRANSFER_ENCODING) > 0 {
            return refuse("HTTP/2 with Transfer-Encoding (RFC 9113, section 8.2.2)");
        }
        if head.uri.authority().is_none() && one(&HOST) == 0 {
            return refuse("neither :authority nor Host");
        }
    } else {
        match one(&HOST) {
            _ if raw.split(|b| *b == b'\r').next().is_some_and(|line| line.contains(&b'#')) => {
                return refuse("a fragment in the request target (RFC 9112, section 3.2)");
            }
            0 if head.version == Version::HTTP_11 => return refuse("HTTP/1.1 without Host (RFC 9112, section 3.2)"),
            0 | 1 => {}
            _ => return refuse("more than one Host (RFC 9112, section 3.2)"),
        }
    }
    if let Some(host) = head.headers.get(HOST)
        && !is_authority(host.as_bytes())
    {
        return refuse("Host is not a host with an optional port");
    }
    match one(&TRANSFER_ENCODING) {
        0 => {}
        1 => {
            let chunked = head.headers.get(TRANSFER_ENCODING).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
            if !chunked {
                return refuse("a Transfer-Encoding other than chunked");
            }
            // Pingora drops the Content-Length of such a request before anybody can see it.
            if one(&CONTENT_LENGTH) > 0 || names_length(&raw) {
                return refuse("both Content-Length and Transfer-Encoding (RFC 9112, section 6.3)");
            }
            if head.version == Version::HTTP_10 {
                return refuse("HTTP/1.0 with Transfer-Encoding (RFC 9112, section 6.1)");
            }
        }
        _ => return refuse("more than one Transfer-Encoding"),
    }
    match one(&CONTENT_LENGTH) {
        0 => {}
        1 => {
            let digits = head.headers.get(CONTENT_LENGTH).map(|v| v.as_bytes()).unwrap_or_default();
            if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
                return refuse("a Content-Length that is not a plain number");
            }
        }
        _ => return refuse("more than one Content-Length"),
    }
    Ok(())
}

/// Makes the target that is forwarded the one that policy and routes see, a path. Pingora keeps any target for the wire, and shows `/` or a
/// part of it where it is no path: a request for `admin` would be judged as one for `/`. A whole URI becomes its path (RFC 9112, section
/// 3.2.2; Pingora has compared its host with `Host`).
///
/// # Errors
/// [`Refusal::BadRequest`] for a target that is neither.
pub fn origin_form(head: &mut RequestHeader) -> Result<(), Refusal> {
    let target = head.raw_path();
    if target.first() == Some(&b'/') {
        return Ok(());
    }
    let is_uri = ["http://", "https://"]
        .iter()
        .any(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes())));
    if !is_uri {
        return Err(Refusal::BadRequest("its target is no path (RFC 9112, section 3.2)"));
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    set_target(head, path).map_err(|_| Refusal::BadRequest("its target has no path"))
}

/// Brings the request's target and its header names into the one form that policy compares, routes match and the app receives.
///
/// # Errors
/// [`Refusal::NoForm`] for a target without such a form, [`Refusal::Redirect`] when the client is to ask for the new form itself.
pub fn normalize(head: &mut RequestHeader, rules: &Normalization) -> Result<(), Refusal> {
    edits::underscores(head, rules.underscores).map_err(Refusal::NoForm)?;
    let new = {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let normalized = path::normalize(target, rules).map_err(Refusal::NoForm)?;
        if normalized.redirect {
            return Err(Refusal::Redirect(normalized.path_and_query.into_owned()));
        }
        match normalized.path_and_query {
            Cow::Borrowed(_) => return Ok(()),
            Cow::Owned(new) => new,
        }
    };
    set_target(head, new).map_err(|_| Refusal::BadRequest("its target has no normalised form"))
}

/// Gives a request another path and query; scheme and authority stay.
///
/// # Errors
/// When the text is no path and query.
pub fn set_target(head: &mut RequestHeader, target: String) -> Result<(), http::Error> {
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target)?);
    head.set_uri(Uri::from_parts(parts)?);
    Ok(())
}

/// Whether a raw HTTP/1 head has a Content-Length field.
fn names_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    raw.split(|b| *b == b'\n').any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

/// `host[:port]`: no user, path, blank or control character (RFC 3986, section 3.2).
fn is_authority(host: &[u8]) -> bool {
    let text = host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b));
    let after_name = match host.iter().rposition(|b| *b == b']') {
        Some(end) => host.get(end + 1..).unwrap_or_default(),
        None => match host.iter().position(|b| *b == b':') {
            Some(colon) => host.get(colon..).unwrap_or_default(),
            None => &[],
        },
    };
    let port = match after_name {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    text && port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.set_version(version);
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn ordinary_requests_pass() {
        for fields in [
            vec![("host", "web")],
            vec![("host", "web:80"), ("content-length", "5")],
            vec![("host", "[::1]:80"), ("transfer-encoding", "Chunked")],
        ] {
            assert_eq!(check(&head(Version::HTTP_11, &fields), Bytes::new), Ok(()), "{fields:?}");
        }
        assert_eq!(check(&head(Version::HTTP_10, &[]), Bytes::new), Ok(()));
    }

    #[test]
    fn only_paths_are_forwarded() {
        let forwarded = |target: &str| {
            let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            origin_form(&mut head).map(|()| (head.uri.path().to_owned(), String::from_utf8(head.raw_path().to_vec()).unwrap()))
        };
        assert_eq!(forwarded("/a/../b?x"), Ok(("/a/../b".into(), "/a/../b?x".into())));
        assert_eq!(forwarded("http://a/b?x"), Ok(("/b".into(), "/b?x".into())));
        assert_eq!(forwarded("HTTPS://a"), Ok(("/".into(), "/".into())));
        for target in [
            "admin",
            "admin/x",
            "a/../admin",
            r"\admin",
            "./admin",
            "%2fadmin",
            "%20/admin",
            "a:80/admin",
            "a:80",
            "@/admin",
            ":80/admin",
            "?x",
            "ftp://a/b",
        ] {
            assert!(forwarded(target).is_err(), "{target}");
        }
    }

    #[test]
    fn what_servers_read_in_two_ways_is_refused() {
        for fields in [
            vec![],
            vec![("host", "a"), ("host", "b")],
            vec![("host", "a"), ("host", "a")],
            vec![("host", "user@a")],
            vec![("host", "a/b")],
            vec![("host", "a:1:2")],
            vec![("host", "a:x")],
            vec![("host", "a"), ("content-length", "+5")],
            vec![("host", "a"), ("content-length", "-1")],
            vec![("host", "a"), ("content-length", "5,5")],
            vec![("host", "a"), ("content-length", "")],
            vec![("host", "a"), ("content-length", "5"), ("content-length", "5")],
            vec![("host", "a"), ("content-length", "99999999999999999999")],
            vec![("host", "a"), ("transfer-encoding", "identity, chunked")],
            vec![("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            vec![("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "5")],
        ] {
            assert!(check(&head(Version::HTTP_11, &fields), Bytes::new).is_err(), "{fields:?} passed");
        }
        assert!(check(&head(Version::HTTP_10, &[("transfer-encoding", "chunked")]), Bytes::new).is_err());
        assert!(check(&head(Version::HTTP_2, &[("host", "a"), ("transfer-encoding", "chunked")]), Bytes::new).is_err());
        let chunked = head(Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "chunked")]);
        let raw = || Bytes::from_static(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-Length: 5\r\n\r\n");
        assert!(check(&chunked, raw).is_err(), "a length that only the raw head shows");
        let raw = || Bytes::from_static(b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(check(&head(Version::HTTP_11, &[("host", "a")]), raw).is_err(), "a fragment that the parsed target has lost");
    }
}
