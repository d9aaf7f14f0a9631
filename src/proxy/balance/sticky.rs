//! Sticky sessions: a cookie that names the endpoint that served first.
//!
//! The cookie's value is a tag: the first 16 bytes of HMAC-SHA256 of the endpoint's id. It tells nothing about the endpoint, cannot be made up
//! without the key, and is the same on every sidecar that has the key, after restarts, and however many other endpoints come and go.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use openssl::{error::ErrorStack, hash::MessageDigest, pkey::PKey, sha::sha256, sign::Signer};
use xxhash_rust::xxh64::xxh64;

use super::cookie;
use crate::model::{
    balance::Sticky,
    cluster::{Endpoint, TargetId},
    identity::{ServiceName, TrustDomain},
    matching::RequestView,
    secret::Secret,
};

/// A tag in URL-safe base64 without padding.
type Tag = [u8; 22];

/// The tags of a cluster's endpoints.
#[derive(Debug)]
pub struct StickyTable {
    sticky: Sticky,
    tags: Box<[Tag]>,
    places: HashMap<Tag, u32>,
}

/// What a request's sticky cookie says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// The place of the endpoint that it names; it may be unavailable.
    pub place: Option<usize>,
    /// Of a cookie whatever it names: when that endpoint is gone, it keeps the requests of one user together.
    pub hash: Option<u64>,
}

/// The key that sidecars of one mesh share without being told: a hash of the trust domain and the service. Both are known within the mesh, so it
/// protects only from those who know neither; what somebody can do with it is choose the endpoint that serves his own requests.
pub fn mesh_key(trust_domain: &TrustDomain, service: &ServiceName) -> [u8; 32] {
    sha256(format!("aralez sticky cookie\n{trust_domain}\n{service}").as_bytes())
}

/// The key of an ingress route: nobody who lacks the process's secret can make a cookie of it, nor carry one over from another route.
pub fn sealed_key(secret: &Secret, target: &TargetId) -> [u8; 32] {
    sha256(format!("aralez sticky cookie\n{}\n{target}", secret.expose()).as_bytes())
}

impl StickyTable {
    /// The table of a cluster's endpoints, unhealthy ones too: they come back.
    ///
    /// # Errors
    /// When OpenSSL cannot make an HMAC, as without memory.
    pub fn new(sticky: &Sticky, key: &[u8], endpoints: &[Arc<Endpoint>]) -> Result<Self, ErrorStack> {
        let key = PKey::hmac(key)?;
        let tag = |endpoint: &Arc<Endpoint>| -> Result<Tag, ErrorStack> {
            let mut seal = [0; 32];
            Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot(&mut seal, endpoint.id.as_bytes())?;
            let mut tag = Tag::default();
            // 16 bytes are exactly 22 letters.
            let _ = URL_SAFE_NO_PAD.encode_slice(&seal[..16], &mut tag);
            Ok(tag)
        };
        let tags = endpoints.iter().map(tag).collect::<Result<Box<[Tag]>, _>>()?;
        let places = tags.iter().copied().zip(0u32..).collect();
        Ok(Self { sticky: sticky.clone(), tags, places })
    }

    /// What the request's cookies say. Of several of the name, the first that names an endpoint holds.
    pub fn find(&self, request: &RequestView<'_>) -> Stuck {
        let mut values = cookie::values(request.headers, &self.sticky.cookie).filter(|value| !value.is_empty()).peekable();
        let hash = values.peek().map(|value| xxh64(value, 0));
        let place = values.find_map(|value| self.places.get(<&Tag>::try_from(value).ok()?)).map(|place| *place as usize);
        Stuck { place, hash }
    }

    /// The `set-cookie` value that names the endpoint of this place: for the answer, when the request's cookie named another or none. `secure` keeps
    /// it from being sent in clear.
    pub fn cookie_for(&self, place: usize, secure: bool) -> Option<HeaderValue> {
        let tag = std::str::from_utf8(self.tags.get(place)?).ok()?;
        let rest = if secure { "; Secure; SameSite=Lax" } else { "; SameSite=Lax" };
        cookie::set(&format!("{}={tag}", self.sticky.cookie), &self.sticky.life, rest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, header};

    use super::*;
    use crate::model::{balance::CookieLife, cluster::Health, listener::Address};

    fn endpoints(ids: &[&str]) -> Vec<Arc<Endpoint>> {
        let address = Address::Tcp(([127, 0, 0, 1], 1).into());
        let endpoint = |id: &&str| Endpoint { id: (*id).into(), address: address.clone(), weight: 1, health: Health::Passing, dial: None };
        ids.iter().map(endpoint).map(Arc::new).collect()
    }

    fn table(key: &[u8], ids: &[&str]) -> StickyTable {
        let sticky = Sticky { cookie: "who".into(), life: CookieLife { ttl: None, path: "/".into() } };
        StickyTable::new(&sticky, key, &endpoints(ids)).unwrap()
    }

    fn find(table: &StickyTable, fields: &[&str]) -> Stuck {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::COOKIE, HeaderValue::from_str(field).unwrap());
        }
        table.find(&RequestView { method: "GET", path: "/", query: None, authority: "", headers: &headers })
    }

    /// `name=value` as a browser sends back what was set.
    fn sent_back(table: &StickyTable, place: usize) -> String {
        let set = table.cookie_for(place, false).unwrap();
        set.to_str().unwrap().split(';').next().unwrap().to_owned()
    }

    #[test]
    fn the_cookie_finds_its_endpoint_on_any_sidecar_and_after_scaling() {
        let one = table(b"key", &["n1/a", "n2/b"]);
        let other = table(b"key", &["n9/z", "n2/b", "n3/c", "n1/a"]);
        assert_eq!(find(&other, &[&sent_back(&one, 0)]).place, Some(3));
        assert_eq!(find(&other, &[&sent_back(&one, 1)]).place, Some(1));
        assert_eq!(one.cookie_for(2, false), None);
    }

    #[test]
    fn the_tag_is_an_hmac_of_the_id() {
        // printf n1/a | openssl dgst -sha256 -hmac key -binary | head -c 16 | basenc --base64url
        assert_eq!(sent_back(&table(b"key", &["n1/a"]), 0), "who=zF_R3w76WaeQKEfjO9fmIQ");
    }

    #[test]
    fn a_cookie_made_with_another_key_names_nobody() {
        let stuck = find(&table(b"key", &["n1/a"]), &[&sent_back(&table(b"other", &["n1/a"]), 0)]);
        assert!(stuck.place.is_none() && stuck.hash.is_some());
    }

    #[test]
    fn a_cookie_that_names_nobody_still_keeps_its_user_together() {
        let table = table(b"key", &["n1/a"]);
        let long = format!("who={}", "x".repeat(100_000));
        for odd in ["who=x", "who=\"", "who=n1/a", "who==", "who=%00", &long] {
            let stuck = find(&table, &[odd]);
            assert!(stuck.place.is_none() && stuck.hash.is_some(), "{odd:.20}");
            assert_eq!(stuck, find(&table, &[odd]));
        }
        for none in ["", "who", "who=", "who=\"\"", "whose=x", "WHO=x"] {
            assert_eq!(find(&table, &[none]), Stuck::default(), "{none}");
        }
    }

    #[test]
    fn of_several_cookies_the_first_that_names_an_endpoint_holds() {
        let table = table(b"key", &["n1/a", "n2/b"]);
        let (a, b) = (sent_back(&table, 0), sent_back(&table, 1));
        assert_eq!(find(&table, &[&format!("who=gone; {b}; {a}")]).place, Some(1));
        assert_eq!(find(&table, &["x=1; who=gone", &a]).place, Some(0));
    }

    #[test]
    fn the_cookie_lives_as_long_and_where_it_is_told() {
        let set = |ttl, path: &str| {
            let sticky = Sticky { cookie: "who".into(), life: CookieLife { ttl, path: path.into() } };
            let table = StickyTable::new(&sticky, b"key", &endpoints(&["n1/a"])).unwrap();
            table.cookie_for(0, false).unwrap().to_str().unwrap().split_once("; ").unwrap().1.to_owned()
        };
        assert_eq!(set(None, "/"), "Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(Some(Duration::from_secs(3600)), "/shop"), "Max-Age=3600; Path=/shop; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn each_service_has_a_key_of_its_own() {
        let key = |domain: &str, service: &str| mesh_key(&TrustDomain::parse(domain).unwrap(), &ServiceName::local(service));
        assert_eq!(key("a.consul", "web"), key("a.consul", "web"));
        assert_ne!(key("a.consul", "web"), key("a.consul", "api"));
        assert_ne!(key("a.consul", "web"), key("b.consul", "web"));
    }
}
