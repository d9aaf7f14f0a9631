//! Tokens that intentions or routes may require, and who may issue them.

mod keys;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use serde::{Serialize, Serializer};

pub use self::keys::{KeySet, Unverified};
use super::secret::Secret;

/// The issuers that the intentions of a listener name, by their `jwt-provider` entry's name.
pub type Providers = BTreeMap<Arc<str>, Arc<Provider>>;

/// A token issuer, with its keys as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provider {
    /// Its `jwt-provider` entry.
    pub entry: Arc<ProviderEntry>,
    /// Its keys, or why there are none: then none of its tokens stands.
    pub keys: Result<Arc<KeySet>, Arc<str>>,
}

/// A `jwt-provider` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProviderEntry {
    /// The name that intentions use.
    pub name: Arc<str>,
    /// What a token's `iss` must be; empty is any, as in Envoy.
    pub issuer: Arc<str>,
    /// A token's `aud` must name one of these; empty is any.
    pub audiences: Vec<Arc<str>>,
    /// Where a token may be, in order; never empty.
    pub locations: Vec<Location>,
    /// The header that tells the app what a token claims.
    pub forwarding: Option<Forwarding>,
    /// Tolerance for `exp` and `nbf`.
    pub clock_skew: Duration,
    /// About how many verified tokens are remembered; 0 is none.
    pub cache_size: usize,
    /// Where the keys come from.
    #[serde(skip)]
    pub keys: KeySource,
}

/// Where a token may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// In a header, after a prefix such as `Bearer `; its case matters, as in Envoy.
    Header {
        /// The header.
        #[serde(serialize_with = "shown")]
        name: HeaderName,
        /// What stands before the token.
        prefix: Arc<str>,
        /// The app gets the header too, and the parameter of a query location beside it: Consul makes one switch of it for Envoy.
        forward: bool,
    },
    /// In a query parameter.
    Query(Arc<str>),
    /// In a cookie.
    Cookie(Arc<str>),
}

/// How what a token claims is passed on to the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forwarding {
    /// The header; its value is the token's middle part, base64url.
    #[serde(serialize_with = "shown")]
    pub header: HeaderName,
    /// Whether the base64 is padded with `=`.
    pub padded: bool,
}

/// Where a provider's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The entry itself.
    Entry(Arc<KeySet>),
    /// A place that may change.
    Place(KeyPlace),
    /// Nowhere: the entry cannot be used, and why.
    Nowhere(Arc<str>),
}

/// A place that keys are read from, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyPlace {
    /// A file of this host.
    File(PathBuf),
    /// A server.
    Remote(Arc<RemoteKeys>),
}

/// A server that has keys (`JSONWebKeySet.Remote`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteKeys {
    /// Its URL, `http` or `https`. Some have an API key in their query.
    pub url: Secret,
    /// The URL without what may be secret.
    pub shown: Arc<str>,
    /// How long a fetch may take (`RequestTimeoutMs`).
    pub timeout: Duration,
    /// How long connecting may take (`JWKSCluster.ConnectTimeout`).
    pub connect_timeout: Duration,
    /// How old keys may become before they are fetched again (`CacheDuration`).
    pub lifetime: Duration,
    /// The start does not wait for the first fetch (`FetchAsynchronously`).
    pub asynchronous: bool,
    /// How many of the first failures in a row are followed by the pauses below (`RetryPolicy.NumRetries`).
    pub retries: u32,
    /// The shortest and the longest of these pauses (`RetryPolicyBackOff`).
    pub back_off: (Duration, Duration),
    /// Whom to trust.
    pub trust: Trust,
}

/// Whose certificates a key server may show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those of the system's roots.
    System,
    /// Those of a PEM file of this host.
    File(PathBuf),
    /// Those of the PEM text in an environment variable.
    Variable(String),
    /// Those of this PEM text.
    Pem(Vec<u8>),
}

fn shown<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

/// A token of any one of these providers is required.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JwtRequirement {
    /// The providers; never empty.
    pub providers: Vec<RequiredToken>,
}

/// A provider and what its token must claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequiredToken {
    /// The name of a `jwt-provider` config entry.
    pub provider: Arc<str>,
    /// Claims, all of which must hold.
    pub claims: Vec<ClaimTest>,
}

/// One claim: the value at `path` is `value`, or a list that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimTest {
    /// Keys from the outermost on.
    pub path: Vec<Arc<str>>,
    /// The value.
    pub value: Arc<str>,
}

/// The verified tokens of a request.
pub trait Tokens {
    /// The claims of the provider's token, if the request carries one that stands.
    fn claims(&self, provider: &str) -> Option<&serde_json::Value>;
}

/// No tokens at all.
impl Tokens for () {
    fn claims(&self, _provider: &str) -> Option<&serde_json::Value> {
        None
    }
}
