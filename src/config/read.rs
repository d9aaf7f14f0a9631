//! Texts of files made into values of the model.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::model::{
    ingress::{
        filters::Files,
        pool::{Scheme, Server, ServerHost},
    },
    listener::{Address, Bind},
    secret::Secret,
};

/// The folder that relative paths of a file are relative to.
pub(super) fn folder(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// A path from the root on, if the working directory is known.
pub(super) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// An address to listen on: `IP:port`, `localhost:port` or `unix:PATH`.
pub(super) fn bind(text: &str) -> Option<Bind> {
    let address = match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Address::Unix(path.into()),
        Some(_) => return None,
        None => Address::Tcp(match text.strip_prefix("localhost:") {
            Some(port) => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port.parse().ok()?),
            None => text.parse().ok()?,
        }),
    };
    Some(Bind { address, mode: None })
}

/// A secret that nobody knows.
///
/// # Errors
/// When the system gives no random bytes.
pub(super) fn random_secret() -> Result<Secret, String> {
    let mut bytes = [0; 32];
    openssl::rand::rand_bytes(&mut bytes).map_err(|error| format!("no random bytes to be had: {error}"))?;
    Ok(Secret::new(STANDARD.encode(bytes)))
}

/// Files of a folder, with nothing special.
pub(super) fn files(root: PathBuf) -> Files {
    Files { root, index: vec!["index.html".into()], listing: false, precompressed: false, cache_control: None, strip: "".into() }
}

/// A server: `host:port`, `[v6]:port`, `scheme://host[:port]` or `unix:PATH`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn server(text: &str) -> Result<Server, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err("the path of a socket begins with a slash, for example unix:/run/app.sock".to_owned());
        }
        return Ok(Server { host: ServerHost::Unix(path.into()), scheme: Some(Scheme::Http), weight: 1 });
    }
    let (scheme, authority) = match text.split_once("://") {
        Some((word, rest)) => {
            let scheme = Scheme::parse(&word.to_ascii_lowercase())
                .ok_or_else(|| format!("{word:?} is no scheme; use http, https, h2c, grpc or grpcs, or none to have it found out"))?;
            (Some(scheme), rest.strip_suffix('/').unwrap_or(rest))
        }
        None => (None, text),
    };
    if let Some(at) = authority.find(['/', '?', '#', '@']) {
        let part = authority.get(at..).unwrap_or_default();
        return Err(format!("{part:?} is no part of a server; name host and port only (rewrite changes the path)"));
    }
    let usual = match scheme {
        Some(scheme) if scheme.is_tls() => Some(443),
        Some(Scheme::Http) => Some(80),
        _ => None,
    };
    Ok(Server { host: host(authority, usual)?, scheme, weight: 1 })
}

fn host(authority: &str, usual: Option<u16>) -> Result<ServerHost, String> {
    let bare = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, port) = match bare {
        Some((name, "")) => (name, None),
        Some((name, port)) => (name, Some(port.strip_prefix(':').ok_or("after ] a port follows, for example [::1]:8080")?)),
        None => match authority.rsplit_once(':') {
            Some((name, _)) if name.contains(':') => return Err(format!("an IPv6 address stands in brackets: [{authority}]:port")),
            Some((name, port)) => (name, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(text) => text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text:?} is no port; use 1 to 65535"))?,
        None => usual.ok_or("the port is missing, for example 127.0.0.1:8080")?,
    };
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(ServerHost::Ip(address, port)),
        Err(_) if bare.is_some() => Err(format!("{name:?} is no IPv6 address")),
        Err(_) if is_host_name(name) => Ok(ServerHost::Name(name.to_ascii_lowercase().into(), port)),
        Err(_) => Err(format!("{name:?} is no host name or address")),
    }
}

/// Whether a name can be one of DNS: labels of letters, digits, `-` and `_` (which containers have), at most 253 bytes. Four numbers would be an address.
pub(super) fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && !name.split('.').next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}
