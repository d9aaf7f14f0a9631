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
