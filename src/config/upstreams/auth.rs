//! `authorization`: who is asking.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::raw::RawAuth;
use crate::{
    config::fault::{Check, Place},
    model::{
        ingress::auth::{Auth, AuthKind, Basic, ForwardAuth, JwtAuth, Password},
        jwt::{KeySet, KeySource, Location, ProviderEntry},
        secret::Secret,
    },
};

/// `None` after a fault was told.
pub(super) fn auth(raw: &RawAuth, at: &Place, scope: &str, _folder: &Path, check: &mut Check) -> Option<Auth> {
    let Some(kind) = &raw.r#type else {
        check.fault(at, "authorization without a type", "say which: basic, apikey, jwt or forward");
        return None;
    };
    let Some(creds) = raw.creds.as_ref().filter(|creds| !creds.value.is_empty()) else {
        check.fault(at, "authorization without creds would let everybody in or nobody", "write what is asked for as creds");
        return None;
    };
    let kind = match kind.value.as_str() {
        "basic" => match creds.value.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                let users = vec![(user.into(), Password::Clear(Secret::new(password)))];
                AuthKind::Basic(Basic { realm: "aralez".into(), users })
            }
            _ => {
                check.fault(&creds.place, "basic asks for user and password", "write creds: \"user:password\"");
                return None;
            }
        },
        "apikey" => AuthKind::ApiKey(vec![Secret::new(&*creds.value)]),
        "jwt" => AuthKind::Jwt(jwt(&creds.value, &creds.place, scope, check)?),
        "forward" => AuthKind::Forward(ForwardAuth {
            url: creds.value.as_str().into(),
            timeout: Duration::from_secs(5),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }),
        other => {
            check.fault(&kind.place, format!("{other:?} is no kind of authorization"), "use basic, apikey, jwt or forward");
            return None;
        }
    };
    Some(Auth { scope: scope.into(), kind, strip: false, failures: None })
}

fn jwt(secret: &str, at: &Place, scope: &str, check: &mut Check) -> Option<JwtAuth> {
    let keys = serde_json::json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)}]});
    let keys = KeySet::parse(keys.to_string().as_bytes()).map_err(|why| check.fault(at, why, "use a secret of at least 32 bytes")).ok()?;
    let bearer = Location::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".into(), forward: true };
    let entry = ProviderEntry {
        name: scope.into(),
        issuer: "".into(),
        audiences: Vec::new(),
        locations: vec![bearer, Location::Query("araleztoken".into())],
        forwarding: None,
        clock_skew: Duration::from_secs(30),
        cache_size: 1000,
        keys: KeySource::Entry(Arc::new(keys)),
    };
    Some(JwtAuth { provider: scope.into(), entry: Arc::new(entry) })
}
