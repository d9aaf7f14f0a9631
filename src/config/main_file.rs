//! `main.yaml`: what is read once, at the start.

mod access_log;
mod acme;
mod api;
mod raw;
mod tracing;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::api::{ApiSettings, ApiTls};
use self::raw::{LogFormat, Main};
use super::{
    acme::AcmeSettings,
    fault::{Check, Faults, Place},
    named,
    process::{DEFAULT_GRACE, ProcessSettings},
    read,
    shape::{At, Definitions, Several, Shape, Switch, Time, place},
    shown::shown,
    tree::{self, Environment, Node},
};
use crate::model::{
    ingress::{ClientAddress, ClientAuth, IngressListeners, ProxyProtocol, TlsGrade, TlsListener, filters::Files},
    listener::{Address, Bind},
    metrics::Compat,
};

/// `Strict-Transport-Security` where the file asks for it without a time, and with grade `high`: two years, what browsers' preload lists want.
const HSTS: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// `main.yaml`, checked. Paths are resolved against its folder.
#[derive(Clone, Debug)]
pub struct MainFile {
    /// The file itself.
    pub path: PathBuf,
    /// What stands in it, without secrets: see [`shown::shown`](super::shown::shown).
    pub shown: String,
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
    /// `metrics.compat`: whose series are shown beside ours.
    pub compat: Option<Compat>,
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
    /// Reads and checks the file. What it names is not read, but for secrets and the roots of client certificates.
    ///
    /// # Errors
    /// [`Faults`] with everything that is wrong.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        Self::parse(&tree::read(path)?, path)
    }

    /// Checks the text of the file that `path` names.
    ///
    /// # Errors
    /// [`Faults`] with everything that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Faults> {
        Self::parse_in(text, path, tree::environment)
    }

    pub(super) fn parse_in(text: &str, path: &Path, env: Environment) -> Result<Self, Faults> {
        let mut check = Check::default();
        let start = Place::start(Some(path.display().to_string().into()));
        let node = Node::parse(text, start.file.clone(), env, &mut check)?;
        let main = Main::read(&node, &mut check).and_then(|raw| {
            let folder = read::folder(path);
            let shown = shown(&[(path.to_owned(), text.to_owned())]);
            Checker { check: &mut check, start: &start, at: node.place.clone(), folder }.main(path, shown, raw)
        });
        check.finish(main)?.ok_or_else(|| Faults::one(start, "is no main.yaml", ""))
    }

    /// The schema of the file, with the sections that it refers to.
    pub(super) fn schema(definitions: &mut Definitions) -> serde_json::Value {
        Main::schema(definitions)
    }

    /// The folder beside the routes file whose files are merged over it: `conf.d`.
    pub fn routes_folder(&self) -> PathBuf {
        read::folder(&self.upstreams).join("conf.d")
    }
}

struct Checker<'a> {
    check: &'a mut Check,
    start: &'a Place,
    at: Place,
    folder: PathBuf,
}

impl Checker<'_> {
    fn path(&self, path: &At<String>) -> PathBuf {
        self.folder.join(&path.value)
    }

    fn missing(&mut self, key: &str, advice: &str) {
        self.check.lacking(&self.at, format!("{key} is missing"), advice);
    }

    /// `None` after a fault was told.
    fn main(&mut self, path: &Path, shown: String, raw: Main) -> Option<MainFile> {
        let http = raw.proxy_address_http.as_ref().map(|at| at.value.0.clone());
        let tls = self.tls_listener(&raw);
        if http.is_none() && tls.is_none() {
            self.missing("proxy_address_http", "say where to listen, for example 0.0.0.0:80, here or with proxy_address_tls");
        }
        if raw.upstreams_conf.is_none() {
            self.missing("upstreams_conf", "name the file with the routes, for example upstreams.yaml");
        }
        let certificates = self.certificates(&raw);
        let files = self.files(&raw);
        let api = self.api(&raw);
        let sealing = api.master_key.clone().map_or_else(read::random_secret, Ok);
        let sealing = sealing.map_err(|why| self.check.fault(self.start, why, ""));
        let acme = self.acme(&raw, certificates.as_deref());
        let listen = self.listen(&raw, api.address.as_ref());
        let process = self.process(&raw, listen);
        let health = HealthDefaults {
            method: raw.hc_method.as_ref().map_or("HEAD", |at| at.value.0.0).into(),
            interval: self.pause(raw.hc_interval.as_ref()),
        };
        let access_log = access_log::access_log(raw.access_log.as_ref(), &self.folder, self.check);
        let tracing = tracing::tracing(raw.tracing.as_ref(), self.check);
        Some(MainFile {
            path: path.to_owned(),
            shown,
            process,
            listeners: IngressListeners {
                http,
                tls,
                files,
                client: Arc::new(client_address(&raw)),
                access_log: Arc::new(access_log),
                tracing,
                sealing: sealing.ok()?,
            },
            certificates,
            default_certificate: raw.default_certificate.as_ref().map(|at| at.value.as_str().into()),
            upstreams: self.path(raw.upstreams_conf.as_ref()?),
            api,
            health,
            acme,
            compat: raw.metrics.as_ref().and_then(|at| Some(at.value.compat.as_ref()?.value.0)),
            dns_servers: raw.dns_servers.iter().flat_map(|at| &at.value.0).map(|server| server.value.0.0).collect(),
        })
    }

    fn process(&self, raw: &Main, listen: Vec<Bind>) -> ProcessSettings {
        let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone());
        let path = |at: &Option<At<String>>| at.as_ref().map(|at| self.path(at));
        ProcessSettings {
            threads: raw.threads.as_ref().map_or(1, |at| at.value.size()),
            keepalive_pool: Some(raw.upstream_keepalive_pool_size.as_ref().map_or(128, |at| at.value.size())),
            user: text(&raw.user),
            group: text(&raw.group),
            daemon: raw.daemon.as_ref().is_some_and(|at| at.value),
            pid_file: path(&raw.pid_file),
            error_log: path(&raw.error_log),
            upgrade_sock: path(&raw.upgrade_sock),
            upgrade: false,
            log_level: raw.log_level.as_ref().map(|at| at.value.0).unwrap_or_default(),
            log_json: raw.log_format.as_ref().is_some_and(|at| at.value.0 == LogFormat::Json),
            grace: raw.grace_period.as_ref().map_or(DEFAULT_GRACE, |at| at.value.0),
            listen,
        }
    }

    /// Every address that is listened on; two of the same are a fault.
    fn listen(&mut self, raw: &Main, api: Option<&Bind>) -> Vec<Bind> {
        let named = [
            ("proxy_address_http", &raw.proxy_address_http),
            ("proxy_address_tls", &raw.proxy_address_tls),
            ("file_server_address", &raw.file_server_address),
            ("config_address", &raw.config_address),
            ("config_tls_address", &raw.config_tls_address),
        ];
        let mut all: Vec<(&str, Bind)> = Vec::new();
        for (key, at) in named {
            let Some(At { value, place }) = at else { continue };
            if let Some((other, _)) = all.iter().find(|(_, known)| clash(known, &value.0)) {
                self.check.fault(place, format!("{key} is the address of {other} too"), "give each listener an address of its own");
            }
            all.push((key, value.0.clone()));
        }
        if let Some(api) = api
            && raw.config_address.is_none()
        {
            if let Some((other, _)) = all.iter().find(|(_, known)| clash(known, api)) {
                let what = format!("{other} is where the config API listens if nothing else is said");
                self.check.fault(self.start, what, "say config_address, or config_api_enabled: false");
            }
            all.push(("config_address", api.clone()));
        }
        all.into_iter().map(|(_, bind)| bind).collect()
    }

    fn certificates(&mut self, raw: &Main) -> Option<PathBuf> {
        let folder = match (&raw.proxy_certificates, &raw.proxy_configs) {
            (Some(_), Some(other)) => {
                self.check.fault(&other.place, "proxy_certificates and proxy_configs name the same folder", "keep one");
                None
            }
            (Some(folder), None) => Some(self.path(folder)),
            (None, folder) => folder.as_ref().map(|folder| self.path(folder).join("certificates")),
        };
        let is_named = raw.proxy_certificates.is_some() || raw.proxy_configs.is_some();
        if let (Some(tls), false) = (&raw.proxy_address_tls, is_named) {
            let advice = "name the folder of NAME.crt and NAME.key as proxy_certificates";
            self.check.fault(&tls.place, "proxy_address_tls without certificates", advice);
        }
        folder
    }

    fn tls_listener(&mut self, raw: &Main) -> Option<TlsListener> {
        let grade = raw.proxy_tls_grade.as_ref().map(|at| at.value.0).unwrap_or_default();
        let hsts = match raw.hsts.as_ref().map(|at| &at.value) {
            None => (grade == TlsGrade::High).then_some(HSTS),
            Some(Switch::Off) => None,
            Some(Switch::On) => Some(HSTS),
            Some(Switch::With(Time(time))) => Some(*time),
        };
        let client_auth = self.client_auth(raw);
        let Some(at) = &raw.proxy_address_tls else {
            self.without_tls(raw);
            return None;
        };
        let public_port = raw.public_https_port.as_ref().and_then(|at| u16::try_from(at.value.small()).ok());
        Some(TlsListener { bind: at.value.0.clone(), grade, client_auth, hsts, public_port })
    }

    /// What means nothing where no TLS is spoken.
    fn without_tls(&mut self, raw: &Main) {
        let keys = [
            ("hsts", place(&raw.hsts)),
            ("client_certificates", place(&raw.client_certificates)),
            ("default_certificate", place(&raw.default_certificate)),
        ];
        for (key, found) in keys {
            if let Some(found) = found {
                self.check.fault(found, format!("{key} without proxy_address_tls"), "say where TLS is spoken, or take the key away");
            }
        }
    }

    fn client_auth(&mut self, raw: &Main) -> Option<ClientAuth> {
        let At { value, place } = raw.client_certificates.as_ref()?;
        let Some(ca) = &value.ca else {
            self.check.lacking(place, "client_certificates without ca", "name the PEM file with whom to trust");
            return None;
        };
        let roots = named::certificates("ca", ca, &self.folder, self.check)?;
        Some(ClientAuth { roots, required: value.required.as_ref().is_none_or(|at| at.value) })
    }

    fn files(&mut self, raw: &Main) -> Option<(Bind, Files)> {
        match (&raw.file_server_address, &raw.file_server_folder) {
            (Some(address), Some(folder)) => {
                let root = read::absolute(self.path(folder));
                Some((address.value.0.clone(), Files { root, index: vec!["index.html".into()], ..Files::default() }))
            }
            (Some(address), None) => {
                self.check.fault(&address.place, "file_server_address without a folder", "name it as file_server_folder");
                None
            }
            (None, Some(folder)) => {
                let advice = "say where to listen as file_server_address, for example 127.0.0.1:3002";
                self.check.fault(&folder.place, "file_server_folder without an address", advice);
                None
            }
            (None, None) => None,
        }
    }

    /// `hc_interval`.
    fn pause(&mut self, interval: Option<&At<Time>>) -> Duration {
        let Some(At { value: Time(time), place }) = interval else { return Duration::from_secs(2) };
        if time.is_zero() {
            let advice = "use 1 or more; healthcheck: false of a route switches probes off";
            self.check.fault(place, "hc_interval 0 would probe without a pause", advice);
        }
        *time
    }
}

fn client_address(raw: &Main) -> ClientAddress {
    let peers = raw.proxy_protocol.as_ref().map(|at| read::networks(&at.value.0)).filter(|peers| !peers.0.is_empty());
    let trusted = raw.trusted_proxies.as_ref().map(|At { value: Several(list), .. }| read::networks(list));
    ClientAddress {
        trusted: trusted.unwrap_or_default(),
        proxy_protocol: peers.map_or(ProxyProtocol::Off, ProxyProtocol::From),
        forwarded: raw.forwarded.as_ref().is_some_and(|at| at.value),
    }
}

/// Whether two addresses cannot both be listened on: the same port, of the same or of all addresses.
fn clash(one: &Bind, other: &Bind) -> bool {
    match (&one.address, &other.address) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let overlap = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && overlap
        }
        (one, other) => one == other,
    }
}
