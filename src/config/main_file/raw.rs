//! The keys of `main.yaml`.

use super::access_log::RawAccessLog;
use crate::{
    config::{
        acme::AcmeChallenge,
        read::{DnsServer, Network, Url},
        shape::{At, Of, Several, Switch, Time, Within, Word, Words, section},
    },
    model::{
        ingress::TlsGrade,
        listener::Bind,
        metrics::Compat,
        tracing::{Collector, Sampling},
    },
    telemetry::log::Level,
};

section! {
    /// `main.yaml`: what is read once, at the start of the process.
    struct Main {
        /// Worker threads; 0 is as many as there are cores. Default 1.
        threads: Within<0, 1024>,
        /// The user to become once the listeners are bound; needs a start as root. Default: none.
        user ["runuser"]: String,
        /// The group to become. Default: the user's own.
        group ["rungroup"]: String,
        /// Whether the process goes to the background. Default false.
        daemon: bool,
        /// Most idle connections to servers that are kept for reuse. Default 128.
        upstream_keepalive_pool_size: Within<0, 1_000_000>,
        /// Where the process id is written. Default: nowhere.
        pid_file: String,
        /// Where the log goes; opened anew on SIGUSR1. Default: standard error.
        error_log ["log_file"]: String,
        /// How much is logged: trace, debug, info, warn, error or off. Default info.
        log_level: Of<Level>,
        /// How it is logged: text or json. Default text.
        log_format: Word<LogFormat>,
        /// Whether requests are logged, and where: off, stdout (also all, true), stderr, a file, or a map. Default off.
        access_log: Switch<RawAccessLog>,
        /// What is shown of metrics beside ours. Default: nothing.
        metrics: Metrics,
        /// Spans for a collector of OpenTelemetry. Default: what the variables OTEL_… say, else none.
        tracing: Tracing,
        /// The Unix socket on which a new process asks for the listeners of this one. Default: none.
        upgrade_sock: String,
        /// How long open connections may go on after SIGTERM or a hand-over. Default 30s.
        grace_period ["grace_period_seconds"]: Time,
        /// Where the config API listens. Default 127.0.0.1:3000 if the API is on and has no TLS address; loopback unless you say otherwise.
        config_address: Of<Bind>,
        /// Where the config API listens with TLS. Default: nowhere.
        config_tls_address: Of<Bind>,
        /// The certificate of the config API, a PEM file; needed with config_tls_address.
        config_tls_certificate: String,
        /// The key of that certificate, a PEM file; needed with config_tls_address.
        config_tls_key_file: String,
        /// Whether configuration may be pushed. Default: true where there is a master_key.
        config_api_enabled: bool,
        /// What the config API asks for, and what tokens of /jwt are signed with. Default: none.
        master_key: String,
        /// A file that holds the master_key.
        master_key_file: String,
        /// Where the proxy listens in clear. Default: nowhere.
        proxy_address_http: Of<Bind>,
        /// Where the proxy listens with TLS. Default: nowhere.
        proxy_address_tls: Of<Bind>,
        /// The folder of certificates, NAME.crt with NAME.key; needed with proxy_address_tls.
        proxy_certificates: String,
        /// The newer spelling: the folder that has the folder `certificates`.
        proxy_configs: String,
        /// The NAME of the certificate for clients that ask for none of the names. Default: the first by name.
        default_certificate: String,
        /// How strictly TLS is spoken: high (A+), medium (A) or unsafe. Default medium.
        proxy_tls_grade: Word<TlsGrade>,
        /// Strict-Transport-Security on answers over TLS: for how long, or false. Default: two years with grade high, else off.
        hsts: Switch<Time>,
        /// The certificates that clients must or may show. Default: none is asked for.
        client_certificates: ClientCertificates,
        /// The port at which clients reach proxy_address_tls, for to_https. Default: its own.
        public_https_port: Within<1, 65_535>,
        /// Certificates from an ACME server such as Let's Encrypt. Default: none.
        acme: Acme,
        /// Networks of proxies in front whose X-Forwarded-* is believed. Default: none.
        trusted_proxies: Several<Of<Network>>,
        /// Networks of peers whose connections begin with a PROXY header, version 1 or 2. Default: none.
        proxy_protocol: Several<Of<Network>>,
        /// Whether servers get Forwarded (RFC 7239) beside X-Forwarded-*. Default false.
        forwarded: bool,
        /// The file with the routes.
        upstreams_conf: String,
        /// Whom to ask for the addresses of servers' names, IP or IP:port. Default: whom the system asks.
        dns_servers: Several<Of<DnsServer>>,
        /// How servers are probed: HEAD, GET or POST. Default HEAD.
        hc_method: Word<Method>,
        /// The pause between two probes of a server. Default 2s.
        hc_interval: Time,
        /// The folder of the file server; needs file_server_address. Default: none.
        file_server_folder: String,
        /// Where the file server listens; needs file_server_folder. Default: nowhere.
        file_server_address: Of<Bind>,
        refused "tcp_keepalive_idle": "dead clients are found by the idle timeouts; take the key away",
        refused "tcp_keepalive_interval": "dead clients are found by the idle timeouts; take the key away",
        refused "tcp_keepalive_count": "dead clients are found by the idle timeouts; take the key away",
        refused "work_stealing": "it is always on; take the key away",
        refused "listener_tasks_per_fd": "listeners need no tuning; take the key away",
        refused "graceful_shutdown_timeout_seconds": "grace_period bounds the whole drain; take the key away",
        refused "max_retries": "retries belong to routes: write retries in the routes file",
        refused "ca_file": "whom to trust belongs to routes: write tls_ca in the routes file",
        refused "client_bind_to_ipv4": "the system chooses the address of connections to servers; take the key away",
        refused "client_bind_to_ipv6": "the system chooses the address of connections to servers; take the key away",
        refused "upgrade_sock_connect_accept_max_retries": "a hand-over waits as long as it needs; take the key away",
        refused "cache_size_mb": "answers are not cached; take the key away",
        refused "cache_ttl": "answers are not cached; take the key away",
    }
}

section! {
    /// What is shown of metrics beside ours.
    struct Metrics {
        /// Another proxy's names, for dashboards that know them: envoy. Default: none.
        compat: Word<Compat>,
    }
}

section! {
    /// Spans for a collector of OpenTelemetry.
    struct Tracing {
        /// The URL of the collector's OTLP/HTTP receiver, or off. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else off.
        endpoint: Of<Collector>,
        /// The share of requests without a trace that begin one: 0 to 1, or percent. Default: what OTEL_TRACES_SAMPLER says, else 0.
        sampling: Sampling,
        /// The service.name of the spans. Default: OTEL_SERVICE_NAME, else aralez.
        service_name: String,
        /// Headers that servers get beside those that came, or if none came: w3c, b3, b3multi. Default: w3c if none came.
        propagate: Several<String>,
    }
}

section! {
    /// Certificates that clients show.
    struct ClientCertificates {
        /// Whom to trust, a PEM file.
        ca: String,
        /// Whether a client without one is refused. Default true.
        required: bool,
    }
}

section! {
    /// Certificates from an ACME server (RFC 8555).
    struct Acme {
        /// Whom the server may write to. Default: nobody.
        email ["contacts"]: Several<String>,
        /// The names; a list inside the list shares one certificate.
        domains: Vec<At<Several<String>>>,
        /// The URL of the server's directory. Default: Let's Encrypt.
        directory: Of<Url>,
        /// Whom to trust when it is called, a PEM file. Default: the system's roots.
        ca_file: String,
        /// How names are proved to be ours: http-01 or tls-alpn-01. Default http-01.
        challenge: Word<AcmeChallenge>,
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFormat {
    Text,
    Json,
}

impl Words for LogFormat {
    const WHAT: &'static str = "log format";
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Words for Compat {
    const WHAT: &'static str = "name of metrics";
    const WORDS: &'static [(&'static str, Self)] = &[("envoy", Self::Envoy)];
}

impl Words for TlsGrade {
    const WHAT: &'static str = "TLS grade";
    const WORDS: &'static [(&'static str, Self)] = &[("high", Self::High), ("medium", Self::Medium), ("unsafe", Self::Unsafe)];
}

impl Words for AcmeChallenge {
    const WHAT: &'static str = "challenge";
    const WORDS: &'static [(&'static str, Self)] = &[("http-01", Self::Http01), ("tls-alpn-01", Self::TlsAlpn01)];
}

/// A method of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Method(pub(in crate::config) &'static str);

impl Words for Method {
    const WHAT: &'static str = "method of health checks";
    const WORDS: &'static [(&'static str, Self)] = &[("head", Self("HEAD")), ("get", Self("GET")), ("post", Self("POST"))];
}
