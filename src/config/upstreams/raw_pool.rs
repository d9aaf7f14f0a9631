//! The keys that say how servers are chosen, probed and reached.

use serde_json::{Value, json};

use crate::{
    config::{
        fault::Check,
        read::is_header,
        shape::{At, Definitions, Of, Several, Shape, Switch, Text, Time, Within, Word, Words, Wrong, integer, mismatch, section},
        tree::{Kind, Node},
    },
    model::{
        balance::{BalancePolicy, HashBy},
        ingress::pool::{ProxyHeader, Scheme},
    },
};

section! {
    /// How servers are chosen, probed and reached.
    struct PoolPolicy {
        /// Whether a client stays with its server, by a cookie; a time is how long, a map has more. Default false.
        sticky_sessions: Switch<RawSticky>,
        /// How servers are chosen: round_robin, least_request, random, ring_hash or maglev. Default round_robin.
        balance: Word<BalancePolicy>,
        /// What ring_hash and maglev go by, in order: client, header:NAME, cookie:NAME or query:NAME. Default client.
        hash_by: Several<Of<HashBy>>,
        /// How long a new server's share grows to its full weight. Default: at once.
        slow_start: Time,
        /// Whether and how servers are probed. Default true.
        healthcheck: Switch<Health>,
        /// Whether a server that fails requests is left out for a while, and when. Default true.
        passive_health: Switch<Passive>,
        /// Bounds on what the servers are given at once. Default: none.
        limits: LimitKeys,
        /// How long connecting to a server may take. Default 5s.
        connect_timeout: Time,
        /// Whether a server's certificate must be good. Default true.
        tls_verify: bool,
        /// The name that a server's certificate must bear. Default: the server's own.
        tls_server_name ["tls_name"]: String,
        /// Whom to trust, a PEM file. Default: the system's roots.
        tls_ca: String,
        /// The certificate to show to servers, a PEM file; needs tls_key. Default: none.
        tls_certificate: String,
        /// The key of that certificate, a PEM file.
        tls_key: String,
        /// The PROXY header that connections to servers begin with: v1, v2 or off. Default off.
        proxy_header: Word<Option<ProxyHeader>>,
    }
}

section! {
    /// A sticky session.
    struct Sticky {
        /// The cookie's name. Default backend_id.
        cookie: String,
        /// How long it lives. Default: as long as the browser's session.
        max_age: Time,
    }
}

/// A sticky session: a time, or a map.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawSticky(pub(in crate::config) Sticky);

impl Shape for RawSticky {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => Sticky::read(node, check).map(Self),
            Kind::Text { .. } | Kind::Float(_) => Some(Self(Sticky { max_age: Some(At::read(node, check)?), cookie: None })),
            _ if integer(node).is_some() => Some(Self(Sticky { max_age: Some(At::read(node, check)?), cookie: None })),
            _ => mismatch(node, "a sticky session (true, false, a time, or a map)", check),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"anyOf": [Time::schema(definitions), Sticky::schema(definitions)]})
    }
}

section! {
    /// How servers are probed.
    struct Health {
        /// What is asked: http, tcp or grpc. Default http.
        r#type: Word<ProbeType>,
        /// The method of http. Default: hc_method of main.yaml.
        method: String,
        /// The path of http. Default /.
        path: String,
        /// The Host of http. Default: the server's own name.
        host: String,
        /// The statuses of a healthy server: 200, "200-299" or a list. Default 200-499.
        expect: Several<Statuses>,
        /// The service that grpc asks for. Default: the whole server.
        service: String,
        /// The pause between two probes. Default: hc_interval of main.yaml.
        interval: Time,
        /// How long an answer may take. Default: the interval, at most 2s.
        timeout: Time,
        /// Successes in a row that make a server healthy again. Default 1.
        healthy_after: Within<1, 100>,
        /// Failures in a row that make it unhealthy. Default 2.
        unhealthy_after: Within<1, 100>,
    }
}

section! {
    /// When a server that fails requests is left out for a while.
    struct Passive {
        /// Failures in a row: 5xx, or no answer. Default 5.
        max_failures: Within<1, 1_000_000>,
        /// How often servers left out are looked at. Default 10s.
        interval: Time,
        /// How long the first time lasts; the n-th lasts n times as long. Default 30s.
        base_ejection: Time,
        /// Most servers that may be left out at once, percent. Default 50.
        max_ejection_percent: Within<1, 100>,
    }
}

section! {
    /// Bounds on what servers are given at once.
    struct LimitKeys {
        /// Connections. Default: no bound.
        connections: Within<1, 4_294_967_295>,
        /// Requests that wait for a connection. Default: no bound.
        pending: Within<0, 4_294_967_295>,
        /// Requests in flight. Default: no bound.
        requests: Within<1, 4_294_967_295>,
        /// Retries in flight, percent of the requests in flight. Default 20.
        retry_budget: Within<0, 100>,
    }
}

/// A status, or a range of them.
#[derive(Clone, Debug)]
pub(in crate::config) struct Statuses(pub(in crate::config) std::ops::RangeInclusive<u16>);

impl Shape for Statuses {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let one = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
        let range = match (&node.kind, integer(node)) {
            (_, Some(status)) => one(&status.to_string()).map(|status| status..=status),
            (Kind::Text { text, .. }, None) => match text.split_once('-') {
                Some((first, last)) => one(first).zip(one(last)).filter(|(first, last)| first <= last).map(|(first, last)| first..=last),
                None => one(text).map(|status| status..=status),
            },
            _ => None,
        };
        match range {
            Some(range) => Some(Self(range)),
            None => mismatch(node, "a status from 100 to 599 (200), or a range of them (\"200-299\")", check),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            {"type": "string", "pattern": "^ *[1-5][0-9][0-9] *(- *[1-5][0-9][0-9] *)?$|\\$\\{"},
        ]})
    }
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum ProbeType {
    Http,
    Tcp,
    Grpc,
}

impl Words for ProbeType {
    const WHAT: &'static str = "kind of probe";
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::Http), ("tcp", Self::Tcp), ("grpc", Self::Grpc)];
}

impl Words for BalancePolicy {
    const WHAT: &'static str = "way to balance";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("least_request", Self::LeastRequest { choices: 2 }),
        ("random", Self::Random),
        ("ring_hash", Self::RingHash { min: 1024, max: 8 << 20 }),
        ("maglev", Self::Maglev),
    ];
}

impl Words for Option<ProxyHeader> {
    const WHAT: &'static str = "version of the PROXY protocol";
    const WORDS: &'static [(&'static str, Self)] = &[("v1", Some(ProxyHeader::V1)), ("v2", Some(ProxyHeader::V2)), ("off", None)];
}

impl Words for Scheme {
    const WHAT: &'static str = "scheme of a server";
    const WORDS: &'static [(&'static str, Self)] =
        &[("http", Self::Http), ("https", Self::Https), ("h2c", Self::H2c), ("grpc", Self::Grpc), ("grpcs", Self::Grpcs)];
}

/// `client`, `header:NAME`, `cookie:NAME` or `query:NAME`.
impl Text for HashBy {
    fn parse(text: &str) -> Result<Self, Wrong> {
        let (kind, name) = text.split_once(':').map_or((text, ""), |(kind, name)| (kind, name.trim()));
        Ok(match (kind, name) {
            ("client", "") => Self::SourceIp,
            ("header", name) if is_header(name) => Self::Header(name.to_ascii_lowercase().into()),
            ("cookie", name) if is_header(name) => Self::Cookie { name: name.into(), generate: None },
            ("query", name) if !name.is_empty() => Self::Query(name.into()),
            _ => {
                let advice = "use client, header:NAME, cookie:NAME or query:NAME".to_owned();
                return Err((format!("{text:?} says not what is hashed"), advice));
            }
        })
    }
}
