//! `authorization`: who is asking.

mod jwt;

use std::{sync::Arc, time::Duration};

use super::{
    policy::{Scope, positive},
    raw_auth::{self, Kind},
};
use crate::{
    config::{
        fault::{Check, Place},
        named,
        read::Url,
        shape::{At, Of, Switch, Text, place},
    },
    model::{
        ingress::auth::{Auth, AuthKind, Basic, ForwardAuth, Password},
        secret::Secret,
    },
};

/// How long a server that decides may take if the file does not say.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Failures a minute and client if the file does not say.
const FAILURES: u32 = 20;

/// The highest cost of a bcrypt hash: each step doubles the time that a request takes, and this one is some seconds.
const HIGHEST_COST: u32 = 16;

/// What usual servers that decide answer with.
const RESPONSE_HEADERS: [&str; 8] = [
    "remote-*",
    "x-auth-*",
    "x-authentik-*",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-user-*",
];

/// `None` after a fault was told.
pub(super) fn auth(raw: &raw_auth::Auth, at: &Place, scope: Scope<'_>, check: &mut Check) -> Option<Auth> {
    let Some(kind) = raw.r#type.as_ref().map(|at| at.value.0) else {
        check.lacking(at, "authorization without type", "say which: basic, apikey, jwt or forward");
        return None;
    };
    foreign_keys(raw, kind, check);
    let creds = creds(raw, at, scope, check);
    let made = match kind {
        Kind::Basic => basic(raw, &creds, at, scope, check).map(AuthKind::Basic),
        Kind::ApiKey => api_keys(&creds, at, check).map(AuthKind::ApiKey),
        Kind::Jwt => jwt::jwt(raw, creds, at, scope, check).map(AuthKind::Jwt),
        Kind::Forward => forward(raw, &creds, at, check).map(AuthKind::Forward),
    };
    let failures = match raw.failures.as_ref().map(|at| &at.value) {
        Some(Switch::Off) => None,
        Some(Switch::With(failures)) => Some(failures.small()).filter(|most| *most > 0),
        Some(Switch::On) => Some(FAILURES),
        None => (kind != Kind::Forward).then_some(FAILURES),
    };
    let strip = raw.strip.as_ref().is_some_and(|at| at.value);
    Some(Auth { scope: scope.name.into(), kind: made?, strip, failures })
}

/// Tells keys that belong to another kind.
fn foreign_keys(raw: &raw_auth::Auth, kind: Kind, check: &mut Check) {
    let keys = [
        ("htpasswd", Kind::Basic, "basic", place(&raw.htpasswd)),
        ("realm", Kind::Basic, "basic", place(&raw.realm)),
        ("secret", Kind::Jwt, "jwt", place(&raw.secret)),
        ("secret_file", Kind::Jwt, "jwt", place(&raw.secret_file)),
        ("pem", Kind::Jwt, "jwt", place(&raw.pem)),
        ("pem_file", Kind::Jwt, "jwt", place(&raw.pem_file)),
        ("jwks_file", Kind::Jwt, "jwt", place(&raw.jwks_file)),
        ("jwks_url", Kind::Jwt, "jwt", place(&raw.jwks_url)),
        ("issuer", Kind::Jwt, "jwt", place(&raw.issuer)),
        ("audience", Kind::Jwt, "jwt", place(&raw.audience)),
        ("leeway", Kind::Jwt, "jwt", place(&raw.leeway)),
        ("url", Kind::Forward, "forward", place(&raw.url)),
        ("timeout", Kind::Forward, "forward", place(&raw.timeout)),
        ("request_headers", Kind::Forward, "forward", place(&raw.request_headers)),
        ("response_headers", Kind::Forward, "forward", place(&raw.response_headers)),
    ];
    for (key, of, name, found) in keys {
        if let Some(found) = found.filter(|_| of != kind) {
            check.fault(found, format!("{key} is of authorization by {name}"), format!("take it away, or write type: {name}"));
        }
    }
}

/// What is asked for, from the file itself or one of its own.
fn creds(raw: &raw_auth::Auth, at: &Place, scope: Scope<'_>, check: &mut Check) -> Vec<At<String>> {
    let mut all = raw.creds.as_ref().map(|at| at.value.0.clone()).unwrap_or_default();
    if let Some(file) = &raw.creds_file {
        match named::text(&scope.folder.join(&file.value), &file.place, check) {
            Some(text) => {
                let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
                all.extend(lines.map(|line| At { value: line.to_owned(), place: file.place.clone() }));
            }
            None => check.spoil(at),
        }
    }
    for empty in all.iter().filter(|at| at.value.is_empty()) {
        check.fault(&empty.place, "empty creds would let everybody in", "write what is asked for");
        check.spoil(at);
    }
    all.retain(|at| !at.value.is_empty());
    all
}

fn api_keys(creds: &[At<String>], at: &Place, check: &mut Check) -> Option<Vec<Secret>> {
    if creds.is_empty() {
        check.lacking(at, "apikey without creds would let nobody in", "write the key, or several, as creds");
        return None;
    }
    Some(creds.iter().map(|key| Secret::new(&*key.value)).collect())
}

fn basic(raw: &raw_auth::Auth, creds: &[At<String>], at: &Place, scope: Scope<'_>, check: &mut Check) -> Option<Basic> {
    let mut lines = creds.to_vec();
    if let Some(file) = &raw.htpasswd {
        let text = named::text(&scope.folder.join(&file.value), &file.place, check)?;
        let is_user = |line: &&str| !line.is_empty() && !line.starts_with('#');
        lines.extend(text.lines().map(str::trim_end).filter(is_user).map(|line| At { value: line.to_owned(), place: file.place.clone() }));
    }
    if lines.is_empty() {
        check.lacking(at, "basic without creds would let nobody in", "write creds: \"user:password\", or name a file as htpasswd");
        return None;
    }
    let realm = raw.realm.as_ref().map_or("aralez", |at| &at.value);
    if let Some(at) = raw.realm.as_ref().filter(|at| at.value.chars().any(char::is_control)) {
        check.fault(&at.place, "a realm has no control characters", "write one line");
    }
    let mut users: Vec<(Arc<str>, Password)> = Vec::new();
    for At { value, place } in &lines {
        let Some((user, word)) = value.split_once(':').filter(|(user, word)| !user.is_empty() && !word.is_empty()) else {
            check.fault(place, "basic asks for user and password", "write \"user:password\"");
            continue;
        };
        if users.iter().any(|(known, _)| **known == *user) {
            check.fault(place, format!("a second password of {user:?}"), "keep one");
        }
        match password(word, raw.htpasswd.as_ref().is_some_and(|file| file.place == *place)) {
            Ok(password) => users.push((user.into(), password)),
            Err(what) => check.fault(place, format!("the password of {user:?} {what}"), "make the hash with htpasswd -B"),
        }
    }
    Some(Basic { realm: realm.into(), users })
}

/// A password or its hash; in a file of hashes nothing else will do.
fn password(word: &str, must_be_hash: bool) -> Result<Password, String> {
    let is_bcrypt = ["$2a$", "$2b$", "$2y$"].iter().any(|mark| word.starts_with(mark));
    let of_another_kind = ["$1$", "$5$", "$6$", "$apr1$", "$argon2", "{SHA}", "{SSHA}", "$y$"];
    if is_bcrypt {
        let cost = word.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
        return match cost {
            Some(cost) if (4..=HIGHEST_COST).contains(&cost) && word.len() == 60 => Ok(Password::Bcrypt(Secret::new(word))),
            Some(cost) if word.len() == 60 => Err(format!("has the cost {cost}, which is not 4 to {HIGHEST_COST}")),
            _ => Err("is no whole bcrypt hash".to_owned()),
        };
    }
    if of_another_kind.iter().any(|mark| word.starts_with(mark)) {
        return Err("is a hash of another kind than bcrypt".to_owned());
    }
    if must_be_hash { Err("is no bcrypt hash".to_owned()) } else { Ok(Password::Clear(Secret::new(word))) }
}

fn forward(raw: &raw_auth::Auth, creds: &[At<String>], at: &Place, check: &mut Check) -> Option<ForwardAuth> {
    let url = match (&raw.url, creds) {
        (Some(url), []) => url.value.0.0.clone(),
        (None, [url]) => <Url as Text>::parse(&url.value).map_err(|(what, advice)| check.fault(&url.place, what, advice)).ok()?.0,
        _ => {
            check.lacking(at, "forward asks one server", "write its URL as url");
            return None;
        }
    };
    let timeout = match &raw.timeout {
        Some(at) => positive("timeout", &at.value, at, check)?,
        None => FORWARD_TIMEOUT,
    };
    let request_headers = raw.request_headers.iter().flat_map(|at| &at.value.0).map(|At { value: Of(name), .. }| name.as_str().into());
    let mut response_headers: Vec<Arc<str>> = RESPONSE_HEADERS.map(Arc::from).into();
    if let Some(list) = &raw.response_headers {
        response_headers.clear();
        for At { value, place } in &list.value.0 {
            match <http::HeaderName as Text>::parse(value.strip_suffix('*').unwrap_or(value)) {
                Ok(_) => response_headers.push(value.to_ascii_lowercase().into()),
                Err((what, advice)) => check.fault(place, what, advice),
            }
        }
    }
    Some(ForwardAuth { url: url.into(), timeout, request_headers: request_headers.collect(), response_headers })
}
