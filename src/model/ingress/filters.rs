//! What a request must pass, and what becomes of it. One struct a filter; each has its file in `proxy/filter`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::{auth::Auth, network::Networks};

/// The filters of a route, in the order in which they look: address, https, CORS, limits by client or header, authentication, limits by claim,
/// body size. An unset one costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filters {
    /// Who may come at all.
    pub addresses: Option<AddressRules>,
    /// Requests in clear are sent to `https` (`to_https`).
    pub to_https: bool,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// Requests a second.
    pub limits: Vec<RateLimit>,
    /// Who is asking.
    pub auth: Option<Auth>,
    /// Most bytes of a request's body; `None` is without limit.
    pub body_limit: Option<u64>,
    /// Compresses answers.
    pub compression: Option<Compression>,
}

/// What becomes of a request that passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It goes to a server of the route's pools.
    #[default]
    Forward,
    /// The client is sent elsewhere (`redirect_to`).
    Redirect(Redirect),
    /// A file is the answer.
    Files(Files),
}

/// Which addresses may come: `deny` first, then `allow`; an empty `allow` is everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AddressRules {
    /// Refused with 403.
    pub deny: Networks,
    /// If there are any, all others are refused.
    pub allow: Networks,
}

/// Cross-origin resource sharing (the Fetch standard).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Origins as browsers write them (`https://shop.example`), `https://*.shop.example` for one label, `*` for every one.
    pub origins: Vec<Arc<str>>,
    /// `Access-Control-Allow-Methods`.
    pub methods: Vec<Arc<str>>,
    /// `Access-Control-Allow-Headers`; empty echoes what is asked for.
    pub headers: Vec<Arc<str>>,
    /// `Access-Control-Expose-Headers`.
    pub expose: Vec<Arc<str>>,
    /// `Access-Control-Allow-Credentials`; not together with origin `*` (checked).
    pub credentials: bool,
    /// How long browsers may remember a preflight.
    pub max_age: Option<Duration>,
}

/// A limit on requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// Names its counters across snapshots: the place that set it (`global`, `shop.example`, `shop.example/api`), so that a route with a limit
    /// of its own never shares counters with another.
    pub scope: Arc<str>,
    /// Requests a second, in the long run; at least 1.
    pub rate: u32,
    /// Requests at once; at least 1, by default `rate`.
    pub burst: u32,
    /// Who shares a counter.
    pub key: LimitKey,
}

/// Who shares a counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKey {
    /// Each client by its address; IPv6 by its /64.
    #[default]
    Client,
    /// Each value of a request header; without it, the client.
    #[serde(serialize_with = "shown")]
    Header(HeaderName),
    /// Each value of a claim of the token; without it, the client.
    Claim(Arc<str>),
    /// Each mesh service, by the SPIFFE ID of its verified client certificate; without one, the client.
    Source,
}

fn shown<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

/// Which answers are compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compression {
    /// 1 to 9.
    pub level: u32,
}

/// Where clients are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `https://other.example` with or without a path; the request's path and query follow unless `exact`.
    pub to: Arc<str>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `to` is the whole new location.
    pub exact: bool,
}

/// A folder whose files are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// The folder, absolute.
    pub root: PathBuf,
    /// What a folder is answered with.
    pub index: Vec<Arc<str>>,
    /// Folders without an index are listed.
    pub listing: bool,
    /// `NAME.br`, `NAME.gz` and `NAME.zst` are sent to clients that take them.
    pub precompressed: bool,
    /// `Cache-Control` of the answers.
    pub cache_control: Option<Arc<str>>,
    /// The route's prefix is not part of the file's path.
    pub strip: Arc<str>,
}
