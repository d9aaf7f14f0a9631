//! Tokens: whose they must be.

use std::{sync::Arc, time::Duration};

use super::{Scope, raw_auth};
use crate::{
    config::{
        fault::{Check, Place},
        named,
        shape::{At, place},
    },
    model::{
        ingress::auth::JwtAuth,
        jwt::{KeyPlace, KeySet, KeySource, Location, ProviderEntry, RemoteKeys, Trust},
        secret::Secret,
    },
};

/// Tolerance for `exp` and `nbf` if the file does not say.
const LEEWAY: Duration = Duration::from_secs(30);

/// About how many verified tokens are remembered.
const CACHE_SIZE: usize = 4096;

/// How long fetching keys may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How old keys of a URL may become.
const LIFETIME: Duration = Duration::from_secs(300);

/// The pauses after failures to fetch.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// `None` after a fault was told.
pub(super) fn jwt(raw: &raw_auth::Auth, creds: Vec<At<String>>, at: &Place, scope: Scope<'_>, check: &mut Check) -> Option<JwtAuth> {
    let keys = keys(raw, creds, at, scope, check)?;
    let bearer = Location::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".into(), forward: true };
    let entry = ProviderEntry {
        name: scope.name.into(),
        issuer: raw.issuer.as_ref().map_or("", |at| &at.value).into(),
        audiences: raw.audience.iter().flat_map(|at| &at.value.0).map(|at| at.value.as_str().into()).collect(),
        locations: vec![bearer, Location::Query("araleztoken".into())],
        forwarding: None,
        clock_skew: raw.leeway.as_ref().map_or(LEEWAY, |at| at.value.0),
        cache_size: CACHE_SIZE,
        keys,
    };
    Some(JwtAuth { provider: scope.name.into(), entry: Arc::new(entry) })
}

/// Where the keys come from: one place that is named, or else `creds` and the master key, which signs what `/jwt` issues.
fn keys(raw: &raw_auth::Auth, creds: Vec<At<String>>, at: &Place, scope: Scope<'_>, check: &mut Check) -> Option<KeySource> {
    let secret = named::secret("secret", raw.secret.as_ref(), raw.secret_file.as_ref(), scope.folder, check);
    let file = |at: &At<String>, check: &mut Check| {
        let path = scope.folder.join(&at.value);
        let text = named::text(&path, &at.place, check)?;
        let faulty = |why: String, check: &mut Check| check.fault(&at.place, why, "name a file with a key set, or with public keys in PEM");
        KeySet::parse(text.as_bytes()).map_err(|why| faulty(why, check)).ok()?;
        Some(KeySource::Place(KeyPlace::File(path)))
    };
    let named: Vec<(&Place, &str)> = [
        (place(&raw.secret).or(place(&raw.secret_file)), "secret"),
        (place(&raw.pem), "pem"),
        (place(&raw.pem_file), "pem_file"),
        (place(&raw.jwks_file), "jwks_file"),
        (place(&raw.jwks_url), "jwks_url"),
        (creds.first().map(|at| &at.place), "creds"),
    ]
    .into_iter()
    .filter_map(|(place, key)| Some((place?, key)))
    .collect();
    if let [(_, first), (second, key), ..] = named.as_slice() {
        check.fault(second, format!("{key} beside {first}: the keys come from one place"), "keep one");
        return None;
    }
    if let Some(at) = &raw.pem {
        return entry(KeySet::of_pem(at.value.as_bytes()), &at.place, check);
    }
    if let Some(at) = raw.pem_file.as_ref().or(raw.jwks_file.as_ref()) {
        return file(at, check);
    }
    if let Some(at) = &raw.jwks_url {
        return Some(KeySource::Place(KeyPlace::Remote(Arc::new(remote(&at.value.0.0)))));
    }
    if raw.secret.is_some() || raw.secret_file.is_some() {
        let At { value, place } = secret?;
        return entry(KeySet::of_secrets([&value]), &place, check);
    }
    let first = creds.first().map_or(at, |first| &first.place).clone();
    let mut secrets: Vec<Secret> = creds.into_iter().map(|at| Secret::new(at.value)).collect();
    secrets.extend(scope.main.api.master_key.clone());
    if secrets.is_empty() {
        let advice = "write secret, pem, pem_file, jwks_file or jwks_url, or a master_key in main.yaml";
        check.fault(at, "jwt without a key would let nobody in", advice);
        return None;
    }
    entry(KeySet::of_secrets(&secrets), &first, check)
}

fn entry(keys: Result<KeySet, String>, at: &Place, check: &mut Check) -> Option<KeySource> {
    keys.map_err(|why| check.fault(at, why, "")).ok().map(|keys| KeySource::Entry(Arc::new(keys)))
}

fn remote(url: &str) -> RemoteKeys {
    RemoteKeys {
        url: Secret::new(url),
        shown: url.split('?').next().unwrap_or_default().into(),
        timeout: TIMEOUT,
        connect_timeout: TIMEOUT,
        lifetime: LIFETIME,
        asynchronous: true,
        retries: 0,
        back_off: BACK_OFF,
        trust: Trust::System,
    }
}
