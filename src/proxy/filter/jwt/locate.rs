//! Where in a request tokens are, and how they are taken out of it.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, Uri,
    header::COOKIE,
    uri::{Parts, PathAndQuery},
};
use percent_encoding::percent_decode_str;

use crate::model::{jwt::Location, matching::RequestView};

/// The tokens at a location, all of them: what the app may take for the token must be one that stands.
pub fn tokens<'a>(location: &Location, request: &RequestView<'a>) -> Vec<Cow<'a, [u8]>> {
    match location {
        Location::Header { name, prefix, .. } => in_header(request.headers, name, prefix).map(Cow::Borrowed).collect(),
        Location::Query(name) => {
            let pairs = request.query.into_iter().flat_map(pairs);
            pairs.filter(|(_, key, _)| **key == *name.as_bytes()).map(|(_, _, value)| value).collect()
        }
        Location::Cookie(name) => cookies(request.headers, name).map(Cow::Borrowed).collect(),
    }
}

/// Whether a header holds a token: it may be there for another use.
pub fn is_in_header(headers: &HeaderMap, name: &HeaderName, prefix: &str) -> bool {
    in_header(headers, name, prefix).next().is_some()
}

/// The tokens in the lines of a header; a line without the prefix has none.
fn in_header<'a>(headers: &'a HeaderMap, name: &HeaderName, prefix: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().filter_map(move |value| after(prefix, value.as_bytes()))
}

/// What follows the prefix, without the blanks around it; `None` if the value does not begin with the prefix.
fn after<'a>(prefix: &str, value: &'a [u8]) -> Option<&'a [u8]> {
    Some(value.strip_prefix(prefix.as_bytes())?.trim_ascii())
}

/// The parts of a query: as written, and decoded as name and value.
fn pairs(query: &str) -> impl Iterator<Item = (&str, Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (pair, percent_decode_str(name).into(), percent_decode_str(value).into())
    })
}

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let all = headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    all.filter_map(move |cookie| {
        let at = cookie.iter().position(|byte| *byte == b'=')?;
        let (key, value) = cookie.split_at_checked(at)?;
        let value = value.get(1..)?.trim_ascii();
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        (key.trim_ascii() == name.as_bytes()).then_some(bare)
    })
}

/// The URI without a query parameter; every other byte stays. `None` if it does not have the parameter.
pub fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query()?;
    let kept: Vec<&str> = pairs(query).filter(|(_, key, _)| **key != *name.as_bytes()).map(|(pair, _, _)| pair).collect();
    if kept.len() == query.split('&').count() {
        return None;
    }
    let mut target = uri.path().to_owned();
    if !kept.is_empty() {
        target.push('?');
        target += &kept.join("&");
    }
    let mut parts = Parts::from(uri.clone());
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::*;

    fn found(location: &Location, headers: &[(&'static str, &'static str)], query: Option<&str>) -> Vec<String> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        let view = RequestView { method: "GET", path: "/", query, authority: "h", headers: &headers };
        tokens(location, &view).iter().map(|token| String::from_utf8(token.to_vec()).unwrap()).collect()
    }

    fn header(prefix: &str) -> Location {
        Location::Header { name: "authorization".parse().unwrap(), prefix: prefix.into(), forward: false }
    }

    #[test]
    fn every_line_of_a_header_with_the_prefix_holds_a_token() {
        let lines =
            [("authorization", "Bearer a.b.c"), ("authorization", "Bearer  d "), ("authorization", "bearer x"), ("other", "Bearer e")];
        assert_eq!(found(&header("Bearer "), &lines, None), ["a.b.c", "d"]);
        assert_eq!(found(&header(""), &lines, None), ["Bearer a.b.c", "Bearer  d", "bearer x"]);
        assert_eq!(found(&header("Bearer "), &[("authorization", "Bearer")], None), [""; 0]);
    }

    #[test]
    fn parameters_and_cookies_are_found_wherever_they_stand() {
        let query = Location::Query(Arc::from("access_token"));
        assert_eq!(found(&query, &[], Some("a=1&access_token=a%2Eb&access%5Ftoken=c&access_tokens=d&access_token")), ["a.b", "c", ""]);
        assert_eq!(found(&query, &[], None), [""; 0]);
        let cookie = Location::Cookie(Arc::from("jwt"));
        let lines = [("cookie", "a=1; jwt=a.b.c ;xjwt=d; jwt"), ("cookie", "jwt=\"e=\"")];
        assert_eq!(found(&cookie, &lines, None), ["a.b.c", "e="]);
    }

    #[test]
    fn taking_a_parameter_out_leaves_every_other_byte() {
        let without = |uri: &str| without_parameter(&uri.parse().unwrap(), "t").map(|uri| uri.to_string());
        assert_eq!(without("/p%2F?t=1").as_deref(), Some("/p%2F"));
        assert_eq!(without("/p?a=%41&t=1&&b+c=/?&%74=2&x").as_deref(), Some("/p?a=%41&&b+c=/?&x"));
        assert_eq!(without("http://host/p?t").as_deref(), Some("http://host/p"));
        assert_eq!(without("/p?tt=1&a=t"), None);
        assert_eq!(without("/p"), None);
    }
}
