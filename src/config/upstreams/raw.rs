//! The keys of `upstreams.yaml`.

use crate::config::{
    fault::Check,
    shape::{At, Entries, Shape, Time, Within, integer, mismatch, section},
    tree::{Kind, Node},
};

section! {
    /// `upstreams.yaml`: which request goes where, and what it must pass.
    struct RawFile {
        ..policy: RawPolicy,
        /// Where servers come from if a path does not say: file or consul.
        provider: String,
        /// The hosts.
        upstreams: Entries<RawHost>,
    }
}

section! {
    /// What holds for all paths, for those of a host, or for one.
    struct RawPolicy {
        /// Whether a client stays with its server; a time is how long.
        sticky_sessions: Switch<Time>,
        /// Requests a second and client.
        rate_limit: Switch<RawRate>,
        /// Headers of answers, "Name: value".
        headers ["client_headers"]: Vec<At<String>>,
        /// Headers of requests to servers, "Name: value".
        server_headers: Vec<At<String>>,
        /// Who may come.
        authorization: Switch<RawAuth>,
        /// Whether requests in clear are sent to https.
        to_https: bool,
        /// Whether and how servers are probed.
        healthcheck: Switch<RawHealth>,
    }
}

section! {
    /// A host.
    struct RawHost {
        ..policy: RawPolicy,
        /// Its paths.
        paths: Entries<RawPath>,
    }
}

section! {
    /// A path with all below it.
    struct RawPath {
        ..policy: RawPolicy,
        /// The servers.
        servers: Vec<At<RawServer>>,
        /// Where clients are sent instead.
        redirect_to: String,
    }
}

section! {
    /// A server with its share.
    struct RawServerMap {
        /// host:port, with or without a scheme.
        address: String,
        /// Its share of the requests.
        weight: Within<1, 128>,
        /// Whether it serves only when the others cannot.
        backup: bool,
    }
}

/// A server: a text, or a map.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawServer(pub(in crate::config) RawServerMap);

impl Shape for RawServer {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => RawServerMap::read(node, check).map(Self),
            Kind::Text { .. } => Some(Self(RawServerMap { address: At::read(node, check), ..RawServerMap::default() })),
            _ => mismatch(node, "a server (\"host:port\", or a map with address)", check),
        }
    }
}

section! {
    /// A limit on requests.
    struct RawRateMap {
        /// Requests a second.
        rate: Within<1, 4_294_967_295>,
        /// Requests at once.
        burst: Within<1, 4_294_967_295>,
        /// Who shares a counter: client, header:NAME or claim:NAME.
        by: String,
    }
}

/// A limit: a number, or a map.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawRate(pub(in crate::config) RawRateMap);

impl Shape for RawRate {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => RawRateMap::read(node, check).map(Self),
            _ if integer(node).is_some() => Some(Self(RawRateMap { rate: At::read(node, check), ..RawRateMap::default() })),
            _ => mismatch(node, "a limit (requests a second, or a map with rate)", check),
        }
    }
}

section! {
    /// Who may come.
    struct RawAuth {
        /// The kind: basic, apikey, jwt or forward.
        r#type: String,
        /// The credentials.
        creds ["data"]: String,
    }
}

section! {
    /// How servers are probed.
    struct RawHealth {
        /// The pause between two probes.
        interval: Time,
    }
}

/// `false` for off, `true` for on as it is by default, or on with a value.
#[derive(Clone, Debug)]
pub(in crate::config) enum Switch<T> {
    Off,
    On,
    With(T),
}

impl<T: Shape> Shape for Switch<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Bool(false) => Some(Self::Off),
            Kind::Bool(true) => Some(Self::On),
            _ => T::read(node, check).map(Self::With),
        }
    }
}
