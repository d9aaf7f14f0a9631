//! Failures of clients, so that nobody guesses at leisure.
//!
//! They are counted by scope and client (IPv6 by its /64), for a minute from the first one on. A client with as many as the scope allows gets 429 for
//! the rest of that minute, in that scope only, and nothing that it shows is looked at. Except: who stood from that client lately (a user name, a key,
//! a token) is still looked at, so that a neighbour behind the same address cannot shut them out, as long as not that very name has as many failures.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use http::header::RETRY_AFTER;
use parking_lot::Mutex;

use super::lately::Lately;
use crate::{model::ingress::auth::Auth, proxy::refusal::Answer};

/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);

/// The most clients and names that are counted; when there are more, those of old go first, and then all.
const MOST: usize = 1 << 16;

/// The failures of all scopes.
#[derive(Default)]
pub struct Attempts {
    /// Keyed, so that no client can choose whom it shares a counter with.
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: HashMap<u64, (Instant, u32)>,
    stood: Lately<u64>,
}

/// The attempts of a client in a scope.
pub struct Tries<'a> {
    attempts: &'a Attempts,
    /// `None`: they are not counted.
    limit: Option<u32>,
    scope: &'a str,
    client: Option<IpAddr>,
    now: Instant,
}

impl Attempts {
    /// Those of this client where `auth` is asked for.
    pub fn of<'a>(&'a self, auth: &'a Auth, client: Option<IpAddr>, now: Instant) -> Tries<'a> {
        Tries { attempts: self, limit: auth.failures, scope: &auth.scope, client: client.map(network), now }
    }
}

impl Tries<'_> {
    /// Whether what is shown in this name is looked at.
    ///
    /// # Errors
    /// 429 with `Retry-After`.
    pub fn begin(&self, name: &[u8]) -> Result<(), Answer> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut state = self.attempts.state.lock();
        let Some(left) = state.blocked(self.key(None), limit, self.now) else { return Ok(()) };
        let named = self.key(Some(name));
        if state.stood.has(&named, self.now) && state.blocked(named, limit, self.now).is_none() {
            return Ok(());
        }
        let seconds = left.as_secs_f64().ceil();
        Err(Answer::new(429, "auth_blocked").header(RETRY_AFTER, seconds.to_string()).body("too many failed attempts\n"))
    }

    /// It was right.
    pub fn stood(&self, name: &[u8]) {
        if self.limit.is_some() {
            let key = self.key(Some(name));
            self.attempts.state.lock().stood.note(key, self.now);
        }
    }

    /// It was wrong.
    pub fn failed(&self, name: &[u8]) {
        tracing::debug!(scope = self.scope, client = ?self.client, "authentication failed");
        if self.limit.is_some() {
            let keys = [self.key(None), self.key(Some(name))];
            let mut state = self.attempts.state.lock();
            keys.into_iter().for_each(|key| state.failed(key, self.now));
        }
    }

    fn key(&self, name: Option<&[u8]>) -> u64 {
        self.attempts.hasher.hash_one((self.scope, self.client, name))
    }
}

impl State {
    /// For how long whoever this is has too many failures; `None` if they have not.
    fn blocked(&self, key: u64, limit: u32, now: Instant) -> Option<Duration> {
        let (begun, failures) = self.failures.get(&key)?;
        let left = WINDOW.checked_sub(now.saturating_duration_since(*begun)).filter(|left| !left.is_zero())?;
        (*failures >= limit).then_some(left)
    }

    fn failed(&mut self, key: u64, now: Instant) {
        let current = |begun: &Instant| now.saturating_duration_since(*begun) < WINDOW;
        if self.failures.len() >= MOST && !self.failures.contains_key(&key) {
            self.failures.retain(|_, (begun, _)| current(begun));
            if self.failures.len() >= MOST {
                self.failures.clear();
            }
        }
        let (begun, failures) = self.failures.entry(key).or_insert((now, 0));
        if !current(begun) {
            (*begun, *failures) = (now, 0);
        }
        *failures = failures.saturating_add(1);
    }
}

/// One customer has a whole /64 of IPv6 (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ingress::auth::AuthKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn auth(scope: &str, failures: Option<u32>) -> Auth {
        Auth { scope: scope.into(), kind: AuthKind::ApiKey(Vec::new()), strip: false, failures }
    }

    #[test]
    fn failures_block_their_client_in_their_scope_for_the_rest_of_a_minute() {
        let (attempts, shop) = (Attempts::default(), auth("shop", Some(3)));
        let begun = Instant::now();
        let tries = |client: &str, after: Duration| attempts.of(&shop, client.parse().ok(), begun + after);
        let may = |client: &str, after: Duration| tries(client, after).begin(b"k").is_ok();
        for nth in 0..3 {
            assert!(may("2001:db8::1", nth * SECOND));
            tries("2001:db8::1", nth * SECOND).failed(b"k");
        }
        assert!(!may("2001:db8::1", 3 * SECOND) && !may("2001:db8::ffff:2", 3 * SECOND), "the same /64");
        assert!(may("2001:db8:0:1::1", 3 * SECOND) && may("192.0.2.1", 3 * SECOND) && may("", 3 * SECOND));
        let answer = tries("2001:db8::1", 20 * SECOND).begin(b"k").unwrap_err();
        assert_eq!((answer.status, answer.headers[0].1.to_str().unwrap()), (429, "40"));
        assert!(attempts.of(&auth("other", Some(3)), "2001:db8::1".parse().ok(), begun).begin(b"k").is_ok());
        assert!(!may("2001:db8::1", 59 * SECOND) && may("2001:db8::1", 60 * SECOND));
        tries("2001:db8::1", 60 * SECOND).failed(b"k");
        assert!(may("2001:db8::1", 61 * SECOND), "a new minute");
    }

    #[test]
    fn who_stood_lately_passes_a_blocked_address_but_may_not_be_guessed() {
        let (attempts, basic) = (Attempts::default(), auth("shop", Some(2)));
        let tries = attempts.of(&basic, "192.0.2.1".parse().ok(), Instant::now());
        tries.stood(b"anna");
        tries.failed(b"x");
        tries.failed(b"y");
        assert!(tries.begin(b"anna").is_ok() && tries.begin(b"bob").is_err());
        tries.failed(b"anna");
        assert!(tries.begin(b"anna").is_ok());
        tries.failed(b"anna");
        assert!(tries.begin(b"anna").is_err());
        let elsewhere = attempts.of(&basic, "192.0.2.2".parse().ok(), Instant::now());
        assert!(elsewhere.begin(b"anna").is_ok() && elsewhere.begin(b"bob").is_ok());
    }

    #[test]
    fn without_a_limit_nothing_is_kept_and_with_one_it_is_bounded() {
        let (attempts, free) = (Attempts::default(), auth("shop", None));
        let tries = attempts.of(&free, None, Instant::now());
        (0..100).for_each(|_| tries.failed(b"k"));
        assert!(tries.begin(b"k").is_ok() && attempts.state.lock().failures.is_empty());
        let limited = auth("shop", Some(1));
        let tries = attempts.of(&limited, None, Instant::now());
        (0..MOST + 10).for_each(|nth| tries.failed(&nth.to_le_bytes()));
        assert!(attempts.state.lock().failures.len() <= MOST);
    }
}
