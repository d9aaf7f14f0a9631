//! L7 permissions and token requirements. Consul checks most of this when it is written, but not expressions, header names and empty
//! token requirements.

use consul_api_types::{HeaderPermission, HttpPermission, JwtRequiredProvider, JwtRequirement as WireJwt, Permission as Wire, VerifyClaim};
use std::sync::Arc;

use http::{HeaderName, Method};

use super::{action, in_list, nothing_unknown};
use crate::model::{
    intention::Permission,
    jwt::{ClaimTest, JwtRequirement, RequiredToken},
    matching::{HeaderMatch, PathMatch, Regex, TextMatch},
};

/// # Errors
/// What is not understood, with the path of the field.
pub fn permission(wire: &Wire) -> Result<Permission, String> {
    nothing_unknown(&wire.unknown)?;
    let action = action(&wire.action)?;
    let jwt = jwt(wire.jwt.as_ref())?;
    let within = |why| format!("HTTP.{why}");
    let http = wire.http.as_ref().filter(|http| **http != HttpPermission::default()).ok_or("HTTP is missing or empty")?;
    nothing_unknown(&http.unknown).map_err(within)?;
    let path = path(http).map_err(within)?;
    let headers = http.header.iter().enumerate().map(|(at, wire)| header(wire).map_err(in_list("Header", at)));
    let headers = headers.collect::<Result<_, _>>().map_err(within)?;
    let methods = http.methods.iter().map(|text| method(text)).collect::<Result<_, _>>().map_err(within)?;
    Ok(Permission { action, path, headers, methods, jwt })
}

fn path(wire: &HttpPermission) -> Result<Option<PathMatch>, String> {
    let text = match (wire.path_exact.as_str(), wire.path_prefix.as_str(), wire.path_regex.as_str()) {
        ("", "", "") => return Ok(None),
        (exact, "", "") => TextMatch::Exact(exact.into()),
        ("", prefix, "") => TextMatch::Prefix(prefix.into()),
        ("", "", regex) => TextMatch::Regex(Regex::parse(regex).map_err(|why| format!("PathRegex: {why}"))?),
        _ => return Err("PathExact, PathPrefix, PathRegex: at most one may be set".to_owned()),
    };
    Ok(Some(PathMatch { text, ignore_case: false }))
}

fn method(text: &str) -> Result<Arc<str>, String> {
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(upper.as_bytes()) {
        Ok(_) => Ok(upper.into()),
        Err(_) => Err(format!("Methods: {text:?} is no method")),
    }
}

/// The test with a text as its argument.
type TextTest = fn(Arc<str>) -> TextMatch;

fn header(wire: &HeaderPermission) -> Result<HeaderMatch, String> {
    nothing_unknown(&wire.unknown)?;
    let name = wire.name.to_ascii_lowercase();
    if !matches!(name.as_str(), ":authority" | ":method" | ":path") && HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("Name: {:?} is no header", wire.name));
    }
    let HeaderPermission { present, exact, prefix, suffix, contains, regex, ignore_case, invert, .. } = wire;
    let one_of = || "exactly one of Present, Exact, Prefix, Suffix, Contains and Regex must be set".to_owned();
    let texts: [(&String, TextTest); 4] =
        [(exact, TextMatch::Exact), (prefix, TextMatch::Prefix), (suffix, TextMatch::Suffix), (contains, TextMatch::Contains)];
    let mut tests = Vec::new();
    tests.extend(present.then_some(None));
    tests.extend(texts.into_iter().filter(|(text, _)| !text.is_empty()).map(|(text, test)| Some(test(text.as_str().into()))));
    if !regex.is_empty() {
        tests.push(Some(TextMatch::Regex(Regex::parse(regex).map_err(|why| format!("Regex: {why}"))?)));
    }
    let [value] = <[_; 1]>::try_from(tests).map_err(|_| one_of())?;
    if *ignore_case && matches!(value, None | Some(TextMatch::Regex(_))) {
        return Err("IgnoreCase goes with Exact, Prefix, Suffix or Contains only".to_owned());
    }
    Ok(HeaderMatch { name: name.into(), value, ignore_case: *ignore_case, invert: *invert })
}

/// # Errors
/// What is not understood, with the path of the field. A requirement without a provider is refused: it cannot be met.
pub fn jwt(wire: Option<&WireJwt>) -> Result<Option<JwtRequirement>, String> {
    let Some(wire) = wire else { return Ok(None) };
    let within = |why| format!("JWT.{why}");
    nothing_unknown(&wire.unknown).map_err(within)?;
    if wire.providers.is_empty() {
        return Err("JWT.Providers is empty".to_owned());
    }
    let providers = wire.providers.iter().enumerate().map(|(at, wire)| token(wire).map_err(in_list("Providers", at)));
    Ok(Some(JwtRequirement { providers: providers.collect::<Result<_, _>>().map_err(within)? }))
}

fn token(wire: &JwtRequiredProvider) -> Result<RequiredToken, String> {
    nothing_unknown(&wire.unknown)?;
    if wire.name.is_empty() {
        return Err("Name is empty".to_owned());
    }
    let claims = wire.verify_claims.iter().enumerate().map(|(at, wire)| claim(wire).map_err(in_list("VerifyClaims", at)));
    Ok(RequiredToken { provider: wire.name.as_str().into(), claims: claims.collect::<Result<_, _>>()? })
}

fn claim(wire: &VerifyClaim) -> Result<ClaimTest, String> {
    nothing_unknown(&wire.unknown)?;
    if wire.path.is_empty() {
        return Err("Path is empty".to_owned());
    }
    Ok(ClaimTest { path: wire.path.iter().map(|key| key.as_str().into()).collect(), value: wire.value.as_str().into() })
}
