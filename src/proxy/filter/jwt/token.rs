//! One token (RFC 7515 compact form, RFC 7519 claims): read, and held against what its provider wants.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use crate::model::jwt::{KeySet, ProviderEntry, Unverified};

/// The longest token that is looked into, bytes: several times what an issuer with many groups makes.
pub const LONGEST: usize = 16 << 10;

/// Why a provider's token does not stand. Nothing of a token is repeated: these words reach logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is none where the provider's tokens are.
    #[error("no token")]
    Missing,
    /// There are too many to look at.
    #[error("more than {0} tokens")]
    TooMany(usize),
    /// It is too long to look into.
    #[error("longer than {} KiB", LONGEST >> 10)]
    TooLong,
    /// It is not of the form of tokens.
    #[error("not a token: {0}")]
    Malformed(&'static str),
    /// Somebody else issued it.
    #[error("its issuer is not {0}")]
    Issuer(Arc<str>),
    /// It is meant for somebody else.
    #[error("audience: it is not for {0}")]
    Audience(String),
    /// Its time is over, since that many seconds.
    #[error("expired {0} s ago")]
    Expired(u64),
    /// Its time has not come, for that many seconds.
    #[error("not valid for another {0} s")]
    NotYet(u64),
    /// The provider has no keys.
    #[error("the provider has no keys: {0}")]
    NoKeys(Arc<str>),
    /// No intention of the listener names such a provider, or there is no such entry.
    #[error("there is no such provider")]
    NoProvider,
    /// Its signature does not stand.
    #[error(transparent)]
    Unverified(#[from] Unverified),
}

/// A token's protected header, as far as it is understood.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What a reader must understand, whatever it is: we understand nothing beside the above (RFC 7515, section 4.1.11).
    crit: Option<Value>,
}

/// What a verified token claims.
pub struct Claims {
    /// The claims, an object.
    pub value: Value,
    /// The token's middle part as it came, base64url without padding.
    pub encoded: Box<str>,
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<claims>")
    }
}

impl Claims {
    /// Reads a token and verifies all that does not depend on the time.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn verify(token: &[u8], entry: &ProviderEntry, keys: &KeySet) -> Result<Self, Rejected> {
        let text = str::from_utf8(token).map_err(|_| Rejected::Malformed("not of text"))?;
        let three_parts = || {
            let (signed, signature) = text.rsplit_once('.')?;
            let (header, payload) = signed.split_once('.')?;
            Some((signed, header, payload, signature))
        };
        let (signed, header, payload, signature) = three_parts().ok_or(Rejected::Malformed("not of three parts"))?;
        let decode = |part| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed("not base64url"));
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Rejected::Malformed("its header is not read"))?;
        if header.crit.is_some() {
            return Err(Rejected::Malformed("its header has crit"));
        }
        let value: Value = serde_json::from_slice(&decode(payload)?).map_err(|_| Rejected::Malformed("its claims are not JSON"))?;
        let claims = Self { value, encoded: payload.into() };
        claims.are_for(entry)?;
        keys.verify(&header.alg, header.kid.as_deref(), signed.as_bytes(), &decode(signature)?)?;
        Ok(claims)
    }

    /// Issuer and audience.
    fn are_for(&self, entry: &ProviderEntry) -> Result<(), Rejected> {
        let is_claim = |name, wanted: &str| match self.value.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(texts)) => name == "aud" && texts.iter().any(|text| text == wanted),
            _ => false,
        };
        if !entry.issuer.is_empty() && !is_claim("iss", &entry.issuer) {
            return Err(Rejected::Issuer(entry.issuer.clone()));
        }
        if !entry.audiences.is_empty() && !entry.audiences.iter().any(|audience| is_claim("aud", audience)) {
            return Err(Rejected::Audience(entry.audiences.join(" or ")));
        }
        Ok(())
    }

    /// Whether the token's time is now, within the provider's tolerance. A claim that is absent limits nothing, as in Envoy.
    ///
    /// # Errors
    /// [`Rejected::Expired`], [`Rejected::NotYet`], or a time that is no number.
    pub fn are_timely(&self, entry: &ProviderEntry, now: f64) -> Result<(), Rejected> {
        let skew = entry.clock_skew.as_secs_f64();
        let time = |name| match self.value.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(Rejected::Malformed("a time is not a number")),
        };
        match (time("nbf")?, time("exp")?) {
            // A cast of a float saturates.
            (Some(begin), _) if begin > now + skew => Err(Rejected::NotYet((begin - now) as u64)),
            (_, Some(end)) if now > end + skew => Err(Rejected::Expired((now - end) as u64)),
            _ => Ok(()),
        }
    }
}
