//! Where a sidecar's metrics go, as the `envoy_…` keys of its registration's `Config` have it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::identity::ServiceName;

/// The time between two sendings when nothing else is said: Envoy's `stats_flush_interval`, which Consul leaves in force.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// The first part of all names sent when nothing else is said: Envoy's.
pub const PREFIX: &str = "envoy";

/// Where the metrics of a sidecar go, apart from the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MetricsConfig {
    /// The service that the sidecar works for.
    pub service: ServiceName,
    /// Its datacenter.
    pub datacenter: Arc<str>,
    /// `envoy_prometheus_bind_addr`: where `/metrics` is served, and nothing else.
    pub prometheus: Option<SocketAddr>,
    /// `envoy_stats_bind_addr`: where `/stats` and what is below it is served, and nothing else.
    pub stats: Option<SocketAddr>,
    /// `envoy_stats_tags`: names and values that every metric has.
    pub tags: Vec<(Arc<str>, Arc<str>)>,
    /// Where metrics are sent.
    pub pushes: Vec<Push>,
    /// `aralez_metrics_compat`: whose series are shown beside ours.
    pub compat: Option<Compat>,
}

/// Another proxy whose names dashboards know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// Envoy under Consul.
    Envoy,
}

impl MetricsConfig {
    /// Metrics that go nowhere.
    pub fn nowhere(service: ServiceName, datacenter: &str) -> Self {
        Self { service, datacenter: datacenter.into(), prometheus: None, stats: None, tags: Vec::new(), pushes: Vec::new(), compat: None }
    }
}

/// One receiver of metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Push {
    /// How lines are written.
    pub dialect: Dialect,
    /// Where they go.
    pub target: PushTarget,
    /// The first part of all names (`aralez_statsd_prefix`), without a dot at the end.
    pub prefix: Arc<str>,
    /// `envoy_stats_flush_interval`.
    pub interval: Duration,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// What labels say is part of the name.
    Statsd,
    /// What labels say is in tags.
    Dogstatsd,
}

/// A receiver's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushTarget {
    /// `udp://host:port`. The host is resolved when the socket is opened; a `$HOST_IP` or `${HOST_IP}` in it is that environment variable.
    Udp(Arc<str>),
    /// `unix:///path`, a datagram socket.
    Unix(PathBuf),
    /// `$NAME`: the environment variable has the address in one of the other two forms.
    Variable(Arc<str>),
}

impl PushTarget {
    /// Parses an address as Consul takes it.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('$').filter(|name| !name.is_empty()) {
            return Ok(Self::Variable(name.into()));
        }
        if let Some(address) = text.strip_prefix("udp://") {
            let address = address.split_once('/').map_or(address, |(address, _)| address);
            return match address.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(Self::Udp(address.into())),
                _ => Err(format!("{text:?} has no host and port")),
            };
        }
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => Err(format!("{text:?} is neither udp://HOST:PORT nor unix:///PATH nor $VARIABLE")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_consul_takes() {
        let udp = |address: &str| Ok(PushTarget::Udp(address.into()));
        assert_eq!(PushTarget::parse("udp://127.0.0.1:8125"), udp("127.0.0.1:8125"));
        assert_eq!(PushTarget::parse("udp://[::1]:8125/"), udp("[::1]:8125"));
        assert_eq!(PushTarget::parse("udp://${HOST_IP}:8125"), udp("${HOST_IP}:8125"));
        assert_eq!(PushTarget::parse("unix:///run/dsd.sock"), Ok(PushTarget::Unix("/run/dsd.sock".into())));
        assert_eq!(PushTarget::parse("$STATSD_URL"), Ok(PushTarget::Variable("STATSD_URL".into())));
        for bad in ["127.0.0.1:8125", "udp://127.0.0.1", "udp://:8125", "udp://h:0", "tcp://h:1", "unix://run/x", "$", ""] {
            assert!(PushTarget::parse(bad).is_err(), "{bad}");
        }
    }
}
