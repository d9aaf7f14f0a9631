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
    cluster::Endpoint,
    identity::{ServiceName, TrustDomain},
    matching::RequestView,
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

    /// The `set-cookie` value that names the endpoint of this place: for the answer, when the request's cookie named another or none.
    pub fn cookie_for(&self, place: usize) -> Option<HeaderValue> {
        let tag = std::str::from_utf8(self.tags.get(place)?).ok()?;
        cookie::set(&format!("{}={tag}", self.sticky.cookie), &self.sticky.life, "; SameSite=Lax")
    }
}
