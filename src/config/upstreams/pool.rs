//! How servers are chosen, probed and reached.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    policy::{Scope, positive},
    raw_pool::{Health, LimitKeys, Passive, PoolPolicy, ProbeType, RawSticky},
};
use crate::{
    config::{
        fault::Check,
        main_file::HealthDefaults,
        named, read,
        shape::{At, Switch, Time, place},
    },
    model::{
        balance::{Balance, BalancePolicy, CookieLife, HashBy, HashPolicy, Limits, PassiveHealth, Sticky},
        cluster::TargetId,
        ingress::{
            Pool, PoolSource,
            pool::{HealthCheck, Probe, ProxyHeader, ServerTls},
        },
        path,
    },
};

/// The cookie of sticky sessions if the file does not say.
const COOKIE: &str = "backend_id";

/// How long connecting to a server may take if the file does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a probe may take if the file does not say.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the pools of a level are like.
#[derive(Clone, Debug)]
pub(super) struct PoolRules {
    balance: Balance,
    hash: Vec<HashPolicy>,
    limits: Limits,
    passive: PassiveHealth,
    health: Option<HealthCheck>,
    defaults: HealthDefaults,
    tls: Arc<ServerTls>,
    connect_timeout: Duration,
    proxy_header: Option<ProxyHeader>,
}

impl PoolRules {
    /// What holds if no file says anything: probes as `main.yaml` has them, no bounds, half of the servers at most left out.
    pub(super) fn new(defaults: &HealthDefaults) -> Self {
        Self {
            balance: Balance::default(),
            hash: Vec::new(),
            limits: Limits { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, ..Limits::default() },
            passive: passive(&Passive::default()),
            health: Some(probe(defaults)),
            defaults: defaults.clone(),
            tls: Arc::default(),
            connect_timeout: CONNECT_TIMEOUT,
            proxy_header: None,
        }
    }

    /// Takes over what a level says.
    pub(super) fn add(&mut self, raw: &PoolPolicy, scope: Scope<'_>, check: &mut Check) {
        self.choose(raw, check);
        if let Some(at) = &raw.healthcheck {
            self.health = match &at.value {
                Switch::Off => None,
                Switch::On => Some(probe(&self.defaults)),
                Switch::With(health) => Some(self.health(health, check)),
            };
        }
        if let Some(at) = &raw.passive_health {
            self.passive = match &at.value {
                // Nothing is ever left out: none of the ejections happens.
                Switch::Off => PassiveHealth { enforcing: 0, ..self.passive },
                Switch::On => passive(&Passive::default()),
                Switch::With(raw) => passive(raw),
            };
        }
        if let Some(At { value: raw, .. }) = &raw.limits {
            self.limit(raw);
        }
        if let Some(at) = &raw.connect_timeout
            && let Some(time) = positive("connect_timeout", &at.value, at, check)
        {
            self.connect_timeout = time;
        }
        if let Some(at) = &raw.proxy_header {
            self.proxy_header = at.value.0;
        }
        self.tls(raw, scope.folder, check);
    }

    fn choose(&mut self, raw: &PoolPolicy, check: &mut Check) {
        if let Some(at) = &raw.sticky_sessions {
            self.balance.sticky = match &at.value {
                Switch::Off => None,
                Switch::On => Some(Sticky { cookie: COOKIE.into(), life: CookieLife { ttl: None, path: "/".into() } }),
                Switch::With(raw) => sticky(raw, at, check),
            };
        }
        if let Some(at) = &raw.balance {
            self.balance.policy = at.value.0;
        }
        if let Some(at) = &raw.slow_start {
            self.balance.slow_start = Some(at.value.0).filter(|time| !time.is_zero());
        }
        let hashes = matches!(self.balance.policy, BalancePolicy::RingHash { .. } | BalancePolicy::Maglev);
        if let Some(at) = &raw.hash_by {
            self.hash = at.value.0.iter().map(|by| HashPolicy { by: by.value.0.clone(), terminal: false }).collect();
            if !hashes {
                check.fault(&at.place, "hash_by without hashing", "write balance: ring_hash or maglev, or take hash_by away");
            }
        }
    }

    /// What requests are hashed by.
    pub(super) fn hash(&self) -> Vec<HashPolicy> {
        match self.balance.policy {
            BalancePolicy::RingHash { .. } | BalancePolicy::Maglev if self.hash.is_empty() => {
                vec![HashPolicy { by: HashBy::SourceIp, terminal: false }]
            }
            BalancePolicy::RingHash { .. } | BalancePolicy::Maglev => self.hash.clone(),
            _ => Vec::new(),
        }
    }

    fn health(&self, raw: &Health, check: &mut Check) -> HealthCheck {
        let mut health = probe(&self.defaults);
        let kind = raw.r#type.as_ref().map_or(ProbeType::Http, |at| at.value.0);
        for (key, of, name, found) in [
            ("method", ProbeType::Http, "http", place(&raw.method)),
            ("path", ProbeType::Http, "http", place(&raw.path)),
            ("host", ProbeType::Http, "http", place(&raw.host)),
            ("expect", ProbeType::Http, "http", place(&raw.expect)),
            ("service", ProbeType::Grpc, "grpc", place(&raw.service)),
        ] {
            if let Some(found) = found.filter(|_| kind != of) {
                check.fault(found, format!("{key} is of probes by {name}"), format!("take it away, or write type: {name}"));
            }
        }
        health.probe = match kind {
            ProbeType::Tcp => Probe::Tcp,
            ProbeType::Grpc => Probe::Grpc { service: raw.service.as_ref().map_or("", |at| &at.value).into() },
            ProbeType::Http => http_probe(raw, &self.defaults, check),
        };
        if let Some(at) = &raw.interval {
            health.interval = positive("interval", &at.value, at, check).unwrap_or(health.interval);
            health.timeout = health.interval.min(PROBE_TIMEOUT);
        }
        if let Some(at) = &raw.timeout {
            health.timeout = positive("timeout", &at.value, at, check).unwrap_or(health.timeout);
        }
        health.healthy_after = raw.healthy_after.as_ref().map_or(health.healthy_after, |at| at.value.small());
        health.unhealthy_after = raw.unhealthy_after.as_ref().map_or(health.unhealthy_after, |at| at.value.small());
        health
    }

    fn limit(&mut self, raw: &LimitKeys) {
        let limits = &mut self.limits;
        limits.connections = raw.connections.as_ref().map_or(limits.connections, |at| at.value.small());
        limits.pending = raw.pending.as_ref().map_or(limits.pending, |at| at.value.small());
        limits.requests = raw.requests.as_ref().map_or(limits.requests, |at| at.value.small());
        limits.retry_budget = raw.retry_budget.as_ref().map_or(limits.retry_budget, |at| at.value.small());
    }

    fn tls(&mut self, raw: &PoolPolicy, folder: &Path, check: &mut Check) {
        let mut tls = ServerTls::clone(&self.tls);
        if let Some(at) = &raw.tls_verify {
            tls.verify = at.value;
        }
        if let Some(at) = &raw.tls_server_name {
            if !read::is_host_name(&at.value) {
                check.fault(&at.place, format!("{:?} is no name of a server", at.value), "write a DNS name");
            }
            tls.name = Some(at.value.to_ascii_lowercase().into());
        }
        if let Some(at) = &raw.tls_ca {
            tls.roots = named::certificates("tls_ca", at, folder, check).unwrap_or_default();
        }
        match (&raw.tls_certificate, &raw.tls_key) {
            (Some(certificate), Some(key)) => tls.client = named::pair(certificate, key, folder, check),
            (Some(at), None) => check.fault(&at.place, "tls_certificate without tls_key", "name the file of its key"),
            (None, Some(at)) => check.fault(&at.place, "tls_key without tls_certificate", "name the file of the certificate"),
            (None, None) => {}
        }
        if tls != *self.tls {
            self.tls = Arc::new(tls);
        }
    }

    /// Whether connections begin with a PROXY header.
    pub(super) fn announces(&self) -> bool {
        self.proxy_header.is_some()
    }

    /// A pool of such servers. Sidecars are not probed: Consul knows their checks.
    pub(super) fn pool(&self, id: String, source: PoolSource) -> Pool {
        let health = self.health.clone().filter(|_| !matches!(source, PoolSource::Mesh(_)));
        Pool {
            id: TargetId(id.into()),
            source,
            balance: self.balance.clone(),
            limits: self.limits,
            passive: self.passive,
            health,
            tls: self.tls.clone(),
            connect_timeout: self.connect_timeout,
            proxy_header: self.proxy_header,
        }
    }
}

fn sticky(RawSticky(raw): &RawSticky, at: &At<Switch<RawSticky>>, check: &mut Check) -> Option<Sticky> {
    let ttl = raw.max_age.as_ref().map(|at| at.value.0);
    if ttl.is_some_and(|ttl| ttl < Duration::from_secs(1)) {
        check.fault(&at.place, "sticky_sessions of less than a second would be forgotten at once", "give it a time, or false");
        return None;
    }
    if let Some(name) = raw.cookie.as_ref().filter(|name| !read::is_header(&name.value)) {
        check.fault(&name.place, format!("{:?} is no name of a cookie", name.value), "use letters, digits, - and _");
        return None;
    }
    let cookie = raw.cookie.as_ref().map_or(COOKIE, |at| &at.value);
    Some(Sticky { cookie: cookie.into(), life: CookieLife { ttl, path: "/".into() } })
}

fn passive(raw: &Passive) -> PassiveHealth {
    let usual = PassiveHealth { max_ejection_percent: 50, ..PassiveHealth::default() };
    let time = |at: &Option<At<Time>>, usual| at.as_ref().map_or(usual, |at| at.value.0);
    PassiveHealth {
        interval: time(&raw.interval, usual.interval).max(Duration::from_millis(100)),
        max_failures: raw.max_failures.as_ref().map_or(usual.max_failures, |at| at.value.small()),
        enforcing: usual.enforcing,
        max_ejection_percent: raw.max_ejection_percent.as_ref().map_or(usual.max_ejection_percent, |at| at.value.small()),
        base_ejection: time(&raw.base_ejection, usual.base_ejection),
    }
}

/// Every answer but a server error will do: an API has nothing at `/`, and a gRPC server refuses the method.
fn probe(defaults: &HealthDefaults) -> HealthCheck {
    HealthCheck {
        probe: Probe::Http { method: defaults.method.clone(), path: "/".into(), host: None, expect: vec![200..=499] },
        interval: defaults.interval,
        timeout: defaults.interval.min(PROBE_TIMEOUT),
        healthy_after: 1,
        unhealthy_after: 2,
    }
}

fn http_probe(raw: &Health, defaults: &HealthDefaults, check: &mut Check) -> Probe {
    let method = match &raw.method {
        None => defaults.method.clone(),
        Some(at) => {
            let upper = at.value.to_ascii_uppercase();
            if !["HEAD", "GET", "POST", "OPTIONS"].contains(&&*upper) {
                check.fault(&at.place, format!("{:?} is no method of health checks", at.value), "use HEAD, GET, POST or OPTIONS");
            }
            upper.into()
        }
    };
    let path = raw.path.as_ref().map_or("/", |at| &at.value);
    if let Some(at) = &raw.path
        && let Err(error) = path::normalize(&at.value, &path::Normalization::default())
    {
        check.fault(
            &at.place,
            format!("{:?} cannot be asked for: {error}", at.value),
            "write a path from the slash on, for example /health",
        );
    }
    if let Some(at) = &raw.host
        && at.value.parse::<http::uri::Authority>().is_err()
    {
        check.fault(&at.place, format!("{:?} is no host", at.value), "write a name such as shop.example");
    }
    let expect = raw.expect.iter().flat_map(|at| &at.value.0).map(|at| at.value.0.clone());
    let expect = if raw.expect.is_some() { expect.collect() } else { vec![200..=499] };
    Probe::Http { method, path: path.into(), host: raw.host.as_ref().map(|at| at.value.as_str().into()), expect }
}
