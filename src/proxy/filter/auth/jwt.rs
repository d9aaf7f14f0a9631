//! Tokens: `Authorization: Bearer`, then `araleztoken=` in the URL (RFC 6750).

use std::borrow::Cow;

use http::Uri;

use super::{Asking, after_scheme, attempts::Tries, unauthorized};
use crate::{
    model::{
        ingress::auth::JwtAuth,
        jwt::{Location, Tokens, Unverified},
        matching::RequestView,
    },
    proxy::{
        filter::jwt::{Rejected, Verified, Verifier, locate},
        gate,
        refusal::Answer,
    },
};

/// The query parameter of tokens.
const PARAMETER: &str = "araleztoken";

/// A request's target without the token that may stand in it, for logs; `None` if there is none.
pub fn without_token(uri: &Uri) -> Option<String> {
    let uri = locate::without_parameter(uri, PARAMETER)?;
    Some(uri.path_and_query()?.to_string())
}

/// Verifies the request's token: of the places where tokens may be, the first that holds one decides. It is taken out of the URL.
///
/// # Errors
/// The answer.
pub fn check(jwt: &JwtAuth, asking: &mut Asking<'_>, verifier: &Verifier, tries: &Tries<'_>) -> Result<Verified, Answer> {
    let Some(provider) = asking.ingress.providers.get(&jwt.provider) else {
        return Err(Answer::new(503, "auth_unavailable").body("authentication is not available\n"));
    };
    let locations = &provider.entry.locations;
    let view = gate::view(asking.request);
    let tokens = locations.iter().map(|location| tokens(location, &view)).find(|tokens| !tokens.is_empty()).unwrap_or_default();
    let [token] = &*tokens else {
        return Err(if tokens.is_empty() {
            unauthorized("auth_missing", "Bearer realm=\"aralez\"")
        } else {
            invalid("auth_ambiguous", "there is more than one token")
        });
    };
    tries.begin(token)?;
    let verified = verifier.verify_tokens(provider, &tokens, asking.wall);
    let name = &provider.entry.name;
    match verified.why(name) {
        None if verified.claims(name).and_then(|claims| claims.get("exp")).is_none() => {
            return Err(invalid("auth_failed", "the token never expires"));
        }
        None => tries.stood(token),
        Some(why) => {
            tracing::debug!(provider = %name, "the token does not stand: {why}");
            return Err(match why {
                // It was issued to somebody: this is no guess.
                Rejected::Expired(_) => invalid("auth_expired", "the token has expired"),
                Rejected::NotYet(_) => invalid("auth_expired", "the token is not valid yet"),
                // The issuer may have newer keys than we: its clients must not be shut out for it.
                Rejected::NoKeys(_) | Rejected::Unverified(Unverified::UnknownKey) => {
                    invalid("auth_no_keys", "the token cannot be verified at present")
                }
                _ => {
                    tries.failed(token);
                    invalid("auth_failed", "the token is not valid")
                }
            });
        }
    }
    for location in locations {
        if let Location::Query(name) = location
            && let Some(uri) = locate::without_parameter(&asking.request.uri, name)
        {
            asking.request.set_uri(uri);
        }
    }
    Ok(verified)
}

/// The tokens at a location. `Bearer` is a scheme, so its case does not matter, unlike that of a prefix in the mesh.
fn tokens<'a>(location: &Location, request: &RequestView<'a>) -> Vec<Cow<'a, [u8]>> {
    match location {
        Location::Header { name, prefix, .. } if prefix.ends_with(' ') => {
            let lines = request.headers.get_all(name).iter();
            lines.filter_map(|line| after_scheme(line.as_bytes(), prefix.trim_end())).map(Cow::Borrowed).collect()
        }
        _ => locate::tokens(location, request),
    }
}

/// 401 as RFC 6750 writes it (section 3.1).
fn invalid(reason: &'static str, description: &str) -> Answer {
    unauthorized(reason, format!("Bearer realm=\"aralez\", error=\"invalid_token\", error_description=\"{description}\""))
}
