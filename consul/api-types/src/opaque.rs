//! Typed views of the opaque `Config` maps of a proxy and of its upstreams.
//!
//! Both maps come in two spellings: what a user wrote in the registration stays as written (`max_connections`,
//! `"interval": "22s"`), what central configuration filled in is CamelCase with integer nanoseconds
//! (`MaxConnections`, `"Interval": 22000000000`). Keys are therefore compared without regard to case and `_`, numbers may
//! be texts, and durations take either form, as Consul itself decodes them.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::duration::GoDuration;

/// A setting that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key as written, nested ones with dots: `limits.MaxConnections`.
    pub key: String,
    /// The value as JSON.
    pub value: String,
    /// What it should be.
    pub expected: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, expected {}", self.key, self.value, self.expected)
    }
}

impl std::error::Error for ConfigError {}

/// `Proxy.Config`. A setting that is absent, empty or not readable is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The service's protocol: `tcp`, `http`, `http2` or `grpc`, lower case.
    pub protocol: Option<String>,
    /// Address of the public listener, instead of the registration's.
    pub bind_address: Option<String>,
    /// Port of the public listener, instead of the registration's.
    pub bind_port: Option<u16>,
    /// `local_connect_timeout_ms`: time to connect to the application (Envoy's path: 5 s).
    pub local_connect_timeout: Option<Duration>,
    /// `local_request_timeout_ms`: time for a request to the application; zero means no limit (Envoy's path: 15 s).
    pub local_request_timeout: Option<Duration>,
    /// `local_idle_timeout_ms`: time a stream to the application may be silent; zero means no limit (Envoy's path: 300 s).
    pub local_idle_timeout: Option<Duration>,
    /// `handshake_timeout_ms`: time for an inbound TLS handshake. Consul's built-in proxy reads it and ignores it.
    pub handshake_timeout: Option<Duration>,
    /// Most inbound connections; zero means unlimited.
    pub max_inbound_connections: Option<u32>,
    /// `exact_balance`: spread accepted connections evenly over the threads.
    pub balance_inbound_connections: Option<String>,
    /// Where to serve Prometheus metrics, `address:port`.
    pub envoy_prometheus_bind_addr: Option<String>,
    /// Where to serve metrics, `address:port`.
    pub envoy_stats_bind_addr: Option<String>,
    /// Where to send metrics by StatsD, `udp://address:port`.
    pub envoy_statsd_url: Option<String>,
    /// Where to send metrics by DogStatsD, `udp://address:port` or `unix://path`.
    pub envoy_dogstatsd_url: Option<String>,
    /// Tags of every metric, `name=value`.
    pub envoy_stats_tags: Vec<String>,
    /// Time between two sendings of metrics.
    pub envoy_stats_flush_interval: Option<Duration>,
    /// A setting of Aralez's own, which Consul passes on: the first part of the names in StatsD and DogStatsD lines.
    pub aralez_statsd_prefix: Option<String>,
    /// A setting of Aralez's own: another proxy whose metric names are shown beside ours (`envoy`).
    pub aralez_metrics_compat: Option<String>,
    /// A setting of Aralez's own: the URL of the collector that spans go to, or `off`.
    pub aralez_tracing_endpoint: Option<String>,
    /// A setting of Aralez's own: the share of requests without a trace that begin one, `0.01` or `1%`.
    pub aralez_tracing_sampling: Option<String>,
    /// A setting of Aralez's own: the `service.name` of spans.
    pub aralez_tracing_service_name: Option<String>,
    /// A setting of Aralez's own: the headers in which a trace is passed on beside those that came.
    pub aralez_tracing_propagate: Option<Vec<String>>,
    /// The keys present that Consul knows and that mean something to Envoy or the built-in proxy only, as written.
    pub foreign: Vec<String>,
    /// The keys present that Consul does not know, as written.
    pub unknown: Vec<String>,
}

/// Settings of Envoy's configuration language or of the built-in proxy; there is nothing to read in them.
const FOREIGN_PROXY_KEYS: [&str; 12] = [
    "envoy_bootstrap_json_tpl",
    "envoy_extra_static_clusters_json",
    "envoy_extra_static_listeners_json",
    "envoy_extra_stats_sinks_json",
    "envoy_listener_tracing_json",
    "envoy_local_cluster_json",
    "envoy_public_listener_json",
    "envoy_stats_config_json",
    "envoy_telemetry_collector_bind_socket_dir",
    "envoy_tracing_json",
    "telemetry",
    "xds_fetch_timeout_ms",
];

impl ProxyConfig {
    /// Reads the map. What cannot be read is left `None` and told in the list, all of it at once.
    pub fn read(config: &Map<String, Value>) -> (Self, Vec<ConfigError>) {
        let mut errors = Vec::new();
        let mut reader = Reader::new("", config, &mut errors);
        let read = Self {
            protocol: reader.take("protocol", protocol),
            bind_address: reader.take("bind_address", text),
            bind_port: reader.take("bind_port", port),
            local_connect_timeout: reader.take("local_connect_timeout_ms", millis),
            local_request_timeout: reader.take("local_request_timeout_ms", millis),
            local_idle_timeout: reader.take("local_idle_timeout_ms", millis),
            handshake_timeout: reader.take("handshake_timeout_ms", millis),
            max_inbound_connections: reader.take("max_inbound_connections", count),
            balance_inbound_connections: reader.take("balance_inbound_connections", balance),
            envoy_prometheus_bind_addr: reader.take("envoy_prometheus_bind_addr", text),
            envoy_stats_bind_addr: reader.take("envoy_stats_bind_addr", text),
            envoy_statsd_url: reader.take("envoy_statsd_url", text),
            envoy_dogstatsd_url: reader.take("envoy_dogstatsd_url", text),
            envoy_stats_tags: reader.take("envoy_stats_tags", texts).unwrap_or_default(),
            envoy_stats_flush_interval: reader.take("envoy_stats_flush_interval", duration),
            aralez_statsd_prefix: reader.take("aralez_statsd_prefix", text),
            aralez_metrics_compat: reader.take("aralez_metrics_compat", text),
            aralez_tracing_endpoint: reader.take("aralez_tracing_endpoint", text),
            aralez_tracing_sampling: reader.take("aralez_tracing_sampling", text),
            aralez_tracing_service_name: reader.take("aralez_tracing_service_name", text),
            aralez_tracing_propagate: reader.take("aralez_tracing_propagate", texts),
            foreign: reader.take_names(&FOREIGN_PROXY_KEYS),
            unknown: reader.rest(),
        };
        (read, errors)
    }
}

/// `Upstreams[].Config`. A setting that is absent, empty or not readable is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The protocol towards the upstream: `tcp`, `http`, `http2` or `grpc`, lower case.
    pub protocol: Option<String>,
    /// `connect_timeout_ms`: time to establish a connection (5 s).
    pub connect_timeout: Option<Duration>,
    /// Circuit-breaker limits.
    pub limits: Limits,
    /// Outlier detection; `None` still means the proxy's own defaults, not "off".
    pub passive_health_check: Option<PassiveHealthCheck>,
    /// `exact_balance`: spread accepted connections evenly over the threads.
    pub balance_outbound_connections: Option<String>,
    /// The gateway mode: `none`, `local` or `remote`.
    pub mesh_gateway: Option<String>,
    /// Envoy listener in JSON that replaces the generated one.
    pub envoy_listener_json: Option<String>,
    /// Envoy cluster in JSON that replaces the generated one.
    pub envoy_cluster_json: Option<String>,
    /// `aralez_sticky_cookie`, which Consul does not know and passes on: the cookie that keeps a user at one endpoint.
    pub aralez_sticky_cookie: Option<StickyCookie>,
    /// `aralez_slow_start`, which Consul does not know and passes on: how long the share of a new endpoint grows.
    pub aralez_slow_start: Option<Duration>,
    /// The keys present that nobody knows, as written; nested ones with dots.
    pub unknown: Vec<String>,
}

/// A sticky cookie: written as its name, or as a map with the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name, a token as RFC 6265 wants it.
    pub name: String,
    /// How long it lives; `None` is for the browser's session.
    pub ttl: Option<Duration>,
    /// Its path; `None` is `/`.
    pub path: Option<String>,
}

/// Circuit-breaker limits; `None` means the proxy's own (Envoy's: 1024 each).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most connections.
    pub max_connections: Option<u32>,
    /// Most requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Most requests at the same time.
    pub max_concurrent_requests: Option<u32>,
}

/// Outlier detection; `None` means Envoy's own default, given in brackets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassiveHealthCheck {
    /// Time between evaluations (10 s).
    pub interval: Option<Duration>,
    /// Consecutive failures until an endpoint is ejected (5).
    pub max_failures: Option<u32>,
    /// Chance of ejection in percent (100).
    pub enforcing_consecutive_5xx: Option<u32>,
    /// Most endpoints ejected at once, in percent (10).
    pub max_ejection_percent: Option<u32>,
    /// Time of the first ejection (30 s).
    pub base_ejection_time: Option<Duration>,
}

impl UpstreamConfig {
    /// Reads the map. What cannot be read is left `None` and told in the list, all of it at once.
    pub fn read(config: &Map<String, Value>) -> (Self, Vec<ConfigError>) {
        let mut errors = Vec::new();
        let mut reader = Reader::new("", config, &mut errors);
        let mut unknown = Vec::new();
        let limits = reader.take_map("limits", |nested| {
            let limits = Limits {
                max_connections: nested.take("max_connections", count),
                max_pending_requests: nested.take("max_pending_requests", count),
                max_concurrent_requests: nested.take("max_concurrent_requests", count),
            };
            unknown.extend(nested.rest());
            limits
        });
        let passive_health_check = reader.take_map("passive_health_check", |nested| {
            let check = PassiveHealthCheck {
                interval: nested.take("interval", duration),
                max_failures: nested.take("max_failures", count),
                enforcing_consecutive_5xx: nested.take("enforcing_consecutive_5xx", percent),
                max_ejection_percent: nested.take("max_ejection_percent", percent),
                base_ejection_time: nested.take("base_ejection_time", duration),
            };
            unknown.extend(nested.rest());
            check
        });
        let mesh_gateway = reader.take_map("mesh_gateway", |nested| {
            let mode = nested.take("mode", gateway_mode);
            unknown.extend(nested.rest());
            mode
        });
        let sticky_cookie = StickyCookie::read(&mut reader, &mut unknown);
        let read = Self {
            protocol: reader.take("protocol", protocol),
            connect_timeout: reader.take("connect_timeout_ms", millis),
            limits: limits.unwrap_or_default(),
            passive_health_check,
            balance_outbound_connections: reader.take("balance_outbound_connections", balance),
            mesh_gateway: mesh_gateway.flatten(),
            envoy_listener_json: reader.take("envoy_listener_json", text),
            envoy_cluster_json: reader.take("envoy_cluster_json", text),
            aralez_sticky_cookie: sticky_cookie,
            aralez_slow_start: reader.take("aralez_slow_start", duration),
            unknown: {
                unknown.extend(reader.rest());
                unknown
            },
        };
        (read, errors)
    }
}

impl StickyCookie {
    fn read(reader: &mut Reader<'_, '_>, unknown: &mut Vec<String>) -> Option<Self> {
        const KEY: &str = "aralez_sticky_cookie";
        if reader.find(KEY).is_some_and(|(_, value)| value.is_string()) {
            return reader.take(KEY, cookie_name).map(|name| Self { name, ..Self::default() });
        }
        let read = reader.take_map(KEY, |nested| {
            if !nested.find("name").is_some_and(|(_, value)| is_set(value)) {
                nested.refuse("name", &Value::Null, COOKIE_NAME);
            }
            let name = nested.take("name", cookie_name);
            let (ttl, path) = (nested.take("ttl", duration), nested.take("path", cookie_path));
            unknown.extend(nested.rest());
            Some(Self { name: name?, ttl, path })
        });
        read.flatten()
    }
}

/// Takes settings out of a map one by one, in either spelling.
struct Reader<'a, 'e> {
    prefix: String,
    left: Vec<(&'a str, &'a Value)>,
    errors: &'e mut Vec<ConfigError>,
}

/// Reads one value, or says what it should be.
type Read<T> = fn(&Value) -> Result<T, &'static str>;

impl<'a, 'e> Reader<'a, 'e> {
    fn new(prefix: &str, map: &'a Map<String, Value>, errors: &'e mut Vec<ConfigError>) -> Self {
        let left = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
        Self { prefix: prefix.to_owned(), left, errors }
    }

    /// The setting: of several spellings the one written exactly like `name` wins, then the first by name.
    fn find(&self, name: &str) -> Option<(&'a str, &'a Value)> {
        let exact = self.left.iter().find(|(key, _)| *key == name);
        exact.or_else(|| self.left.iter().find(|(key, _)| same_key(key, name))).copied()
    }

    /// Removes the setting in all its spellings.
    fn remove(&mut self, name: &str) -> Option<(&'a str, &'a Value)> {
        let found = self.find(name);
        self.left.retain(|(key, _)| !same_key(key, name));
        found
    }

    fn take<T>(&mut self, name: &str, read: Read<T>) -> Option<T> {
        let (key, value) = self.remove(name).filter(|(_, value)| is_set(value))?;
        match read(value) {
            Ok(read) => Some(read),
            Err(expected) => {
                self.refuse(key, value, expected);
                None
            }
        }
    }

    fn take_map<T>(&mut self, name: &str, read: impl FnOnce(&mut Reader<'a, '_>) -> T) -> Option<T> {
        let (key, value) = self.remove(name).filter(|(_, value)| is_set(value))?;
        let Some(map) = value.as_object() else {
            self.refuse(key, value, "a map");
            return None;
        };
        Some(read(&mut Reader::new(&format!("{}{key}.", self.prefix), map, self.errors)))
    }

    fn take_names(&mut self, names: &[&str]) -> Vec<String> {
        names.iter().filter_map(|name| self.remove(name)).map(|(key, _)| key.to_owned()).collect()
    }

    /// The keys not taken so far.
    fn rest(&self) -> Vec<String> {
        self.left.iter().map(|(key, _)| format!("{}{key}", self.prefix)).collect()
    }

    fn refuse(&mut self, key: &str, value: &Value, expected: &'static str) {
        self.errors.push(ConfigError { key: format!("{}{key}", self.prefix), value: value.to_string(), expected });
    }
}

/// Go leaves nothing or empty text where nothing was set.
fn is_set(value: &Value) -> bool {
    !value.is_null() && value != ""
}

/// Whether a key is that setting, in any case and with or without `_`.
fn same_key(key: &str, name: &str) -> bool {
    letters(key).eq(letters(name))
}

fn letters(key: &str) -> impl Iterator<Item = u8> {
    key.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase())
}

fn text(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err("text"),
    }
}

fn texts(value: &Value) -> Result<Vec<String>, &'static str> {
    match value {
        Value::Array(items) => items.iter().map(text).collect::<Result<_, _>>().map_err(|_| "a list of texts"),
        _ => text(value).map(|text| vec![text]).map_err(|_| "a list of texts"),
    }
}

/// A whole number that is not negative, also as text or with a fraction of zero.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole_float)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Up to 2^53 every whole number is exact.
fn whole_float(number: f64) -> Option<u64> {
    let exact = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
    exact.then_some(number as u64)
}

fn count(value: &Value) -> Result<u32, &'static str> {
    whole(value).and_then(|number| u32::try_from(number).ok()).ok_or("a whole number, 0 to 4294967295")
}

fn percent(value: &Value) -> Result<u32, &'static str> {
    count(value).ok().filter(|number| *number <= 100).ok_or("a whole number, 0 to 100")
}

fn port(value: &Value) -> Result<u16, &'static str> {
    whole(value).and_then(|number| u16::try_from(number).ok()).ok_or("a port, 0 to 65535")
}

fn millis(value: &Value) -> Result<Duration, &'static str> {
    whole(value).map(Duration::from_millis).ok_or("a whole number of milliseconds, 0 or more")
}

fn duration(value: &Value) -> Result<Duration, &'static str> {
    let read = match value {
        Value::String(text) => text.trim().parse::<GoDuration>().ok().and_then(GoDuration::to_std),
        _ => whole(value).map(Duration::from_nanos),
    };
    read.ok_or("a duration such as \"1m30s\", or a whole number of nanoseconds, 0 or more")
}

fn one_of(value: &Value, allowed: &[&str]) -> Option<String> {
    let word = value.as_str()?.to_ascii_lowercase();
    allowed.contains(&word.as_str()).then_some(word)
}

fn protocol(value: &Value) -> Result<String, &'static str> {
    one_of(value, &["tcp", "http", "http2", "grpc"]).ok_or("tcp, http, http2 or grpc")
}

fn balance(value: &Value) -> Result<String, &'static str> {
    one_of(value, &["exact_balance"]).ok_or("exact_balance")
}

fn gateway_mode(value: &Value) -> Result<String, &'static str> {
    one_of(value, &["none", "local", "remote"]).ok_or("none, local or remote")
}

/// What a cookie's name is: a token (RFC 6265, section 4.1.1; RFC 9110, section 5.6.2).
const COOKIE_NAME: &str = "a cookie's name: letters, digits and !#$%&'*+-.^_`|~";

fn cookie_name(value: &Value) -> Result<String, &'static str> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = value.as_str().filter(|name| !name.is_empty() && name.bytes().all(token));
    name.map(str::to_owned).ok_or(COOKIE_NAME)
}

fn cookie_path(value: &Value) -> Result<String, &'static str> {
    let stands = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    let path = value.as_str().filter(|path| path.starts_with('/') && path.bytes().all(stands));
    path.map(str::to_owned).ok_or("a path that begins with / and has no ;")
}
