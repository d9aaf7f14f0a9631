//! The keys of `main.yaml`.

use crate::config::shape::{Time, Within, section};

section! {
    /// `main.yaml`: what is read once, at the start of the process.
    struct RawMain {
        /// Worker threads; 0 is as many as there are cores.
        threads: Within<0, 1024>,
        /// The user to become after the listeners are bound; needs a start as root.
        user ["runuser"]: String,
        /// The group to become; the user's own if it is not said.
        group ["rungroup"]: String,
        /// Whether the process goes to the background.
        daemon: bool,
        /// Most idle connections to servers that are kept for reuse.
        upstream_keepalive_pool_size: Within<0, 1_000_000>,
        /// Where the process id is written.
        pid_file: String,
        /// Where the log goes instead of standard error; opened anew on SIGUSR1.
        error_log ["log_file"]: String,
        /// The Unix socket on which a new process asks for the listeners of this one.
        upgrade_sock: String,
        /// How long open connections may go on after SIGTERM or a hand-over.
        grace_period ["grace_period_seconds"]: Time,
        /// Where the config API listens.
        config_address: String,
        /// Where the config API listens with TLS.
        config_tls_address: String,
        /// The certificate of the config API, a PEM file.
        config_tls_certificate: String,
        /// The key of that certificate, a PEM file.
        config_tls_key_file: String,
        /// Whether configuration may be pushed.
        config_api_enabled: bool,
        /// What the config API asks for, and what tokens are signed with.
        master_key: String,
        /// Where the proxy listens in clear.
        proxy_address_http: String,
        /// Where the proxy listens with TLS.
        proxy_address_tls: String,
        /// The folder of certificates: NAME.crt with NAME.key.
        proxy_certificates: String,
        /// The folder that has the folder `certificates`: the newer spelling of proxy_certificates.
        proxy_configs: String,
        /// How strictly TLS is spoken: high (A+), medium (A) or unsafe.
        proxy_tls_grade: String,
        /// The file with the routes.
        upstreams_conf: String,
        /// How much is logged: trace, debug, info, warn, error or off.
        log_level: String,
        /// How servers are probed: HEAD, GET or POST.
        hc_method: String,
        /// The pause between two probes of a server.
        hc_interval: Time,
        /// The folder of the file server.
        file_server_folder: String,
        /// Where the file server listens.
        file_server_address: String,
    }
}
