//! The request's hash, which ring hash and maglev choose by.

use std::net::IpAddr;

use http::HeaderValue;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::cookie;
use crate::model::{
    balance::{CookieLife, HashBy, HashPolicy},
    matching::RequestView,
};

/// What the hash policies make of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHash {
    /// The hash; `None` when the request has none of the ingredients.
    pub hash: Option<u64>,
    /// `set-cookie` values for the answer: cookies that were made for the caller.
    pub set_cookies: Vec<HeaderValue>,
}

/// Hashes a request by the policies in their order, as Envoy does: each ingredient that the request has is mixed in, until a terminal policy
/// is reached with a hash made. `client` is the caller's address (none over a Unix socket); `fresh` is chance, for cookies that are made.
pub fn request_hash(policies: &[HashPolicy], request: &RequestView<'_>, client: Option<IpAddr>, fresh: u64) -> RequestHash {
    let mut made = RequestHash::default();
    for policy in policies {
        let ingredient = match &policy.by {
            HashBy::Header(name) => header(request, name),
            HashBy::Cookie { name, generate } => {
                let sent = cookie::values(request.headers, name).next().filter(|value| !value.is_empty()).map(|value| xxh64(value, 0));
                sent.or_else(|| {
                    let (value, set) = fresh_cookie(name, generate.as_ref()?, fresh)?;
                    made.set_cookies.push(set);
                    Some(xxh64(value.as_bytes(), 0))
                })
            }
            HashBy::Query(name) => request.query.and_then(|text| query(text, name)).map(|value| xxh64(value.as_bytes(), 0)),
            HashBy::SourceIp => client.map(|ip| xxh64(ip.to_canonical().to_string().as_bytes(), 0)),
        };
        if let Some(ingredient) = ingredient {
            made.hash = Some(made.hash.unwrap_or_default().rotate_left(1) ^ ingredient);
        }
        if policy.terminal && made.hash.is_some() {
            break;
        }
    }
    made
}

/// Several fields of one name count in sorted order: proxies on the way may reorder them.
fn header(request: &RequestView<'_>, name: &str) -> Option<u64> {
    let mut values: Vec<&[u8]> = request.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    if values.is_empty() {
        return request.header(name).map(|value| xxh64(&value, 0));
    }
    values.sort_unstable();
    let mut hasher = Xxh64::new(0);
    values.iter().for_each(|value| hasher.update(value));
    Some(hasher.digest())
}

/// The first value of a parameter, as written.
fn query<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// A cookie's new value, and how it is set.
fn fresh_cookie(name: &str, life: &CookieLife, fresh: u64) -> Option<(String, HeaderValue)> {
    let value = format!("{fresh:016x}");
    let set = cookie::set(&format!("{name}=\"{value}\""), life, "")?;
    Some((value, set))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName};

    use super::*;

    const FRESH: u64 = 0x00c4_9be0_3718_13f4;

    fn by(by: HashBy) -> HashPolicy {
        HashPolicy { by, terminal: false }
    }

    fn of_header(name: &str) -> HashPolicy {
        by(HashBy::Header(name.into()))
    }

    fn of_cookie(generate: Option<CookieLife>) -> HashPolicy {
        by(HashBy::Cookie { name: "ck".into(), generate })
    }

    /// The hash of a request `GET /a?q=1&q=2&e` with these header fields.
    fn hash_of(policies: &[HashPolicy], fields: &[(&'static str, &'static str)]) -> RequestHash {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = RequestView { method: "GET", path: "/a", query: Some("q=1&q=2&e"), authority: "shop", headers: &headers };
        request_hash(policies, &request, Some(IpAddr::from([10, 1, 2, 3])), FRESH)
    }

    fn only(text: &str) -> RequestHash {
        RequestHash { hash: Some(xxh64(text.as_bytes(), 0)), set_cookies: vec![] }
    }

    #[test]
    fn each_ingredient_is_the_xxhash_of_its_text() {
        assert_eq!(hash_of(&[of_header("x-user")], &[("x-user", "ann")]), only("ann"));
        assert_eq!(hash_of(&[of_header(":authority")], &[]), only("shop"));
        assert_eq!(hash_of(&[of_header(":path")], &[]), only("/a?q=1&q=2&e"));
        assert_eq!(hash_of(&[of_cookie(None)], &[("cookie", "a=1; ck=\"me\"; ck=you")]), only("me"));
        assert_eq!(hash_of(&[by(HashBy::Query("q".into()))], &[]), only("1"));
        assert_eq!(hash_of(&[by(HashBy::Query("e".into()))], &[]), only(""));
        assert_eq!(hash_of(&[by(HashBy::SourceIp)], &[]), only("10.1.2.3"));
    }

    #[test]
    fn what_a_request_lacks_is_left_out() {
        let lacking = [of_header("x-user"), of_cookie(None), by(HashBy::Query("p".into()))];
        assert_eq!(hash_of(&lacking, &[("cookie", "ck=")]), RequestHash::default());
        assert_eq!(hash_of(&[&lacking[..], &[of_header("x-last")]].concat(), &[("x-last", "b")]), only("b"));
        let request = RequestView { method: "GET", path: "/", query: None, authority: "", headers: &HeaderMap::new() };
        let neither = [by(HashBy::SourceIp), by(HashBy::Query("q".into()))];
        assert_eq!(request_hash(&neither, &request, None, FRESH), RequestHash::default());
    }

    #[test]
    fn ingredients_are_mixed_in_order() {
        let fields = [("x-a", "1"), ("x-b", "2")];
        let mixed = hash_of(&[of_header("x-a"), of_header("x-b")], &fields).hash;
        assert_eq!(mixed, Some(xxh64(b"1", 0).rotate_left(1) ^ xxh64(b"2", 0)));
        assert_ne!(mixed, hash_of(&[of_header("x-b"), of_header("x-a")], &fields).hash);
    }

    #[test]
    fn a_terminal_policy_ends_it_once_there_is_a_hash() {
        let terminal = |name| HashPolicy { terminal: true, ..of_header(name) };
        let policies = [terminal("x-none"), terminal("x-a"), of_header("x-b")];
        assert_eq!(hash_of(&policies, &[("x-a", "1"), ("x-b", "2")]), only("1"));
        assert_eq!(hash_of(&policies, &[("x-b", "2")]), only("2"));
        // A hash of an earlier policy counts, too.
        let policies = [of_header("x-b"), terminal("x-none"), of_header("x-a")];
        assert_eq!(hash_of(&policies, &[("x-a", "1"), ("x-b", "2")]), only("2"));
    }

    #[test]
    fn several_fields_of_a_name_hash_alike_in_any_order() {
        let hash = |fields: &[_]| hash_of(&[of_header("x-a")], fields).hash;
        assert_eq!(hash(&[("x-a", "1"), ("x-a", "2")]), hash(&[("x-a", "2"), ("x-a", "1")]));
        assert_ne!(hash(&[("x-a", "1"), ("x-a", "2")]), hash(&[("x-a", "1")]));
    }

    #[test]
    fn a_cookie_is_made_for_who_has_none() {
        let set = |ttl: Option<u64>, path: &str, fields: &[_]| {
            let life = CookieLife { ttl: ttl.map(Duration::from_secs), path: path.into() };
            hash_of(&[of_cookie(Some(life))], fields)
        };
        let text = |made: &RequestHash| made.set_cookies.iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        let made = set(Some(30), "/p", &[]);
        assert_eq!(text(&made), ["ck=\"00c49be0371813f4\"; Max-Age=30; Path=/p; HttpOnly"]);
        assert_eq!(made.hash, only("00c49be0371813f4").hash);
        assert_eq!(text(&set(None, "", &[("cookie", "ck=")])), ["ck=\"00c49be0371813f4\"; HttpOnly"]);
        assert_eq!(text(&set(Some(5400), "", &[("cookie", "other=1")])), ["ck=\"00c49be0371813f4\"; Max-Age=5400; HttpOnly"]);
        // The next request, with that cookie, hashes alike and is not given another.
        assert_eq!(set(Some(30), "/p", &[("cookie", "ck=00c49be0371813f4")]), only("00c49be0371813f4"));
    }
}
