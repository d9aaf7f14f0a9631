//! Who is asking: `authorization` of a route. One file a kind.
//!
//! A request that shows nothing is told what to show (401 with `WWW-Authenticate`); one that shows something wrong also counts as a failure of its
//! client (see `attempts`). What was shown is taken out of the request if the configuration says so, a token in the URL always.

mod api_key;
mod attempts;
mod basic;
mod forward;
pub mod jwt;
mod lately;

#[cfg(test)]
mod tests;

use std::time::{Instant, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use openssl::{memcmp, sha::sha256};
use pingora_core::Result as PingoraResult;
use pingora_http::RequestHeader;

use self::{attempts::Attempts, basic::Passwords, forward::AuthServers};
use super::{
    client::Client,
    jwt::{Verified, Verifier},
};
use crate::{
    model::ingress::{
        Ingress,
        auth::{Auth, AuthKind},
    },
    proxy::refusal::{Answer, Refusal},
};

/// What the authentication of all ingress listeners remembers; it outlives snapshots.
#[derive(Default)]
pub struct Authenticator {
    attempts: Attempts,
    passwords: Passwords,
    tokens: Verifier,
    servers: AuthServers,
}

/// A request that asks to be let in.
pub struct Asking<'a> {
    /// Its head; credentials are taken out of it.
    pub request: &'a mut RequestHeader,
    /// Its client.
    pub client: &'a Client,
    /// The listener.
    pub ingress: &'a Ingress,
    /// The port where it arrived.
    pub port: Option<u16>,
    /// When it arrived.
    pub wall: SystemTime,
}

impl Authenticator {
    /// Lets a request in or not; gives the tokens that stood.
    ///
    /// # Errors
    /// The answer: 401 with `WWW-Authenticate`, 429 after too many failures, what the auth server says, or 503 when it says nothing.
    pub async fn admit(&self, auth: &Auth, asking: &mut Asking<'_>) -> Result<Verified, Refusal> {
        let tries = self.attempts.of(auth, asking.client.address, Instant::now());
        let (mut verified, mut given) = Default::default();
        let shown_in = match &auth.kind {
            AuthKind::Basic(basic) => {
                basic::check(basic, &asking.request.headers, &self.passwords, &tries).await?;
                AUTHORIZATION
            }
            AuthKind::ApiKey(keys) => {
                api_key::check(keys, &asking.request.headers, &tries)?;
                api_key::HEADER
            }
            AuthKind::Jwt(jwt) => {
                verified = jwt::check(jwt, asking, &self.tokens, &tries)?;
                AUTHORIZATION
            }
            AuthKind::Forward(forward) => {
                given = self.servers.check(forward, asking, &tries).await?;
                AUTHORIZATION
            }
        };
        if auth.strip {
            asking.request.remove_header(&shown_in);
        }
        add(asking.request, given).map_err(|e| Refusal::Internal(e.to_string()))?;
        Ok(verified)
    }
}

fn add(request: &mut RequestHeader, fields: Vec<(HeaderName, HeaderValue)>) -> PingoraResult<()> {
    fields.into_iter().try_for_each(|(name, value)| request.append_header(name, value).map(|_| ()))
}

/// 401 with a challenge (RFC 9110, section 15.5.2).
fn unauthorized(reason: &'static str, challenge: impl TryInto<HeaderValue>) -> Answer {
    Answer::new(401, reason).header(WWW_AUTHENTICATE, challenge).body("unauthorized\n")
}

/// The one line of a field; an error when there are several, of which the server might believe another than we.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Ambiguous> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (_, Some(_)) => Err(Ambiguous),
        (line, None) => Ok(line.map(HeaderValue::as_bytes)),
    }
}

/// A field that may stand once stands there more often.
struct Ambiguous;

/// What follows the scheme's word, which is of any case (RFC 9110, section 11.1), and blanks; `None` for another scheme, or when nothing follows.
fn after_scheme<'a>(field: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (word, rest) = field.split_at_checked(scheme.len())?;
    let is_word = word.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    is_word.then(|| rest.trim_ascii()).filter(|rest| !rest.is_empty())
}

/// Whether two secrets are the same, in a time that tells neither their lengths nor where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    memcmp::eq(&sha256(one), &sha256(other))
}
