//! Rate limits: so many requests a second, and so many at once.
//!
//! The algorithm is GCRA (the virtual scheduling form of the leaky bucket, ITU-T I.371): of each client one number is kept, the time at which its bucket
//! is empty again. The table is our own, since those of `governor` grow with the number of clients, and an attacker has millions of addresses:
//! this one has a fixed number of places. A client that finds its places taken drives out the one whose bucket is the emptiest, which loses nothing
//! if that was empty already, and forgives it a part of a bucket if not.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use parking_lot::Mutex;
use pingora_core::Result;
use pingora_http::ResponseHeader;
use serde_json::Value;

use crate::{
    model::ingress::filters::{LimitKey, RateLimit},
    proxy::refusal::{Answer, Refusal},
};

/// Independently locked parts of the table.
const SHARDS: usize = 64;
/// Sets of a part; a client's place is in one set.
const SETS: usize = 512;
/// Places of a set. In all there are 262,144, and 4 MiB of memory once all are in use.
const WAYS: usize = 8;

/// The clients of a set, and when the bucket of each is empty again, in nanoseconds since the table was made. No client is 0.
type Set = [u64; 2 * WAYS];

/// The buckets of all limits of the process.
pub struct Buckets {
    /// Keyed by the process: nobody outside can choose addresses that share a set.
    hasher: RandomState,
    began: Instant,
    /// A part has no memory until it is used.
    shards: [Mutex<Vec<Set>>; SHARDS],
}

impl Default for Buckets {
    fn default() -> Self {
        Self { hasher: RandomState::new(), began: Instant::now(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

/// Who shares a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whom<'a> {
    /// A client by its IPv4 address.
    V4(u32),
    /// A client by the /64 of its IPv6 address, which one client has as a rule.
    V6(u64),
    /// Clients without an address.
    Local,
    /// Who brings a value.
    Value(&'a [u8]),
}

impl From<Option<IpAddr>> for Whom<'_> {
    fn from(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.to_bits()),
            Some(IpAddr::V6(address)) => Self::V6((address.to_bits() >> 64) as u64),
            None => Self::Local,
        }
    }
}

/// Where a client stands with a limit after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The most requests at once.
    pub limit: u32,
    /// How many more would be let through now.
    pub remaining: u32,
    /// Until none is counted any more.
    pub reset: Duration,
    /// Until the next is let through, if this one was not.
    pub refused: Option<Duration>,
}

impl Buckets {
    /// Counts a request, if it is let through.
    pub fn take(&self, limit: &RateLimit, whom: Whom<'_>, now: Instant) -> Standing {
        let interval = (1_000_000_000 / u64::from(limit.rate.max(1))).max(1);
        let depth = interval * u64::from(limit.burst.max(1));
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX / 2);
        let (level, retry) = self.with(&limit.scope, whom, |empty_at| {
            let filled = (*empty_at).max(now) + interval;
            if filled - now > depth {
                return (empty_at.saturating_sub(now), Some(filled - now - depth));
            }
            *empty_at = filled;
            (filled - now, None)
        });
        Standing {
            limit: limit.burst.max(1),
            remaining: u32::try_from(depth.saturating_sub(level) / interval).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(level),
            refused: retry.map(Duration::from_nanos),
        }
    }

    /// Acts on the bucket of a client.
    fn with<T>(&self, scope: &str, whom: Whom<'_>, act: impl FnOnce(&mut u64) -> T) -> T {
        let hash = self.hasher.hash_one((scope, whom)).max(1);
        let number = usize::try_from(hash >> 32).unwrap_or_default();
        let mut unused = [0; 2 * WAYS];
        let Some(shard) = self.shards.get(number % SHARDS) else { return act(&mut 0) };
        let mut shard = shard.lock();
        if shard.is_empty() {
            *shard = vec![[0; 2 * WAYS]; SETS];
        }
        let set = shard.get_mut(number / SHARDS % SETS).unwrap_or(&mut unused);
        let (clients, empty_at) = set.split_at_mut(WAYS);
        let known = clients.iter().position(|client| *client == hash);
        let emptiest = || empty_at.iter().enumerate().min_by_key(|(_, at)| **at).map_or(0, |(place, _)| place);
        let place = known.unwrap_or_else(emptiest);
        match (clients.get_mut(place), empty_at.get_mut(place)) {
            (Some(client), Some(at)) => {
                if known.is_none() {
                    (*client, *at) = (hash, 0);
                }
                act(at)
            }
            _ => act(&mut 0),
        }
    }
}

/// Who shares a bucket with a request, by the limit's key; the client where there is no such value.
pub fn whom<'a>(
    key: &LimitKey,
    headers: &'a HeaderMap,
    claims: Option<&'a Value>,
    source: Option<&'a str>,
    client: Option<IpAddr>,
    text: &'a mut String,
) -> Whom<'a> {
    let value = match key {
        LimitKey::Client => None,
        LimitKey::Source => source.map(str::as_bytes),
        LimitKey::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
        LimitKey::Claim(name) => match claims.and_then(|claims| claims.get(&**name)) {
            Some(Value::String(value)) => Some(value.as_bytes()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                *text = value.to_string();
                Some(text.as_bytes())
            }
            _ => None,
        },
    };
    value.map_or_else(|| client.into(), Whom::Value)
}

/// Seconds, rounded up: who waits for as long is let through.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl Standing {
    /// Whether it says more to a client than another one: it is nearer to a refusal.
    pub fn is_tighter(&self, than: &Self) -> bool {
        (self.refused.is_none(), self.remaining) < (than.refused.is_none(), than.remaining)
    }

    /// Tells the client (draft-ietf-httpapi-ratelimit-headers-07).
    ///
    /// # Errors
    /// When a header cannot be written, which no input can cause.
    pub fn tell(&self, head: &mut ResponseHeader) -> Result<()> {
        head.insert_header(HeaderName::from_static("ratelimit-limit"), HeaderValue::from(self.limit))?;
        head.insert_header(HeaderName::from_static("ratelimit-remaining"), HeaderValue::from(self.remaining))?;
        head.insert_header(HeaderName::from_static("ratelimit-reset"), HeaderValue::from(seconds(self.reset)))
    }

    /// 429 when the request is refused, with the older fields too that clients may know.
    pub fn refusal(&self) -> Option<Refusal> {
        let wait = self.refused?;
        let answer = Answer::new(429, "request_rate_limited")
            .header(RETRY_AFTER, HeaderValue::from(seconds(wait).max(1)))
            .header(HeaderName::from_static("x-rate-limit-limit"), HeaderValue::from(self.limit))
            .header(HeaderName::from_static("x-rate-limit-remaining"), HeaderValue::from(self.remaining))
            .header(HeaderName::from_static("x-rate-limit-reset"), HeaderValue::from(seconds(self.reset).max(1)));
        Some(answer.body("too many requests\n").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(scope: &str, rate: u32, burst: u32) -> RateLimit {
        RateLimit { scope: scope.into(), rate, burst, key: LimitKey::Client }
    }

    fn client(address: &str) -> Whom<'static> {
        Some(address.parse::<IpAddr>().unwrap()).into()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (buckets, limit, now) = (Buckets::default(), limit("a", 10, 3), Instant::now());
        let at = |ms: u64| {
            let standing = buckets.take(&limit, client("192.0.2.1"), now + Duration::from_millis(ms));
            (standing.refused.map(|wait| wait.as_millis()), standing.remaining, standing.reset.as_millis())
        };
        assert_eq!(at(0), (None, 2, 100));
        assert_eq!(at(0), (None, 1, 200));
        assert_eq!(at(0), (None, 0, 300));
        assert_eq!(at(0), (Some(100), 0, 300));
        assert_eq!(at(40), (Some(60), 0, 260), "who is refused is not counted");
        assert_eq!(at(100), (None, 0, 300));
        assert_eq!(at(101), (Some(99), 0, 299));
        assert_eq!(at(1000), (None, 2, 100), "an empty bucket holds no more than a burst");
    }

    #[test]
    fn scopes_and_clients_have_buckets_of_their_own() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        let passes = |scope: &str, address: &str| buckets.take(&limit(scope, 1, 1), client(address), now).refused.is_none();
        assert!(passes("a", "192.0.2.1") && !passes("a", "192.0.2.1"));
        assert!(passes("b", "192.0.2.1") && passes("a", "192.0.2.2"));
        assert!(passes("a", "2001:db8:0:1::1") && !passes("a", "2001:db8:0:1:ffff::2"), "one /64");
        assert!(passes("a", "2001:db8:0:2::1"));
        assert!(!passes("a", "::ffff:192.0.2.1"), "an IPv4 client by another name");
    }

    #[test]
    fn millions_of_addresses_neither_fill_the_memory_nor_free_who_is_limited() {
        let (buckets, limit, now) = (Buckets::default(), limit("a", 1, 100), Instant::now());
        let mut passed = 0;
        for address in 0..2_000_000_u32 {
            if address % 1000 == 0 {
                passed += u32::from(buckets.take(&limit, client("192.0.2.1"), now).refused.is_none());
            }
            buckets.take(&limit, Whom::V4(address.wrapping_mul(0x9e37_79b1)), now);
        }
        let memory: usize = buckets.shards.iter().map(|shard| shard.lock().capacity() * size_of::<Set>()).sum();
        assert_eq!(memory, 4 << 20);
        assert!(passed <= 101, "{passed} of 2000 passed");
    }

    #[test]
    fn odd_limits_do_no_harm() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        for (rate, burst) in [(0, 0), (1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            for _ in 0..3 {
                buckets.take(&limit(&format!("{rate}/{burst}"), rate, burst), Whom::Local, now);
            }
        }
    }

    #[test]
    fn the_key_is_the_value_or_else_the_client() {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", HeaderValue::from_static("t1"));
        let claims = serde_json::json!({"sub": "alice", "plan": 7, "roles": ["a"]});
        let address = Some("192.0.2.1".parse().unwrap());
        let source = Some("spiffe://td/ns/default/dc/dc1/svc/web");
        let header = |name: &'static str| LimitKey::Header(HeaderName::from_static(name));
        for (key, expected) in [
            (LimitKey::Client, None),
            (LimitKey::Source, Some("spiffe://td/ns/default/dc/dc1/svc/web")),
            (header("x-tenant"), Some("t1")),
            (header("x-none"), None),
            (LimitKey::Claim("sub".into()), Some("alice")),
            (LimitKey::Claim("plan".into()), Some("7")),
            (LimitKey::Claim("roles".into()), None),
            (LimitKey::Claim("none".into()), None),
        ] {
            let mut text = String::new();
            let expected = expected.map_or(Whom::from(address), |value| Whom::Value(value.as_bytes()));
            assert_eq!(whom(&key, &headers, Some(&claims), source, address, &mut text), expected, "{key:?}");
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_again() {
        let standing = Standing { limit: 5, remaining: 0, reset: Duration::from_millis(2100), refused: Some(Duration::from_millis(1200)) };
        let Some(Refusal::Answer(answer)) = standing.refusal() else { panic!("no refusal") };
        let fields: Vec<String> = answer.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(fields, ["retry-after: 2", "x-rate-limit-limit: 5", "x-rate-limit-remaining: 0", "x-rate-limit-reset: 3"]);
        let mut head = ResponseHeader::build(429, None).unwrap();
        standing.tell(&mut head).unwrap();
        let told =
            ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"].map(|name| head.headers[name].to_str().unwrap().to_owned());
        assert_eq!((answer.status, told), (429, ["5", "0", "3"].map(str::to_owned)));
        assert_eq!(Standing { refused: None, ..standing }.refusal(), None);
    }
}
