//! Tokens that were verified lately. Who asks again pays a hash instead of a signature.

use std::{collections::HashMap, mem, sync::Arc};

use super::token::Claims;
use crate::model::jwt::Provider;

/// SHA-256 of a token: the token itself is not kept.
pub type Digest = [u8; 32];

/// The verified tokens of one provider with one set of keys, in two generations: when the young one is full it becomes the old one, and
/// what nobody asked for since is forgotten.
pub struct Cache {
    provider: Arc<Provider>,
    young: HashMap<Digest, Arc<Claims>>,
    old: HashMap<Digest, Arc<Claims>>,
}

impl Cache {
    /// An empty one.
    pub fn new(provider: Arc<Provider>) -> Self {
        Self { provider, young: HashMap::new(), old: HashMap::new() }
    }

    /// Whether what it holds was verified for this provider with these keys.
    pub fn is_of(&self, provider: &Arc<Provider>) -> bool {
        Arc::ptr_eq(&self.provider, provider)
    }

    /// The claims of a token.
    pub fn get(&mut self, digest: &Digest) -> Option<Arc<Claims>> {
        if let Some(claims) = self.young.get(digest) {
            return Some(claims.clone());
        }
        let claims = self.old.remove(digest)?;
        self.put(*digest, claims.clone());
        Some(claims)
    }

    /// Remembers the claims of a token.
    pub fn put(&mut self, digest: Digest, claims: Arc<Claims>) {
        let half = self.provider.entry.cache_size.div_ceil(2);
        if half == 0 {
            return;
        }
        if self.young.len() >= half {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(digest, claims);
    }

    /// How many it holds.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
