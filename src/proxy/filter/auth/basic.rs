//! `Authorization: Basic` (RFC 7617).
//!
//! Checking bcrypt costs some 50 ms by design: it is done off the reactor, by few at once, and what stood is remembered for some minutes.

use std::{num::NonZero, sync::Arc, thread::available_parallelism, time::Instant};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, header::AUTHORIZATION};
use openssl::sha::{Sha256, sha256};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{after_scheme, attempts::Tries, lately::Lately, same, single, unauthorized};
use crate::{
    model::{
        ingress::auth::{Basic, Password},
        secret::Secret,
    },
    proxy::refusal::Answer,
};

/// Base64 with or without its padding.
const TOLERANT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Compares passwords with their hashes.
pub struct Passwords {
    /// Digests of user, password and hash that belong together: with another hash, nothing of the past counts.
    known: Mutex<Lately<[u8; 32]>>,
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        // The other cores are for those who need no password.
        let turns = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        Self { known: Mutex::default(), turns: Arc::new(Semaphore::new(turns)) }
    }
}

/// What a client shows.
struct Credentials {
    user: String,
    password: String,
}

/// Whether the request shows one of the users with their password.
///
/// # Errors
/// The answer.
pub async fn check(basic: &Basic, headers: &HeaderMap, passwords: &Passwords, tries: &Tries<'_>) -> Result<(), Answer> {
    let realm = basic.realm.replace(['\\', '"'], "");
    let refuse = |reason| unauthorized(reason, format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
    let shown = match single(headers, &AUTHORIZATION) {
        Ok(line) => line.and_then(|line| after_scheme(line, "Basic")).ok_or_else(|| refuse("auth_missing"))?,
        Err(_) => return Err(refuse("auth_ambiguous")),
    };
    let credentials = Credentials::read(shown);
    let name = credentials.as_ref().map_or(shown, |credentials| credentials.user.as_bytes());
    tries.begin(name)?;
    let right = match &credentials {
        Some(credentials) => passwords.are_right(basic, credentials, tries).await?,
        None => false,
    };
    if right {
        tries.stood(name);
        Ok(())
    } else {
        tries.failed(name);
        Err(refuse("auth_failed"))
    }
}

impl Credentials {
    /// Reads `user:password`; the first colon divides, since no user has one. Neither may have control characters (RFC 7617, section 2).
    fn read(shown: &[u8]) -> Option<Self> {
        let text = String::from_utf8(TOLERANT.decode(shown).ok()?).ok()?;
        let (user, password) = text.split_once(':').filter(|_| !text.contains(char::is_control))?;
        Some(Self { user: user.to_owned(), password: password.to_owned() })
    }

    fn digest(&self, hash: &Secret) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&*self.user, &*self.password, hash.expose()] {
            digest.update(&sha256(part.as_bytes()));
        }
        digest.finish()
    }
}

impl Passwords {
    /// Whether the user is one of ours and has this password. Where some passwords are hashed, every wrong answer costs a hash: who is unknown is not
    /// told by the time.
    ///
    /// # Errors
    /// 429: while this one waited for its turn, others of the client have failed too often.
    async fn are_right(&self, basic: &Basic, credentials: &Credentials, tries: &Tries<'_>) -> Result<bool, Answer> {
        let password = basic.users.iter().find(|(name, _)| **name == *credentials.user).map(|(_, password)| password);
        let (hash, is_theirs) = match password {
            Some(Password::Bcrypt(hash)) => (hash, true),
            Some(Password::Clear(clear)) if same(clear.expose().as_bytes(), credentials.password.as_bytes()) => return Ok(true),
            _ => match costliest(basic) {
                Some(hash) => (hash, false),
                None => return Ok(false),
            },
        };
        let digest = credentials.digest(hash);
        let is_known = || is_theirs && self.known.lock().has(&digest, Instant::now());
        if is_known() {
            return Ok(true);
        }
        let Ok(turn) = self.turns.clone().acquire_owned().await else { return Ok(false) };
        if is_known() {
            return Ok(true);
        }
        tries.begin(credentials.user.as_bytes())?;
        let (hash, password) = (hash.clone(), credentials.password.clone());
        let compared = spawn_blocking(move || {
            let _turn = turn;
            bcrypt::verify(password, hash.expose()).unwrap_or(false)
        });
        let right = compared.await.unwrap_or(false) && is_theirs;
        if right {
            self.known.lock().note(digest, Instant::now());
        }
        Ok(right)
    }
}

/// The hash whose comparison takes longest; its cost is the two digits of `$2b$12$…`.
fn costliest(basic: &Basic) -> Option<&Secret> {
    let hashes = basic.users.iter().filter_map(|(_, password)| match password {
        Password::Bcrypt(hash) => Some(hash),
        Password::Clear(_) => None,
    });
    hashes.max_by_key(|hash| hash.expose().get(4..6))
}
