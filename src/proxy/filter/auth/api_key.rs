//! `x-api-key`.

use http::{HeaderMap, HeaderName};

use super::{attempts::Tries, same, single, unauthorized};
use crate::{model::secret::Secret, proxy::refusal::Answer};

/// Where the key is.
pub const HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// There is no registered scheme for keys; the answer must have a challenge all the same.
const CHALLENGE: &str = "ApiKey realm=\"aralez\"";

/// Whether the request shows one of the keys. All are compared, so that the time does not tell which; an empty one is no key, whatever is configured.
///
/// # Errors
/// The answer.
pub fn check(keys: &[Secret], headers: &HeaderMap, tries: &Tries<'_>) -> Result<(), Answer> {
    let shown = match single(headers, &HEADER) {
        Ok(Some(shown)) if !shown.is_empty() => shown,
        Ok(_) => return Err(unauthorized("auth_missing", CHALLENGE)),
        Err(_) => return Err(unauthorized("auth_ambiguous", CHALLENGE)),
    };
    tries.begin(shown)?;
    if keys.iter().fold(false, |found, key| found | same(key.expose().as_bytes(), shown)) {
        tries.stood(shown);
        Ok(())
    } else {
        tries.failed(shown);
        Err(unauthorized("auth_failed", CHALLENGE))
    }
}
