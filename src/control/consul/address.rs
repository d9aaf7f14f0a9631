//! The agent's address and TLS settings, as Consul's own clients read them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use openssl::pkey::PKey;
use reqwest::{
    Certificate, ClientBuilder, Identity, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::config::agent::AgentConfig;

/// Where an agent listens when nothing is said.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8500";

/// A setting of the agent's address that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct ConfigProblem {
    /// The setting, by the name of its variable.
    pub setting: &'static str,
    /// What is wrong with it.
    pub why: String,
}

fn wrong(setting: &'static str, why: impl ToString) -> ConfigProblem {
    ConfigProblem { setting, why: why.to_string() }
}

/// Where requests go: `http://` or `https://` with an optional path prefix, through a Unix socket if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// What paths are appended to; without a slash at its end.
    pub base: String,
    /// The Unix socket.
    pub socket: Option<PathBuf>,
    /// The host to look up when the base names another one, for the sake of the certificate.
    pub dial: Option<String>,
}

/// Reads the address.
pub(super) fn target(config: &AgentConfig) -> Result<Target, ConfigProblem> {
    const SETTING: &str = "CONSUL_HTTP_ADDR";
    let address = if config.address.is_empty() { DEFAULT_ADDRESS } else { &config.address };
    let plain = if config.ssl { "https" } else { "http" };
    let (scheme, rest) = address.split_once("://").unwrap_or((plain, address));
    let (scheme, rest, socket) = match scheme {
        "http" | "https" => (scheme, rest, None),
        "unix" if Path::new(rest).is_absolute() => (plain, "localhost", Some(PathBuf::from(rest))),
        "unix" => return Err(wrong(SETTING, format!("{rest:?} is not an absolute path"))),
        other => return Err(wrong(SETTING, format!("{other}:// is not known; use http://, https:// or unix://"))),
    };
    let mut url: Url = format!("{scheme}://{rest}").parse().map_err(|e| wrong(SETTING, format!("{address:?}: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(SETTING, "it holds a user name or password; use CONSUL_HTTP_AUTH"));
    }
    let mut dial = None;
    if let Some(name) = config.tls_server_name.as_deref().filter(|n| !n.is_empty() && scheme == "https") {
        dial = url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
        url.set_host(Some(name)).map_err(|e| wrong("CONSUL_TLS_SERVER_NAME", format!("{name:?}: {e}")))?;
    }
    Ok(Target { base: url.as_str().trim_end_matches('/').to_owned(), socket, dial })
}

/// Applies socket, resolution and TLS to a builder.
pub(super) fn configure(config: &AgentConfig, target: &Target, builder: ClientBuilder) -> Result<ClientBuilder, ConfigProblem> {
    let mut builder = builder.tls_danger_accept_invalid_certs(!config.ssl_verify);
    if let Some(socket) = &target.socket {
        builder = builder.unix_socket(socket.as_path());
    }
    if let Some(host) = &target.dial {
        builder = builder.dns_resolver(Redirected { host: host.clone() });
    }
    let authorities = authorities(config)?;
    // Without HTTPS the system's roots would be loaded for nothing: megabytes, and the milliseconds of a start.
    if !authorities.is_empty() || !target.base.starts_with("https://") {
        builder = builder.tls_certs_only(authorities);
    }
    match (&config.client_cert, &config.client_key) {
        (Some(certificate), Some(key)) => Ok(builder.identity(identity(certificate, key)?)),
        (None, None) => Ok(builder),
        (Some(_), None) => Err(wrong("CONSUL_CLIENT_KEY", "it is missing, although CONSUL_CLIENT_CERT is set")),
        (None, Some(_)) => Err(wrong("CONSUL_CLIENT_CERT", "it is missing, although CONSUL_CLIENT_KEY is set")),
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, ConfigProblem> {
    std::fs::read(path).map_err(|e| wrong(setting, format!("{}: {e}", path.display())))
}

/// The CAs of file and folder; a file wins over a folder, as in Consul.
fn authorities(config: &AgentConfig) -> Result<Vec<Certificate>, ConfigProblem> {
    let bundle = |setting, path: &Path| {
        let found = Certificate::from_pem_bundle(&read(setting, path)?).map_err(|e| wrong(setting, format!("{}: {e}", path.display())))?;
        if found.is_empty() {
            return Err(wrong(setting, format!("{}: no certificate in it", path.display())));
        }
        Ok(found)
    };
    if let Some(file) = &config.ca_file {
        return bundle("CONSUL_CACERT", file);
    }
    let Some(folder) = &config.ca_path else { return Ok(Vec::new()) };
    const SETTING: &str = "CONSUL_CAPATH";
    let entries = std::fs::read_dir(folder).map_err(|e| wrong(SETTING, format!("{}: {e}", folder.display())))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect();
    files.sort();
    let mut all = Vec::new();
    for file in &files {
        all.extend(bundle(SETTING, file)?);
    }
    if all.is_empty() {
        return Err(wrong(SETTING, format!("{}: no certificate in it", folder.display())));
    }
    Ok(all)
}

/// The client certificate; Consul's tools write SEC1 keys, the TLS library wants PKCS#8.
fn identity(certificate: &Path, key: &Path) -> Result<Identity, ConfigProblem> {
    let pem = read("CONSUL_CLIENT_KEY", key)?;
    let pkcs8 = PKey::private_key_from_pem(&pem).and_then(|key| key.private_key_to_pem_pkcs8());
    let pkcs8 = pkcs8.map_err(|_| wrong("CONSUL_CLIENT_KEY", format!("{}: no private key in PEM form", key.display())))?;
    let pem = read("CONSUL_CLIENT_CERT", certificate)?;
    Identity::from_pkcs8_pem(&pem, &pkcs8).map_err(|e| wrong("CONSUL_CLIENT_CERT", format!("{}: {e}", certificate.display())))
}

/// Looks up one host whatever name is asked for: the URL names who the certificate must be for, not who is dialled.
struct Redirected {
    host: String,
}

impl Resolve for Redirected {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.host.clone();
        Box::pin(async move {
            // Port 0: the URL's own port is put in by the caller.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn at(address: &str) -> AgentConfig {
        AgentConfig { address: address.to_owned(), ssl_verify: true, ..AgentConfig::default() }
    }

    fn base(config: &AgentConfig) -> String {
        target(config).unwrap().base
    }

    #[test]
    fn all_forms_of_an_address_are_read() {
        assert_eq!(base(&at("")), "http://127.0.0.1:8500");
        assert_eq!(base(&at("localhost:8500")), "http://localhost:8500");
        assert_eq!(base(&at("[::1]:8500")), "http://[::1]:8500");
        assert_eq!(base(&at("https://consul.example:8501/behind/a/path/")), "https://consul.example:8501/behind/a/path");
        assert_eq!(base(&AgentConfig { ssl: true, ..at("consul:8501") }), "https://consul:8501");
        assert_eq!(base(&AgentConfig { ssl: true, ..at("http://consul:8500") }), "http://consul:8500");
        let unix = target(&at("unix:///run/consul.sock")).unwrap();
        assert_eq!((unix.base.as_str(), unix.socket), ("http://localhost", Some("/run/consul.sock".into())));
    }

    #[test]
    fn the_server_name_stands_in_the_url_and_the_host_is_dialled() {
        let config = AgentConfig { tls_server_name: Some("server.dc1.consul".into()), ..at("https://10.0.0.1:8501") };
        let target = target(&config).unwrap();
        assert_eq!((target.base.as_str(), target.dial.as_deref()), ("https://server.dc1.consul:8501", Some("10.0.0.1")));
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_with_its_setting() {
        for address in ["ftp://consul", "unix://relative.sock", "http://", "http://user:secret@consul:8500"] {
            let problem = target(&at(address)).unwrap_err();
            assert_eq!(problem.setting, "CONSUL_HTTP_ADDR", "{address}");
            assert!(!problem.why.contains("secret"));
        }
    }

    #[test]
    fn unreadable_tls_files_are_named() {
        let missing = PathBuf::from("/nonexistent/ca.pem");
        let problem = |config: AgentConfig| configure(&config, &target(&config).unwrap(), ClientBuilder::new()).unwrap_err();
        let ca = problem(AgentConfig { ca_file: Some(missing.clone()), ..at("https://consul:8501") });
        assert!(ca.setting == "CONSUL_CACERT" && ca.why.contains("/nonexistent/ca.pem"), "{ca}");
        let half = problem(AgentConfig { client_cert: Some(missing), ..at("https://consul:8501") });
        assert_eq!(half.setting, "CONSUL_CLIENT_KEY");
    }
}
