//! The master key: who may change what is served.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use axum::{
    extract::Query,
    http::{
        HeaderMap, HeaderName, StatusCode, Uri,
        header::{AUTHORIZATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use openssl::{memcmp, sha::sha256};
use parking_lot::Mutex;

use crate::model::secret::Secret;

/// The header for keys.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Wrong keys that one address may send in a [`WINDOW`]; after that even the right one is refused from there until the window ends.
const MOST_WRONG: u32 = 10;

/// How long a wrong key counts.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose wrong keys are counted apart; beyond, all new ones share a count.
const MOST_ADDRESSES: usize = 1024;

/// The master key, and who guessed wrong of late.
pub struct MasterKey {
    digest: Option<[u8; 32]>,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

struct Wrong {
    count: u32,
    since: Instant,
}

/// Why a key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no master key.
    Unset,
    /// The request has none.
    Absent,
    /// It is another.
    Wrong,
    /// Too many wrong ones came from there.
    TooMany(Duration),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let why = match self {
            Self::Unset => "Access Denied ! main.yaml sets no master_key\n",
            Self::Absent => "Access Denied ! The master key is missing: send it as Authorization: Bearer\n",
            Self::Wrong => "Access Denied !\n",
            Self::TooMany(wait) => {
                let wait = [(RETRY_AFTER, (wait.as_secs() + 1).to_string())];
                return (StatusCode::TOO_MANY_REQUESTS, wait, "Access Denied ! Too many wrong keys\n").into_response();
            }
        };
        (StatusCode::FORBIDDEN, why).into_response()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("set", &self.digest.is_some()).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// For a key; without one, or with an empty one, nobody gets in.
    pub fn new(key: Option<&Secret>) -> Self {
        let key = key.filter(|key| !key.expose().is_empty());
        Self { digest: key.map(|key| sha256(key.expose().as_bytes())), wrong: Mutex::default() }
    }

    /// Whether a request from an address carries the key.
    pub(super) fn judge(&self, peer: IpAddr, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let digest = self.digest.ok_or(Refusal::Unset)?;
        let shown = shown(headers, uri).ok_or(Refusal::Absent)?;
        // Digests, so that neither time nor length tell anything of the key.
        self.count(peer, memcmp::eq(&digest, &sha256(&shown)))
    }

    /// What becomes of a key from an address that is right or not.
    pub(super) fn count(&self, peer: IpAddr, right: bool) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut wrong = self.wrong.lock();
        wrong.retain(|_, wrong| now.duration_since(wrong.since) < WINDOW);
        let known = network(peer);
        let counted = if wrong.len() < MOST_ADDRESSES || wrong.contains_key(&known) { known } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        if let Some(Wrong { since, .. }) = wrong.get(&counted).filter(|wrong| wrong.count >= MOST_WRONG) {
            return Err(Refusal::TooMany(WINDOW.saturating_sub(now.duration_since(*since))));
        }
        if right {
            return Ok(());
        }
        wrong.entry(counted).or_insert(Wrong { count: 0, since: now }).count += 1;
        tracing::warn!(%peer, "a wrong key at the configuration API");
        Err(Refusal::Wrong)
    }
}

/// Who counts as one: an address of IPv4, a /64 of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// The key that a request shows: the first of `Authorization: Bearer`, `x-api-key` and `?key=`.
fn shown(headers: &HeaderMap, uri: &Uri) -> Option<Vec<u8>> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii().to_vec())
    });
    let header = || headers.get(API_KEY).map(|value| value.as_bytes().to_vec());
    let query = || Query::<HashMap<String, String>>::try_from_uri(uri).ok()?.0.remove("key").map(String::into_bytes);
    bearer.or_else(header).or_else(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn judge(key: Option<&str>, headers: &[(&str, &str)], uri: &str) -> Result<(), Refusal> {
        let headers = headers.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect();
        MasterKey::new(key.map(Secret::new).as_ref()).judge(PEER, &headers, &uri.parse().unwrap())
    }

    #[test]
    fn the_key_is_taken_in_three_places_and_no_other() {
        for (headers, uri, verdict) in [
            (vec![("authorization", "Bearer k-1")], "/conf", Ok(())),
            (vec![("authorization", "bearer  k-1 ")], "/conf", Ok(())),
            (vec![("x-api-key", "k-1")], "/conf", Ok(())),
            (vec![], "/conf?key=k-1", Ok(())),
            (vec![], "/conf?save&key=k%2D1", Ok(())),
            (vec![], "/conf", Err(Refusal::Absent)),
            (vec![("authorization", "Basic k-1")], "/conf", Err(Refusal::Absent)),
            (vec![("cookie", "key=k-1")], "/conf", Err(Refusal::Absent)),
            (vec![("authorization", "Bearer k-")], "/conf", Err(Refusal::Wrong)),
            (vec![("authorization", "Bearer k-11")], "/conf", Err(Refusal::Wrong)),
            (vec![("x-api-key", "")], "/conf", Err(Refusal::Wrong)),
            // The first one counts: nobody hides a guess behind a right one.
            (vec![("authorization", "Bearer no"), ("x-api-key", "k-1")], "/conf", Err(Refusal::Wrong)),
        ] {
            assert_eq!(judge(Some("k-1"), &headers, uri), verdict, "{headers:?} {uri}");
        }
    }

    #[test]
    fn without_a_key_nobody_gets_in() {
        for key in [None, Some("")] {
            assert_eq!(judge(key, &[("x-api-key", "")], "/conf?key="), Err(Refusal::Unset));
        }
    }

    #[test]
    fn guessing_ends_for_the_address_that_guesses() {
        let key = MasterKey::new(Some(&Secret::new("k-1")));
        let other: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..MOST_WRONG {
            assert_eq!(key.count(PEER, false), Err(Refusal::Wrong));
        }
        assert!(matches!(key.count(PEER, true), Err(Refusal::TooMany(_))));
        assert_eq!(key.count(other, true), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_guesser_and_the_table_is_bounded() {
        let key = MasterKey::new(Some(&Secret::new("k-1")));
        for n in 0..MOST_WRONG {
            assert_eq!(key.count(format!("2001:db8::{n:x}").parse().unwrap(), false), Err(Refusal::Wrong));
        }
        assert!(matches!(key.count("2001:db8::ffff".parse().unwrap(), true), Err(Refusal::TooMany(_))));
        for n in 0..2000_u32 {
            let _ = key.count(IpAddr::from(n.to_be_bytes()), false);
        }
        assert!(key.wrong.lock().len() <= MOST_ADDRESSES + 1);
    }
}
