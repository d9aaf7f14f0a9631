//! What holds for a path, after everything that its host and the whole file say.

use std::{path::Path, sync::Arc, time::Duration};

use http::HeaderName;

use super::{auth, consul::Mesh, headers, pool::PoolRules, raw};
use crate::{
    config::{
        fault::Check,
        main_file::MainFile,
        read,
        shape::{At, Of, Several, Switch, Time},
    },
    model::{
        ingress::filters::{AddressRules, Compression, Cors, Filters, LimitKey, RateLimit},
        route::{HeaderEdits, RetryOn, RetryPolicy},
    },
};

/// How long a request may stand still if the file does not say: nginx's `proxy_read_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How hard answers are compressed if the file does not say: gzip's own default.
const COMPRESSION: Compression = Compression { level: 6 };

/// Where a level stands.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Names it: `global`, `shop.example`, `shop.example/api`.
    pub(super) name: &'a str,
    /// What relative paths are relative to.
    pub(super) folder: &'a Path,
    /// What the process has.
    pub(super) main: &'a MainFile,
    /// What holds for all services of Consul.
    pub(super) mesh: &'a Mesh,
}

/// The policy of a level: the whole file, a host or a path.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) filters: Filters,
    pub(super) headers: HeaderEdits,
    pub(super) pool: PoolRules,
    pub(super) timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) retry: Option<RetryPolicy>,
}

impl Policy {
    /// What holds if no file says anything.
    pub(super) fn new(main: &MainFile) -> Self {
        Self {
            filters: Filters::default(),
            headers: HeaderEdits::default(),
            pool: PoolRules::new(&main.health),
            timeout: None,
            idle_timeout: Some(IDLE_TIMEOUT),
            retry: None,
        }
    }

    /// The policy of a level below: what it says itself goes before, headers add up.
    pub(super) fn with(&self, raw: &raw::Policy, scope: Scope<'_>, check: &mut Check) -> Self {
        let mut policy = self.clone();
        policy.pool.add(&raw.pool, scope, check);
        policy.filter(raw, scope, check);
        policy.wait(raw, check);
        headers::add(&mut policy.headers, raw, check);
        policy
    }

    fn filter(&mut self, raw: &raw::Policy, scope: Scope<'_>, check: &mut Check) {
        let filters = &mut self.filters;
        if raw.allow.is_some() || raw.deny.is_some() {
            let rules = filters.addresses.get_or_insert_with(AddressRules::default);
            if let Some(at) = &raw.allow {
                rules.allow = read::networks(&at.value.0);
            }
            if let Some(at) = &raw.deny {
                rules.deny = read::networks(&at.value.0);
            }
        }
        if let Some(at) = &raw.to_https {
            filters.to_https = at.value;
        }
        if let Some(at) = &raw.cors {
            filters.cors = on("cors", at, "origins: [https://shop.example]", check).and_then(|cors| self::cors(cors, at, check));
        }
        if let Some(at) = &raw.rate_limit {
            let limit = on("rate_limit", at, "100", check).and_then(|raw| rate_limit(&raw.0, at, scope, check));
            filters.limits = limit.into_iter().collect();
        }
        if let Some(at) = &raw.authorization {
            filters.auth =
                on("authorization", at, "{type: apikey, creds: KEY}", check).and_then(|raw| auth::auth(raw, &at.place, scope, check));
        }
        if let Some(at) = &raw.body_limit {
            filters.body_limit = on("body_limit", at, "10MB", check).map(|size| size.0);
        }
        if let Some(at) = &raw.compression {
            filters.compression = match &at.value {
                Switch::Off => None,
                Switch::On => Some(COMPRESSION),
                Switch::With(level) => Some(Compression { level: level.small() }),
            };
        }
    }

    fn wait(&mut self, raw: &raw::Policy, check: &mut Check) {
        if let Some(at) = &raw.timeout {
            self.timeout = on("timeout", at, "30s", check).and_then(|time| positive("timeout", time, at, check));
        }
        if let Some(at) = &raw.idle_timeout {
            self.idle_timeout = match &at.value {
                Switch::Off => None,
                Switch::On => Some(IDLE_TIMEOUT),
                Switch::With(time) => positive("idle_timeout", time, at, check),
            };
        }
        if let Some(at) = &raw.retries {
            self.retry = match &at.value {
                Switch::Off => None,
                Switch::On => Some(retries(&raw::Retries::default(), check)),
                Switch::With(raw) => Some(retries(&raw.0, check)),
            };
        }
    }
}

/// What a switch that cannot be merely on is set to.
fn on<'a, T>(key: &str, at: &'a At<Switch<T>>, example: &str, check: &mut Check) -> Option<&'a T> {
    match &at.value {
        Switch::Off => None,
        Switch::With(value) => Some(value),
        Switch::On => {
            check.fault(&at.place, format!("{key}: true does not say enough"), format!("write for example {key}: {example}"));
            None
        }
    }
}

/// A time that is not zero.
pub(super) fn positive<T>(key: &str, time: &Time, at: &At<T>, check: &mut Check) -> Option<Duration> {
    if time.0.is_zero() {
        check.fault(&at.place, format!("{key} is 0"), "give it a time, for example 5s");
        return None;
    }
    Some(time.0)
}

fn rate_limit(raw: &raw::Rate, at: &At<Switch<raw::RawRate>>, scope: Scope<'_>, check: &mut Check) -> Option<RateLimit> {
    let Some(rate) = raw.rate.as_ref().map(|at| at.value.small()) else {
        check.lacking(&at.place, "rate_limit without rate", "say how many requests a second, for example rate: 100");
        return None;
    };
    let key = match &raw.by {
        None => LimitKey::Client,
        Some(by) => match by.value.split_once(':').map_or((by.value.as_str(), ""), |(kind, name)| (kind, name.trim())) {
            ("client", "") => LimitKey::Client,
            ("source", "") => LimitKey::Source,
            ("header", name) if read::is_header(name) => name.parse().map(LimitKey::Header).unwrap_or_default(),
            ("claim", name) if !name.is_empty() => LimitKey::Claim(name.into()),
            _ => {
                check.fault(
                    &by.place,
                    format!("{:?} says not who shares a counter", by.value),
                    "use client, source, header:NAME or claim:NAME",
                );
                return None;
            }
        },
    };
    Some(RateLimit { scope: scope.name.into(), rate, burst: raw.burst.as_ref().map_or(rate, |at| at.value.small()), key })
}

fn retries(raw: &raw::Retries, check: &mut Check) -> RetryPolicy {
    let named = raw.on.iter().flat_map(|at| &at.value.0);
    let mut on: Vec<RetryOn> = named
        .filter_map(|at| {
            let condition = RetryOn::parse(&at.value);
            if condition.is_none() {
                let advice =
                    "use connect-failure, reset, refused-stream, gateway-error, 5xx, retriable-4xx or a status of gRPC such as unavailable";
                check.fault(&at.place, format!("{:?} is no condition of a retry", at.value), advice);
            }
            condition
        })
        .collect();
    let statuses: Vec<u16> = raw.statuses.iter().flat_map(|at| &at.value.0).filter_map(|at| at.value.small().try_into().ok()).collect();
    if raw.on.is_none() && statuses.is_empty() {
        on = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream];
    }
    RetryPolicy { retries: raw.attempts.as_ref().map_or(1, |at| at.value.small()), on, statuses }
}

fn cors(raw: &raw::Cors, at: &At<Switch<raw::Cors>>, check: &mut Check) -> Option<Cors> {
    let origins = raw.origins.as_ref().map(|at| at.value.0.as_slice()).unwrap_or_default();
    if origins.is_empty() {
        check.lacking(&at.place, "cors without origins", "list them, for example origins: [https://shop.example]");
        return None;
    }
    for origin in origins {
        if !is_origin(&origin.value) {
            let advice = "write it as browsers do, https://shop.example without a path; https://*.shop.example or * for many";
            check.fault(&origin.place, format!("{:?} is no origin", origin.value), advice);
        }
    }
    let credentials = raw.credentials.as_ref().is_some_and(|at| at.value);
    if credentials && let Some(any) = origins.iter().find(|origin| origin.value == "*") {
        check.fault(
            &any.place,
            "origin * with credentials would let every site act for the user",
            "list the origins, or credentials: false",
        );
    }
    let names = |list: &Option<At<Several<Of<HeaderName>>>>| -> Vec<Arc<str>> {
        list.iter().flat_map(|at| &at.value.0).map(|name| name.value.0.as_str().into()).collect()
    };
    let mut methods: Vec<Arc<str>> = vec!["GET".into(), "HEAD".into(), "POST".into()];
    if let Some(list) = &raw.methods {
        let token = |at: &At<String>| at.value.parse::<http::Method>().is_ok_and(|method| method.as_str() == at.value.to_ascii_uppercase());
        for at in list.value.0.iter().filter(|at| !token(at)) {
            check.fault(&at.place, format!("{:?} is no method", at.value), "write it in capitals, for example DELETE");
        }
        methods = list.value.0.iter().map(|at| at.value.as_str().into()).collect();
    }
    Some(Cors {
        origins: origins.iter().map(|origin| origin.value.as_str().into()).collect(),
        methods,
        headers: names(&raw.headers),
        expose: names(&raw.expose),
        credentials,
        max_age: raw.max_age.as_ref().map(|at| at.value.0),
    })
}

/// `*`, or scheme, host and port as browsers write them; the first label may be `*`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return text == "*" };
    let host = rest.strip_prefix("*.").unwrap_or(rest);
    let parsed = format!("{scheme}://{host}").parse::<http::Uri>();
    let is_plain = parsed.is_ok_and(|uri| uri.authority().is_some_and(|authority| authority.as_str() == host && !host.contains('@')));
    is_plain && !host.contains(['*', '/']) && !text.bytes().any(|b| b.is_ascii_uppercase())
}
