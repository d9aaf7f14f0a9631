//! The strict gate: what Pingora's parser lets through and a trusted proxy must not.
//!
//! It stands before authorization and routing, on every HTTP listener. [`head`] and [`chunks`] read HTTP/1 requests before Pingora does; HTTP/2 has a
//! strict parser of its own (the h2 crate), and [`check`] asks for what is left; [`hop`] ends what concerns the last hop alone, and [`response`] judges what
//! endpoints answer.

pub mod chunks;
pub mod head;
pub mod hop;
pub mod response;

use std::borrow::Cow;

use http::{
    HeaderValue, Uri, Version,
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

/// Checks the head of an HTTP/2 request. That of an HTTP/1 request has passed [`head::check`] before Pingora saw it.
///
/// # Errors
/// [`Refusal::BadRequest`], with what is wrong.
pub fn check(head: &RequestHeader) -> Result<(), Refusal> {
    let refuse = |why| Err(Refusal::BadRequest(why));
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next().map(HeaderValue::as_bytes), hosts.next());
    if another.is_some() {
        return refuse("more than one Host (RFC 9112, section 3.2)");
    }
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (authority, host) {
        (None, None) => return refuse("neither :authority nor Host"),
        (Some(asked), Some(host)) if asked != host => return refuse(":authority and Host name two hosts"),
        _ => {}
    }
    if !authority.into_iter().chain(host).all(is_authority) {
        return refuse("Host is not a host with an optional port");
    }
    if !matches!(head.uri.scheme_str(), None | Some("http" | "https")) {
        return refuse("a scheme that is not served");
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return refuse("HTTP/2 with Transfer-Encoding (RFC 9113, section 8.2.2)");
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    if !lengths.next().is_none_or(is_length) || lengths.next().is_some() {
        return refuse("a Content-Length that is not one plain number");
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

/// Whether a value is a plain number that a `u64` holds.
fn is_length(value: &[u8]) -> bool {
    (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

/// `host[:port]`: no user, path, blank or control character (RFC 3986, section 3.2).
fn is_authority(host: &[u8]) -> bool {
    let (is_host, after): (bool, &[u8]) = match host {
        [b'[', rest @ ..] => {
            let Some((address, after)) = rest.iter().position(|b| *b == b']').and_then(|end| rest.split_at_checked(end)) else {
                return false;
            };
            (address.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b)), after.get(1..).unwrap_or_default())
        }
        _ => {
            let (name, after) = host.split_at(host.iter().position(|b| *b == b':').unwrap_or(host.len()));
            (name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(b)), after)
        }
    };
    let is_port = match after {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_host && is_port
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
    fn http2_requests_name_one_host_and_one_length() {
        for fields in [vec![("host", "a")], vec![("host", "[::1]:80"), ("content-length", "5")]] {
            assert_eq!(check(&head(Version::HTTP_2, &fields)), Ok(()), "{fields:?}");
        }
        for fields in [
            vec![],
            vec![("host", "a"), ("host", "a")],
            vec![("host", "user@a")],
            vec![("host", "a"), ("transfer-encoding", "chunked")],
            vec![("host", "a"), ("content-length", "+5")],
            vec![("host", "a"), ("content-length", "5"), ("content-length", "5")],
        ] {
            assert!(check(&head(Version::HTTP_2, &fields)).is_err(), "{fields:?} passed");
        }
    }
}
