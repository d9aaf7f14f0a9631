//! `main.yaml`: what is read once, at the start.

mod raw;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::raw::RawMain;
use super::{
    acme::AcmeSettings,
    fault::{Check, Faults},
    process::{DEFAULT_GRACE, ProcessSettings},
    read,
    shape::{At, Shape, Time, Within},
    tree::{self, Environment, Node},
};
use crate::{
    model::{
        access_log::AccessLog,
        ingress::{ClientAddress, IngressListeners, TlsGrade, TlsListener, filters::Files},
        listener::{Address, Bind},
        secret::Secret,
    },
    telemetry::log::Level,
};

/// `main.yaml`, checked. Paths are resolved against its folder.
#[derive(Clone, Debug)]
pub struct MainFile {
    /// The file itself.
    pub path: PathBuf,
    /// How the process lives.
    pub process: ProcessSettings,
    /// The listeners of the proxy.
    pub listeners: IngressListeners,
    /// The folder of `NAME.crt` and `NAME.key` (`proxy_certificates`, or `certificates` in `proxy_configs`); always there with a TLS listener.
    pub certificates: Option<PathBuf>,
    /// The `NAME` of the certificate for clients that ask for none of the others.
    pub default_certificate: Option<Arc<str>>,
    /// `upstreams_conf`.
    pub upstreams: PathBuf,
    /// The config API.
    pub api: ApiSettings,
    /// What `healthcheck: true` means.
    pub health: HealthDefaults,
    /// Certificates from an ACME server.
    pub acme: Option<AcmeSettings>,
    /// Whom to ask for the addresses of servers' names; empty is whom the system asks.
    pub dns_servers: Vec<SocketAddr>,
    /// Most idle connections to servers that are kept (`upstream_keepalive_pool_size`).
    pub keepalive_pool: usize,
}

/// The listeners of the config API, and who may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiSettings {
    /// `config_address`; 127.0.0.1:3000 if the API is on and has no other address.
    pub address: Option<Bind>,
    /// `config_tls_address` with its certificate.
    pub tls: Option<ApiTls>,
    /// Whether configuration may be pushed (`config_api_enabled`); on by default where there is a master key. Never on without one.
    pub enabled: bool,
    /// `master_key`.
    pub master_key: Option<Secret>,
}

/// The TLS listener of the config API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTls {
    /// Where it listens.
    pub address: Bind,
    /// Its certificate chain, a PEM file.
    pub certificate: PathBuf,
    /// The key, a PEM file.
    pub key: PathBuf,
}

/// What `healthcheck: true` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthDefaults {
    /// `hc_method`: `HEAD`, `GET` or `POST`.
    pub method: Arc<str>,
    /// `hc_interval`.
    pub interval: Duration,
}

impl MainFile {
    /// Reads and checks the file. What it names is not read, but for secrets in files of their own.
    ///
    /// # Errors
    /// [`Faults`] with everything that is wrong.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        Self::load_in(path, tree::environment)
    }

    /// The folder beside the routes file whose files are merged over it: `conf.d`.
    pub fn routes_folder(&self) -> PathBuf {
        read::folder(&self.upstreams).join("conf.d")
    }

    fn load_in(path: &Path, env: Environment) -> Result<Self, Faults> {
        let mut check = Check::default();
        let node = Node::parse(&tree::read(path)?, Some(path.display().to_string().into()), env, &mut check)?;
        let raw = RawMain::read(&node, &mut check).unwrap_or_default();
        let main = Checker { check: &mut check, node: &node, folder: read::folder(path) }.main(path, raw);
        check.finish(main).and_then(|main| main.ok_or_else(|| Faults::one(node.place.clone(), "is not a main.yaml", "")))
    }
}

struct Checker<'a> {
    check: &'a mut Check,
    node: &'a Node,
    folder: PathBuf,
}

impl Checker<'_> {
    fn path(&self, path: &At<String>) -> PathBuf {
        self.folder.join(&path.value)
    }

    fn missing(&mut self, key: &str, advice: &str) {
        self.check.fault(&self.node.place, format!("{key} is missing"), advice);
    }

    /// `None` after a fault was told.
    fn main(&mut self, path: &Path, raw: RawMain) -> Option<MainFile> {
        let http = self.bind(&raw.proxy_address_http);
        let tls = self.tls_listener(&raw);
        if raw.proxy_address_http.is_none() && raw.proxy_address_tls.is_none() {
            self.missing("proxy_address_http", "say where to listen, for example 0.0.0.0:80, here or with proxy_address_tls");
        }
        let files = self.files(&raw);
        let api = self.api(&raw);
        let sealing = api.master_key.clone().map_or_else(read::random_secret, Ok);
        let sealing = sealing.map_err(|why| self.check.fault(&self.node.place, why, ""));
        let upstreams = raw.upstreams_conf.as_ref().map(|file| self.path(file));
        if upstreams.is_none() {
            self.missing("upstreams_conf", "name the file with the routes, for example upstreams.yaml");
        }
        let certificates = match (&raw.proxy_certificates, &raw.proxy_configs) {
            (Some(folder), _) => Some(self.path(folder)),
            (None, folder) => folder.as_ref().map(|folder| self.path(folder).join("certificates")),
        };
        if let (Some(tls), None) = (&raw.proxy_address_tls, &certificates) {
            self.check.fault(
                &tls.place,
                "proxy_address_tls without certificates",
                "name the folder of NAME.crt and NAME.key as proxy_certificates",
            );
        }
        let binds = [http.as_ref(), tls.as_ref().map(|tls| &tls.bind), files.as_ref().map(|(bind, _)| bind), api.address.as_ref()];
        let listen: Vec<Bind> = binds.into_iter().chain([api.tls.as_ref().map(|tls| &tls.address)]).flatten().cloned().collect();
        let process = self.process(&raw, listen);
        let health = HealthDefaults { method: self.method(&raw.hc_method), interval: self.interval(&raw.hc_interval) };
        Some(MainFile {
            path: path.to_owned(),
            process,
            listeners: IngressListeners {
                http,
                tls,
                files,
                client: Arc::new(ClientAddress::default()),
                access_log: Arc::new(AccessLog::default()),
                sealing: sealing.ok()?,
            },
            certificates,
            default_certificate: None,
            upstreams: upstreams?,
            api,
            health,
            acme: None,
            dns_servers: Vec::new(),
            keepalive_pool: raw.upstream_keepalive_pool_size.map_or(128, |at| at.value.0 as usize),
        })
    }

    fn process(&mut self, raw: &RawMain, listen: Vec<Bind>) -> ProcessSettings {
        let log_level = match &raw.log_level {
            Some(word) => word.value.parse().unwrap_or_else(|unknown: crate::telemetry::log::UnknownLevel| {
                self.check.fault(&word.place, unknown.to_string(), "");
                Level::default()
            }),
            None => Level::default(),
        };
        ProcessSettings {
            threads: raw.threads.as_ref().map_or(1, |at| at.value.0 as usize),
            user: raw.user.as_ref().map(|at| at.value.clone()),
            group: raw.group.as_ref().map(|at| at.value.clone()),
            daemon: raw.daemon.as_ref().is_some_and(|at| at.value),
            pid_file: raw.pid_file.as_ref().map(|at| self.path(at)),
            error_log: raw.error_log.as_ref().map(|at| self.path(at)),
            upgrade_sock: raw.upgrade_sock.as_ref().map(|at| self.path(at)),
            log_level,
            grace: raw.grace_period.as_ref().map_or(DEFAULT_GRACE, |at| at.value.0),
            listen,
            ..ProcessSettings::default()
        }
    }

    fn bind(&mut self, address: &Option<At<String>>) -> Option<Bind> {
        let At { value, place } = address.as_ref()?;
        let bind = read::bind(value);
        if bind.is_none() {
            self.check.fault(place, format!("{value:?} is no address to listen on"), "use IP:port, for example 0.0.0.0:443 or [::]:443");
        }
        bind
    }

    fn tls_listener(&mut self, raw: &RawMain) -> Option<TlsListener> {
        let grade = match &raw.proxy_tls_grade {
            None => TlsGrade::default(),
            Some(At { value, place }) => match value.to_ascii_lowercase().as_str() {
                "high" => TlsGrade::High,
                "medium" => TlsGrade::Medium,
                "unsafe" => TlsGrade::Unsafe,
                _ => {
                    self.check.fault(place, format!("{value:?} is no grade"), "use high, medium or unsafe");
                    TlsGrade::default()
                }
            },
        };
        let bind = self.bind(&raw.proxy_address_tls)?;
        let hsts = (grade == TlsGrade::High).then_some(Duration::from_secs(2 * 365 * 24 * 3600));
        Some(TlsListener { bind, grade, client_auth: None, hsts, public_port: None })
    }

    fn files(&mut self, raw: &RawMain) -> Option<(Bind, Files)> {
        match (&raw.file_server_address, &raw.file_server_folder) {
            (Some(_), Some(folder)) => {
                let root = read::absolute(self.path(folder));
                Some((self.bind(&raw.file_server_address)?, read::files(root)))
            }
            (Some(address), None) => {
                self.check.fault(&address.place, "file_server_address without a folder", "name it as file_server_folder");
                None
            }
            (None, Some(folder)) => {
                self.check.fault(
                    &folder.place,
                    "file_server_folder without an address",
                    "say where to listen as file_server_address, for example 127.0.0.1:3002",
                );
                None
            }
            (None, None) => None,
        }
    }

    fn api(&mut self, raw: &RawMain) -> ApiSettings {
        let master_key = raw.master_key.as_ref().map(|at| Secret::new(at.value.clone()));
        if let Some(at) = raw.master_key.as_ref().filter(|at| at.value.is_empty()) {
            self.check.fault(&at.place, "an empty master_key lets everybody in", "write a long random one");
        }
        let tls = match (&raw.config_tls_address, &raw.config_tls_certificate, &raw.config_tls_key_file) {
            (Some(_), Some(certificate), Some(key)) => self.bind(&raw.config_tls_address).map(|address| ApiTls {
                address,
                certificate: self.path(certificate),
                key: self.path(key),
            }),
            (Some(address), _, _) => {
                self.check.fault(
                    &address.place,
                    "config_tls_address without a certificate",
                    "name its files as config_tls_certificate and config_tls_key_file",
                );
                None
            }
            (None, ..) => None,
        };
        let enabled = raw.config_api_enabled.as_ref().map_or(master_key.is_some(), |at| at.value);
        if let (Some(at), None, true) = (&raw.config_api_enabled, &master_key, enabled) {
            self.check.fault(
                &at.place,
                "config_api_enabled without master_key: everybody could push a configuration",
                "write a long random master_key, or config_api_enabled: false",
            );
        }
        let given = self.bind(&raw.config_address);
        let otherwise = || (enabled && tls.is_none()).then(|| Bind { address: Address::Tcp(([127, 0, 0, 1], 3000).into()), mode: None });
        let address = if raw.config_address.is_some() { given } else { otherwise() };
        ApiSettings { address, tls, enabled, master_key }
    }

    fn interval(&mut self, interval: &Option<At<Time>>) -> Duration {
        let Some(At { value: Time(time), place }) = interval else { return Duration::from_secs(2) };
        if time.is_zero() {
            self.check.fault(
                place,
                "hc_interval 0 would probe without a pause",
                "use 1 or more; healthcheck: false of a route switches probes off",
            );
        }
        *time
    }

    fn method(&mut self, method: &Option<At<String>>) -> Arc<str> {
        let Some(At { value, place }) = method else { return "HEAD".into() };
        let upper = value.to_ascii_uppercase();
        if !["HEAD", "GET", "POST"].contains(&upper.as_str()) {
            self.check.fault(place, format!("{value:?} is no method of health checks"), "use HEAD, GET or POST");
        }
        upper.into()
    }
}

/// A number of a file as it is kept.
impl<const LEAST: u64, const MOST: u64> At<Within<LEAST, MOST>> {
    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.value.0).unwrap_or(u32::MAX)
    }
}
