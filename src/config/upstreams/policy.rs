//! What holds for a path, after everything that its host and the whole file say.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    auth, headers,
    raw::{RawFile, RawPolicy, RawRate, Switch},
};
use crate::{
    config::{
        fault::Check,
        main_file::{HealthDefaults, MainFile},
        shape::At,
    },
    model::{
        balance::{Balance, CookieLife, Sticky},
        ingress::{
            filters::{Filters, LimitKey, RateLimit},
            pool::{HealthCheck, Probe},
        },
        route::HeaderEdits,
    },
};

/// The cookie of sticky sessions.
const COOKIE: &str = "backend_id";

/// The policy of a level: the whole file, a host or a path.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) filters: Filters,
    pub(super) headers: HeaderEdits,
    pub(super) balance: Balance,
    pub(super) health: Option<HealthCheck>,
    defaults: HealthDefaults,
}

impl Policy {
    /// What the whole file says.
    pub(super) fn global(raw: &RawFile, main: &MainFile, file: &Path, check: &mut Check) -> Self {
        let none = Self {
            filters: Filters::default(),
            headers: HeaderEdits::default(),
            balance: Balance::default(),
            health: Some(probe(&main.health)),
            defaults: main.health.clone(),
        };
        none.with(&raw.policy, "global", &crate::config::read::folder(file), check)
    }

    /// The policy of a level below: what it says itself goes before, headers add up.
    pub(super) fn with(&self, raw: &RawPolicy, scope: &str, folder: &Path, check: &mut Check) -> Self {
        let mut policy = self.clone();
        if let Some(at) = &raw.sticky_sessions {
            policy.balance.sticky = match &at.value {
                Switch::Off => None,
                Switch::On => Some(sticky(None)),
                Switch::With(time) => Some(sticky(Some(time.0))),
            };
        }
        if let Some(at) = &raw.rate_limit {
            policy.filters.limits = match &at.value {
                Switch::Off => Vec::new(),
                Switch::On => {
                    check.fault(&at.place, "rate_limit: true has no rate", "say how many requests a second, for example rate_limit: 100");
                    Vec::new()
                }
                Switch::With(rate) => rate_limit(rate, at, scope, check).into_iter().collect(),
            };
        }
        if let Some(at) = &raw.authorization {
            policy.filters.auth = match &at.value {
                Switch::Off => None,
                Switch::On => {
                    check.fault(&at.place, "authorization: true has no type", "say which: basic, apikey, jwt or forward");
                    None
                }
                Switch::With(auth) => auth::auth(auth, &at.place, scope, folder, check),
            };
        }
        if let Some(at) = &raw.to_https {
            policy.filters.to_https = at.value;
        }
        if let Some(at) = &raw.healthcheck {
            policy.health = match &at.value {
                Switch::Off => None,
                Switch::On => Some(probe(&self.defaults)),
                Switch::With(health) => {
                    let mut own = probe(&self.defaults);
                    if let Some(interval) = &health.interval {
                        own.interval = interval.value.0;
                    }
                    Some(own)
                }
            };
        }
        headers::add(&mut policy.headers, raw, check);
        policy
    }
}

fn sticky(ttl: Option<Duration>) -> Sticky {
    Sticky { cookie: COOKIE.into(), life: CookieLife { ttl, path: "/".into() } }
}

fn probe(defaults: &HealthDefaults) -> HealthCheck {
    HealthCheck {
        probe: Probe::Http { method: defaults.method.clone(), path: "/".into(), host: None, expect: vec![200..=499] },
        interval: defaults.interval,
        timeout: Duration::from_secs(2),
        healthy_after: 1,
        unhealthy_after: 2,
    }
}

fn rate_limit(RawRate(raw): &RawRate, at: &At<Switch<RawRate>>, scope: &str, check: &mut Check) -> Option<RateLimit> {
    let Some(rate) = &raw.rate else {
        check.fault(&at.place, "rate_limit without a rate", "say how many requests a second, for example rate_limit: 100");
        return None;
    };
    let key = match &raw.by {
        None => LimitKey::Client,
        Some(by) => match by.value.split_once(':').map_or((by.value.as_str(), ""), |(kind, name)| (kind, name.trim())) {
            ("client", "") => LimitKey::Client,
            ("header", name) if name.parse::<http::HeaderName>().is_ok() => name.parse().map(LimitKey::Header).unwrap_or_default(),
            ("claim", name) if !name.is_empty() => LimitKey::Claim(Arc::from(name)),
            _ => {
                check.fault(
                    &by.place,
                    format!("{:?} says not by what clients are told apart", by.value),
                    "use client, header:NAME or claim:NAME",
                );
                return None;
            }
        },
    };
    let burst = raw.burst.as_ref().map_or(rate.number(), At::number);
    Some(RateLimit { scope: scope.into(), rate: rate.number(), burst, key })
}
