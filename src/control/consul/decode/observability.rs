//! What the registration says of logs and metrics, and what in it means nothing here.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use consul_api_types::{AccessLogs, AgentService, ProxyConfig, UpstreamConfig};
use serde_json::{Map, Value};

use crate::model::{
    access_log::{AccessLog, JsonFormat, LineFormat, Sink, TextFormat},
    identity::ServiceName,
    metrics::{Compat, Dialect, FLUSH_INTERVAL, MetricsConfig, PREFIX, Push, PushTarget},
    registration::{Ignored, Unusable},
    tracing::{Collector, Forms, Sampling, TracingSettings},
};

/// Decodes `AccessLogs`.
pub fn access_log(logs: Option<&AccessLogs>, problems: &mut Vec<Unusable>) -> AccessLog {
    let Some(logs) = logs.filter(|logs| logs.enabled) else { return AccessLog::default() };
    let mut refuse = |key: &str, why: String, advice: &str| {
        problems.push(Unusable { path: format!("Proxy.AccessLogs.{key}"), why, advice: advice.to_owned() });
    };
    let sink = match logs.sink.as_str() {
        "" | "stdout" => Sink::Stdout,
        "stderr" => Sink::Stderr,
        "file" if !logs.path.is_empty() => Sink::File(PathBuf::from(&logs.path)),
        "file" => {
            refuse("Path", "it is empty although the type is file".to_owned(), "lines go to standard output until it is set");
            Sink::Stdout
        }
        other => {
            refuse("Type", format!("{other:?} is not known"), "lines go to standard output; use stdout, stderr or file");
            Sink::Stdout
        }
    };
    const WITHOUT_VALUE: &str = "it has no value in a line; docs/observability.md lists those that have";
    const STANDARD: &str = "lines have the default JSON keys until it is corrected";
    let mut unknown = Vec::new();
    let format = if !logs.json_format.is_empty() {
        json(&logs.json_format, &mut unknown).map_err(|why| refuse("JSONFormat", why, STANDARD))
    } else if !logs.text_format.is_empty() {
        text(&logs.text_format, &mut unknown).map_err(|why| refuse("TextFormat", why, STANDARD))
    } else {
        Ok(LineFormat::Standard)
    };
    for (place, operator) in unknown {
        refuse(&place, format!("%{operator}% is not known"), WITHOUT_VALUE);
    }
    AccessLog { enabled: true, refused: !logs.disable_listener_logs, sink, format: format.unwrap_or_default() }
}

/// Compiles `JSONFormat`; operators that are not known go to `unknown`, with their place.
fn json(format: &str, unknown: &mut Vec<(String, String)>) -> Result<LineFormat, String> {
    let fields: Map<String, Value> = serde_json::from_str(format).map_err(|why| format!("it is no JSON object: {why}"))?;
    let mut tell = |path: &str, name: &str| unknown.push((format!("JSONFormat.{path}"), name.to_owned()));
    JsonFormat::compile(Value::Object(fields), "", &mut tell).map(LineFormat::Json)
}

/// Compiles `TextFormat`, to which Consul adds the end of the line if it is missing.
fn text(format: &str, unknown: &mut Vec<(String, String)>) -> Result<LineFormat, String> {
    let end = if format.ends_with('\n') { "" } else { "\n" };
    let mut tell = |name: &str| unknown.push(("TextFormat".to_owned(), name.to_owned()));
    TextFormat::compile(&format!("{format}{end}"), &mut tell).map(LineFormat::Text)
}

/// Decodes where metrics go.
pub fn metrics(config: &ProxyConfig, service: &ServiceName, datacenter: &str, problems: &mut Vec<Unusable>) -> MetricsConfig {
    let mut refuse = |key: &str, why: String, advice: &str| {
        problems.push(Unusable { path: format!("Proxy.Config.{key}"), why, advice: advice.to_owned() });
    };
    let mut bind = |key: &str, text: Option<&String>| {
        let parsed = text?.parse::<SocketAddr>();
        parsed.map_err(|_| refuse(key, format!("{text:?} is no address", text = text.map_or("", |t| t)), "write IP:PORT")).ok()
    };
    let prometheus = bind("envoy_prometheus_bind_addr", config.envoy_prometheus_bind_addr.as_ref());
    let stats = bind("envoy_stats_bind_addr", config.envoy_stats_bind_addr.as_ref());
    let prefix: Arc<str> = config.aralez_statsd_prefix.as_deref().unwrap_or(PREFIX).trim_end_matches('.').into();
    let interval = config.envoy_stats_flush_interval.filter(|interval| !interval.is_zero()).unwrap_or(FLUSH_INTERVAL);
    let pushes = [
        ("envoy_statsd_url", Dialect::Statsd, &config.envoy_statsd_url),
        ("envoy_dogstatsd_url", Dialect::Dogstatsd, &config.envoy_dogstatsd_url),
    ];
    let pushes = pushes.into_iter().filter_map(|(key, dialect, url)| match PushTarget::parse(url.as_deref()?) {
        Ok(target) => Some(Push { dialect, target, prefix: prefix.clone(), interval }),
        Err(why) => {
            refuse(key, why, "no metrics are sent there until it is corrected");
            None
        }
    });
    let pushes = pushes.collect();
    let tags = config.envoy_stats_tags.iter().filter_map(|tag| match tag.split_once('=') {
        Some((name, value)) if !name.is_empty() => Some((name.into(), value.into())),
        _ => {
            refuse("envoy_stats_tags", format!("{tag:?} is not NAME=VALUE"), "the other tags are used");
            None
        }
    });
    let tags = tags.collect();
    let compat = match config.aralez_metrics_compat.as_deref() {
        None => None,
        Some("envoy") => Some(Compat::Envoy),
        Some(other) => {
            refuse("aralez_metrics_compat", format!("{other:?} is not known"), "the only names there are beside ours are envoy");
            None
        }
    };
    MetricsConfig { service: service.clone(), datacenter: datacenter.into(), prometheus, stats, tags, pushes, compat }
}

/// Decodes what is said of tracing.
pub fn tracing(config: &ProxyConfig, problems: &mut Vec<Unusable>) -> TracingSettings {
    let mut refuse = |key: &str, why: String, advice: &str| {
        problems.push(Unusable { path: format!("Proxy.Config.{key}"), why, advice: advice.to_owned() });
    };
    let endpoint = config.aralez_tracing_endpoint.as_deref().map(Collector::parse).transpose();
    let sampling = config.aralez_tracing_sampling.as_deref().map(Sampling::parse).transpose();
    let propagate = config.aralez_tracing_propagate.as_ref().map(|words| Forms::parse(words.iter().map(String::as_str))).transpose();
    TracingSettings {
        endpoint: endpoint.unwrap_or_else(|why| {
            refuse("aralez_tracing_endpoint", why, "no spans are sent until it is http://HOST:PORT of an OTLP/HTTP receiver");
            Some(Collector::Off)
        }),
        service: config.aralez_tracing_service_name.as_deref().map(Into::into),
        sampling: sampling.unwrap_or_else(|why| {
            refuse("aralez_tracing_sampling", why, "no request begins a trace until it is corrected");
            Some(Sampling::NONE)
        }),
        propagate: propagate.unwrap_or_else(|why| {
            refuse("aralez_tracing_propagate", why, "a trace is passed on as it came until it is corrected");
            None
        }),
    }
}

const ENVOYS: &str = "it is written in Envoy's own language or for Consul's built-in proxy";
const UNKNOWN: &str = "Consul knows no such setting, nor does Aralez";
const UNBALANCED: &str = "connections are not spread over threads by count";
const HANDSHAKE: &str = "Consul's proxies do not honour it either; a TLS handshake may take 10 s";
const TRACING: &str = "spans go to an OpenTelemetry collector, which aralez_tracing_endpoint names";

/// The settings of a registration that mean nothing here, sorted by path.
pub fn ignored(service: &AgentService) -> Vec<Ignored> {
    let Some(proxy) = &service.proxy else { return Vec::new() };
    let config = ProxyConfig::read(&proxy.config).0;
    let because = |why: &'static str| move |key: String| (key, why);
    let given = |key: &str, given: bool, why| given.then(|| (key.to_owned(), why));
    let own = config.foreign.into_iter().map(|key| {
        let why = if key.contains("tracing") { TRACING } else { ENVOYS };
        (key, why)
    });
    let own = own.chain(config.unknown.into_iter().map(because(UNKNOWN)));
    let own = own.chain(given("balance_inbound_connections", config.balance_inbound_connections.is_some(), UNBALANCED));
    let own = own.chain(given("handshake_timeout_ms", config.handshake_timeout.is_some(), HANDSHAKE));
    let own = own.map(|(key, why)| Ignored { path: format!("Proxy.Config.{key}"), why });
    let upstreams = proxy.upstreams.iter().enumerate().flat_map(|(at, upstream)| {
        let config = UpstreamConfig::read(&upstream.config).0;
        let keys = config.unknown.into_iter().map(because(UNKNOWN));
        let keys = keys.chain(given("balance_outbound_connections", config.balance_outbound_connections.is_some(), UNBALANCED));
        let keys = keys.chain(given("envoy_cluster_json", config.envoy_cluster_json.is_some(), ENVOYS));
        let keys = keys.chain(given("envoy_listener_json", config.envoy_listener_json.is_some(), ENVOYS));
        keys.map(move |(key, why)| Ignored { path: format!("Proxy.Upstreams[{at}].Config.{key}"), why })
    });
    let mut all: Vec<Ignored> = own.chain(upstreams).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn logs(fields: Value) -> (AccessLog, Vec<String>) {
        let mut problems = Vec::new();
        let log = access_log(Some(&serde_json::from_value(fields).unwrap()), &mut problems);
        (log, problems.into_iter().map(|p| format!("{}: {}", p.path, p.why)).collect())
    }

    fn sinks(config: Value) -> (MetricsConfig, Vec<String>) {
        let (config, errors) = ProxyConfig::read(config.as_object().unwrap());
        assert_eq!(errors, []);
        let mut problems = Vec::new();
        let metrics = metrics(&config, &ServiceName::local("web"), "dc1", &mut problems);
        (metrics, problems.into_iter().map(|p| p.path).collect())
    }

    #[test]
    fn formats_are_compiled_and_unknown_operators_told() {
        let (log, problems) = logs(json!({"Enabled": true, "TextFormat": "%PROTOCOL% %MOON%"}));
        assert_eq!(problems, ["Proxy.AccessLogs.TextFormat: %MOON% is not known"]);
        let LineFormat::Text(TextFormat(pieces)) = log.format else { panic!("{:?}", log.format) };
        assert_eq!(pieces.last(), Some(&crate::model::access_log::TextPiece::Text("\n".into())));
        let (log, problems) = logs(json!({"Enabled": true, "JSONFormat": "{\"a\": {\"b\": [\"%MOON%\"]}}"}));
        assert_eq!(problems, ["Proxy.AccessLogs.JSONFormat.a.b[0]: %MOON% is not known"]);
        assert!(matches!(log.format, LineFormat::Json(_)));
    }

    #[test]
    fn what_is_no_format_leaves_the_default() {
        for format in [json!({"JSONFormat": "[1]"}), json!({"JSONFormat": "{\"a\": \"%REQ%\"}"}), json!({"TextFormat": "50 %"})] {
            let mut fields = json!({"Enabled": true});
            fields.as_object_mut().unwrap().extend(format.as_object().unwrap().clone());
            let (log, problems) = logs(fields);
            assert_eq!((log.enabled, log.format, problems.len()), (true, LineFormat::Standard, 1), "{format}: {problems:?}");
        }
    }

    #[test]
    fn refused_connections_are_logged_unless_disabled() {
        assert!(logs(json!({"Enabled": true})).0.refused);
        assert!(!logs(json!({"Enabled": true, "DisableListenerLogs": true})).0.refused);
        assert_eq!(logs(json!({"Enabled": false, "Type": "syslog"})), (AccessLog::default(), Vec::new()));
    }

    #[test]
    fn metrics_go_where_the_keys_say() {
        let (metrics, problems) = sinks(json!({
            "envoy_prometheus_bind_addr": "0.0.0.0:9102", "envoy_stats_bind_addr": "[::1]:9103", "envoy_statsd_url": "$STATSD",
            "envoy_dogstatsd_url": "unix:///run/dsd.sock", "envoy_stats_tags": ["foo=bar"], "envoy_stats_flush_interval": "1s",
            "aralez_statsd_prefix": "mesh.",
        }));
        assert_eq!(problems, [""; 0]);
        assert_eq!(metrics.prometheus, Some(([0, 0, 0, 0], 9102).into()));
        assert_eq!(metrics.stats.unwrap().to_string(), "[::1]:9103");
        assert_eq!(metrics.tags, [("foo".into(), "bar".into())]);
        let push = |dialect, target| Push { dialect, target, prefix: "mesh".into(), interval: Duration::from_secs(1) };
        let expected = [
            push(Dialect::Statsd, PushTarget::Variable("STATSD".into())),
            push(Dialect::Dogstatsd, PushTarget::Unix("/run/dsd.sock".into())),
        ];
        assert_eq!(metrics.pushes, expected);
        let (none, _) = sinks(json!({}));
        assert_eq!((none.prometheus, none.stats, none.pushes), (None, None, Vec::new()));
    }

    #[test]
    fn each_unusable_key_is_told_and_the_others_hold() {
        let (metrics, problems) = sinks(json!({
            "envoy_prometheus_bind_addr": "9102", "envoy_statsd_url": "tcp://127.0.0.1:1", "envoy_dogstatsd_url": "udp://127.0.0.1:2",
            "envoy_stats_tags": ["colour", "a=b=c"],
        }));
        let keys = ["envoy_prometheus_bind_addr", "envoy_statsd_url", "envoy_stats_tags"].map(|key| format!("Proxy.Config.{key}"));
        assert_eq!(problems, keys);
        assert_eq!((metrics.pushes.len(), &metrics.tags[..]), (1, &[("a".into(), "b=c".into())][..]));
        assert_eq!((&*metrics.pushes[0].prefix, metrics.pushes[0].interval), ("envoy", Duration::from_secs(5)));
    }

    #[test]
    fn settings_that_mean_nothing_here_are_listed_with_the_reason() {
        let service = serde_json::from_value(json!({"Proxy": {
            "Config": {"envoy_tracing_json": "{}", "colour": "blue", "protocol": "http", "balance_inbound_connections": "exact_balance"},
            "Upstreams": [{}, {"Config": {"limits": {"max_kittens": 3}, "envoy_cluster_json": "{}", "protocol": "http"}}],
        }}));
        let all = ignored(&service.unwrap());
        let paths: Vec<&str> = all.iter().map(|i| i.path.as_str()).collect();
        let expected = [
            "Proxy.Config.balance_inbound_connections",
            "Proxy.Config.colour",
            "Proxy.Config.envoy_tracing_json",
            "Proxy.Upstreams[1].Config.envoy_cluster_json",
            "Proxy.Upstreams[1].Config.limits.max_kittens",
        ];
        assert_eq!(paths, expected);
        assert!(all[2].why.contains("aralez_tracing_endpoint"), "{:?}", all[2]);
    }

    #[test]
    fn tracing_is_read_key_by_key() {
        let read = |config: Value| {
            let (config, errors) = ProxyConfig::read(config.as_object().unwrap());
            assert_eq!(errors, []);
            let mut problems = Vec::new();
            let settings = tracing(&config, &mut problems);
            (settings, problems.into_iter().map(|p| p.path).collect::<Vec<_>>())
        };
        let (settings, problems) = read(json!({
            "aralez_tracing_endpoint": "http://otel:4318", "aralez_tracing_sampling": 0.5, "aralez_tracing_service_name": "shop",
            "aralez_tracing_propagate": ["w3c", "b3multi"],
        }));
        let expected = TracingSettings {
            endpoint: Some(Collector::At("http://otel:4318/v1/traces".into())),
            service: Some("shop".into()),
            sampling: Sampling::of(0.5),
            propagate: Some(Forms { w3c: true, b3: false, b3_multi: true }),
        };
        assert_eq!((settings, problems), (expected, Vec::new()));
        let keys = ["endpoint", "sampling", "propagate"].map(|key| format!("Proxy.Config.aralez_tracing_{key}"));
        let (settings, problems) =
            read(json!({"aralez_tracing_endpoint": "otel:4317", "aralez_tracing_sampling": "most", "aralez_tracing_propagate": "xray"}));
        assert_eq!(problems, keys);
        // What cannot be understood never sends more than was asked for.
        assert_eq!((settings.endpoint, settings.sampling), (Some(Collector::Off), Some(Sampling::NONE)));
        assert_eq!(read(json!({})), Default::default());
    }
}
