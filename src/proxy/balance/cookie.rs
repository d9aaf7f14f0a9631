//! Cookies, as far as balancing reads and sets them (RFC 6265).

use http::{HeaderMap, HeaderValue, header};

use crate::model::balance::CookieLife;

/// The values of the request's cookies of this name, in the order sent, over all `cookie` fields; quotes around a value are no part of it.
pub fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let (key, value) = (parts.next()?.trim_ascii(), parts.next()?.trim_ascii());
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (key == name.as_bytes()).then(|| bare.unwrap_or(value))
    })
}

/// A `set-cookie` value: the pair as it is to stand there, its life, `HttpOnly`, and what else is given. `None` when a name or path of the
/// configuration cannot stand in a header.
pub(super) fn set(pair: &str, life: &CookieLife, rest: &str) -> Option<HeaderValue> {
    let age = life.ttl.filter(|ttl| !ttl.is_zero()).map(|ttl| format!("; Max-Age={}", ttl.as_secs())).unwrap_or_default();
    let path = if life.path.is_empty() { String::new() } else { format!("; Path={}", life.path) };
    HeaderValue::try_from(format!("{pair}{age}{path}; HttpOnly{rest}")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn found(fields: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::COOKIE, HeaderValue::from_static(field));
        }
        values(&headers, "id").map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
    }

    #[test]
    fn cookies_are_found_wherever_they_stand() {
        assert_eq!(found(&["id=a"]), ["a"]);
        assert_eq!(found(&["x=1; id=a;id=b", "y=2", " id = \"c=d\" "]), ["a", "b", "c=d"]);
        assert_eq!(found(&["id", "", ";;", "=", "idx=a; xid=b; ID=c", "x=id=a"]), Vec::<String>::new());
        assert_eq!(found(&["id=", "id=\"", "id=\"\""]), ["", "\"", ""]);
    }

    #[test]
    fn a_cookie_that_cannot_stand_in_a_header_is_not_set() {
        let life = |path: &str| CookieLife { ttl: Some(Duration::from_secs(7)), path: path.into() };
        assert_eq!(set("a=b", &life("/"), "").unwrap(), "a=b; Max-Age=7; Path=/; HttpOnly");
        assert_eq!(set("a=b", &life("/\r\nx: y"), ""), None);
    }
}
