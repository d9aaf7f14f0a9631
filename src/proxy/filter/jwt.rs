//! Tokens of requests: found, verified, taken out, and told to the app.
//!
//! Nothing here refuses a request: intentions ask [`Verified`] what a token claims. Where a provider's locations hold several tokens, all
//! must stand, and the first in the order of the locations speaks: were one enough, the app might believe another.

mod cache;
pub(super) mod locate;
mod token;

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use openssl::sha::sha256;
use parking_lot::Mutex;
use pingora_core::Result;
use pingora_http::RequestHeader;
use serde_json::Value;

pub use self::token::Rejected;
use self::{
    cache::Cache,
    token::{Claims, LONGEST},
};
use crate::model::{
    jwt::{Location, Provider, Providers, Tokens},
    matching::RequestView,
};

/// The most tokens of one provider that are looked at in one request.
const MOST: usize = 8;

/// Verifies the tokens of a listener's requests, and remembers those that stood. It outlives snapshots; what other keys verified it forgets.
#[derive(Default)]
pub struct Verifier {
    caches: Mutex<HashMap<Arc<str>, Cache>>,
}

/// What became of a provider's token.
type Outcome = Result<Arc<Claims>, Rejected>;

/// What became of each provider's token in one request.
#[derive(Debug, Default)]
pub struct Verified {
    outcomes: Vec<(Arc<Provider>, Outcome)>,
}

impl Verifier {
    /// Verifies a request's tokens of all providers, at the time `now`.
    pub fn verify(&self, providers: &Providers, request: &RequestView<'_>, now: SystemTime) -> Verified {
        let tokens = |provider: &Provider| -> Vec<_> {
            provider.entry.locations.iter().flat_map(|location| locate::tokens(location, request)).take(MOST + 1).collect()
        };
        let now = seconds(now);
        let outcomes = providers.values().map(|provider| (provider.clone(), self.judge(provider, &tokens(provider), now))).collect();
        Verified { outcomes }
    }

    /// Verifies these tokens of one provider, at the time `now`.
    pub fn verify_tokens(&self, provider: &Arc<Provider>, tokens: &[Cow<'_, [u8]>], now: SystemTime) -> Verified {
        Verified { outcomes: vec![(provider.clone(), self.judge(provider, tokens, seconds(now)))] }
    }

    fn judge(&self, provider: &Arc<Provider>, tokens: &[Cow<'_, [u8]>], now: f64) -> Outcome {
        if tokens.len() > MOST {
            return Err(Rejected::TooMany(MOST));
        }
        let mut first = Err(Rejected::Missing);
        for token in tokens {
            let claims = self.claims(provider, token)?;
            claims.are_timely(&provider.entry, now)?;
            first = first.or(Ok(claims));
        }
        first
    }

    /// The claims of a token that stands but for its times.
    fn claims(&self, provider: &Arc<Provider>, token: &[u8]) -> Outcome {
        if token.len() > LONGEST {
            return Err(Rejected::TooLong);
        }
        let keys = provider.keys.as_ref().map_err(|why| Rejected::NoKeys(why.clone()))?;
        let digest = sha256(token);
        if let Some(claims) = self.cached(provider, |cache| cache.get(&digest)) {
            return Ok(claims);
        }
        let claims = Arc::new(Claims::verify(token, &provider.entry, keys)?);
        self.cached(provider, |cache| cache.put(digest, claims.clone()));
        Ok(claims)
    }

    fn cached<T>(&self, provider: &Arc<Provider>, act: impl FnOnce(&mut Cache) -> T) -> T {
        let mut caches = self.caches.lock();
        let cache = caches.entry(provider.entry.name.clone()).or_insert_with(|| Cache::new(provider.clone()));
        if !cache.is_of(provider) {
            *cache = Cache::new(provider.clone());
        }
        act(cache)
    }
}

fn seconds(now: SystemTime) -> f64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Verified {
    /// Why a provider's token does not stand; `None` if it does.
    pub fn why(&self, provider: &str) -> Option<&Rejected> {
        match self.outcomes.iter().find(|(p, _)| *p.entry.name == *provider) {
            Some((_, outcome)) => outcome.as_ref().err(),
            None => Some(&Rejected::NoProvider),
        }
    }

    /// Why tokens do not stand, one after the other by provider; empty when nothing is wrong. Nothing of a token is in it.
    pub fn problems(&self) -> String {
        let problem = |(provider, outcome): &(Arc<Provider>, Result<Arc<Claims>, Rejected>)| {
            outcome.as_ref().err().map(|why| format!("{}: {why}", provider.entry.name))
        };
        self.outcomes.iter().filter_map(problem).collect::<Vec<_>>().join("; ")
    }

    /// Prepares the request for the app: nobody but us speaks of verified tokens, those that stood are taken out unless their location
    /// says otherwise, and the app is told what they claim.
    ///
    /// A token in a cookie stays, as with Envoy: the cookie is the app's own.
    ///
    /// # Errors
    /// When a header cannot be written, which no input can cause.
    pub fn apply(&self, request: &mut RequestHeader) -> Result<()> {
        for forwarding in self.outcomes.iter().filter_map(|(provider, _)| provider.entry.forwarding.as_ref()) {
            request.remove_header(&forwarding.header);
        }
        for (provider, outcome) in &self.outcomes {
            let Ok(claims) = outcome else { continue };
            let locations = &provider.entry.locations;
            let forward = locations.iter().any(|location| matches!(location, Location::Header { forward: true, .. }));
            for location in locations {
                match location {
                    Location::Header { name, prefix, forward: false } if locate::is_in_header(&request.headers, name, prefix) => {
                        request.remove_header(name);
                    }
                    Location::Query(name) if !forward => {
                        if let Some(uri) = locate::without_parameter(&request.uri, name) {
                            request.set_uri(uri);
                        }
                    }
                    Location::Header { .. } | Location::Query(_) | Location::Cookie(_) => {}
                }
            }
            if let Some(forwarding) = &provider.entry.forwarding {
                let padding = if forwarding.padded { (4 - claims.encoded.len() % 4) % 4 } else { 0 };
                request.insert_header(forwarding.header.clone(), format!("{}{}", claims.encoded, "=".repeat(padding)))?;
            }
        }
        Ok(())
    }
}

impl Tokens for Verified {
    fn claims(&self, provider: &str) -> Option<&Value> {
        let (_, outcome) = self.outcomes.iter().find(|(p, _)| *p.entry.name == *provider)?;
        outcome.as_ref().ok().map(|claims| &claims.value)
    }
}
