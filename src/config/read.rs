//! Texts of files made into values of the model.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, Uri};
use ipnet::IpNet;

use super::shape::{At, Of, Text, Wrong};
use crate::{
    model::{
        ingress::{
            Networks,
            pool::{Scheme, Server, ServerHost},
        },
        listener::{Address, Bind},
        secret::Secret,
    },
    telemetry::log::Level,
};

/// The folder that relative paths of a file are relative to.
pub(super) fn folder(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// A path from the root on, if the working directory is known.
pub(super) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
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

fn wrong<T>(what: impl Into<String>, advice: impl Into<String>) -> Result<T, Wrong> {
    Err((what.into(), advice.into()))
}

impl Text for Level {
    fn parse(text: &str) -> Result<Self, Wrong> {
        text.parse().or_else(|_| wrong(format!("{text:?} is no log level"), format!("use {}", Self::WORDS)))
    }
}

/// An address to listen on: `IP:port`, `localhost:port` or `unix:PATH`.
impl Text for Bind {
    fn parse(text: &str) -> Result<Self, Wrong> {
        let tcp = |text: &str| match text.strip_prefix("localhost:") {
            Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            None => text.parse().ok(),
        };
        let address = match text.strip_prefix("unix:") {
            Some(path) => Some(path).filter(|path| path.starts_with('/')).map(|path| Address::Unix(path.into())),
            None => tcp(text).map(Address::Tcp),
        };
        match address {
            Some(address) => Ok(Self { address, mode: None }),
            None => wrong(format!("{text:?} is no address to listen on"), "use IP:port, for example 0.0.0.0:443 or [::]:443"),
        }
    }
}

/// A network in CIDR form, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(IpNet);

impl Text for Network {
    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            Some(network) if network.addr() == network.network() => Ok(Self(network)),
            Some(network) => wrong(format!("{text:?} has bits behind its prefix"), format!("write {}", network.trunc())),
            None => wrong(format!("{text:?} is no network"), "write an address or a network, for example 10.0.0.0/8 or 2001:db8::/32"),
        }
    }
}

/// The networks of a list.
pub(super) fn networks(list: &[At<Of<Network>>]) -> Networks {
    Networks(list.iter().map(|at| at.value.0.0).collect())
}

/// A DNS server: `IP` or `IP:port`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DnsServer(pub(super) SocketAddr);

impl Text for DnsServer {
    fn parse(text: &str) -> Result<Self, Wrong> {
        let bare = || text.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
        match text.parse().ok().or_else(bare).filter(|address| address.port() > 0) {
            Some(address) => Ok(Self(address)),
            None => wrong(format!("{text:?} is no DNS server"), "write its IP or IP:port, for example 10.0.0.2:53"),
        }
    }
}

/// Headers that say where a message ends or what becomes of the connection: the proxy's own business.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// A header's name, any but those of framing.
impl Text for HeaderName {
    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.parse::<Self>() {
            Ok(name) if FRAMING.contains(&name.as_str()) => {
                wrong(format!("{text} belongs to the connection"), "leave it to the proxy, which sets it where it is due")
            }
            Ok(name) => Ok(name),
            Err(_) => wrong(format!("{text:?} is no header's name"), "use letters, digits and dashes"),
        }
    }
}

/// Whether a text could be a header's or a cookie's name: a token (RFC 9110, section 5.6.2).
pub(super) fn is_header(text: &str) -> bool {
    text.parse::<HeaderName>().is_ok()
}

/// `Name: value`.
#[derive(Clone, Debug)]
pub(super) struct HeaderLine(pub(super) HeaderName, pub(super) String);

impl Text for HeaderLine {
    fn parse(text: &str) -> Result<Self, Wrong> {
        let Some((name, value)) = text.split_once(':') else {
            return wrong(format!("{text:?} is no header"), "write \"Name: value\"");
        };
        let value = header_value(value.trim())?;
        Ok(Self(<HeaderName as Text>::parse(name.trim())?, value))
    }
}

/// The text of a header's value.
///
/// # Errors
/// What is wrong with it.
pub(super) fn header_value(text: &str) -> Result<String, Wrong> {
    match HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(format!("{text:?} is no header's value"), "use one line without control characters"),
    }
}

/// `http://` or `https://` with a host.
#[derive(Clone, Debug)]
pub(super) struct Url(pub(super) String);

impl Text for Url {
    fn parse(text: &str) -> Result<Self, Wrong> {
        let uri = text.parse::<Uri>().ok().filter(|_| !text.contains('#'));
        if uri.as_ref().and_then(Uri::authority).is_some_and(|authority| authority.as_str().contains('@')) {
            // What stands there may be a password.
            return wrong("a URL here has no name and password before its host", "take them out, and all up to the @");
        }
        let fine = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.authority().is_some_and(is_port)
        });
        if fine {
            Ok(Self(text.to_owned()))
        } else {
            wrong(format!("{text:?} is no URL"), "write http:// or https:// with a host, for example https://new.example")
        }
    }
}

/// Whether what follows the host is a port, if anything does.
fn is_port(authority: &http::uri::Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    rest.is_empty() || authority.port_u16().is_some_and(|port| port > 0)
}

/// A server: `host:port`, `[v6]:port`, `scheme://host[:port]` or `unix:PATH`; its share is 1.
impl Text for Server {
    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') || path.len() > 107 {
                return wrong(
                    format!("{text:?} is no socket"),
                    "write its path from the root on, at most 107 bytes, for example unix:/run/app.sock",
                );
            }
            return Ok(Self { host: ServerHost::Unix(path.into()), scheme: Some(Scheme::Http), weight: 1 });
        }
        let (scheme, authority) = match text.split_once("://") {
            Some((word, rest)) => match Scheme::parse(&word.to_ascii_lowercase()) {
                Some(scheme) => (Some(scheme), rest.strip_suffix('/').unwrap_or(rest)),
                None => {
                    return wrong(
                        format!("{word:?} is no scheme of a server"),
                        "use http, https, h2c, grpc or grpcs, or none to have it found out",
                    );
                }
            },
            None => (None, text),
        };
        if authority.contains(['/', '?', '#', '@']) {
            return wrong(format!("{text:?} is more than a server"), "name its host and port only; rewrite and strip_prefix change paths");
        }
        let usual = match scheme {
            Some(scheme) if scheme.is_tls() => Some(443),
            Some(Scheme::Http) => Some(80),
            _ => None,
        };
        Ok(Self { host: server_host(authority, usual)?, scheme, weight: 1 })
    }
}

fn server_host(authority: &str, usual: Option<u16>) -> Result<ServerHost, Wrong> {
    let example = "write host:port, for example 127.0.0.1:8080, app:8080 or [::1]:8080";
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, port) = match (bracketed, authority.rsplit_once(':')) {
        (Some((name, "")), _) => (name, None),
        (Some((name, port)), _) => match port.strip_prefix(':') {
            Some(port) => (name, Some(port)),
            None => return wrong(format!("{authority:?} is no server"), example),
        },
        (None, Some((name, _))) if name.contains(':') => {
            return wrong(format!("{authority:?} has too many colons"), "put an IPv6 address in brackets: [::1]:8080");
        }
        (None, Some((name, port))) => (name, Some(port)),
        (None, None) => (authority, None),
    };
    let port = match (port, usual) {
        (Some(text), _) => match text.parse::<u16>() {
            Ok(port) if port > 0 && !text.starts_with('+') => port,
            _ => return wrong(format!("{text:?} is no port"), "use 1 to 65535"),
        },
        (None, Some(port)) => port,
        (None, None) => return wrong(format!("{authority:?} has no port"), example),
    };
    match name.parse::<IpAddr>() {
        Ok(address) if bracketed.is_none() || address.is_ipv6() => Ok(ServerHost::Ip(address, port)),
        Err(_) if bracketed.is_none() && is_host_name(name) => Ok(ServerHost::Name(name.to_ascii_lowercase().into(), port)),
        _ => wrong(format!("{name:?} is neither a host's name nor an address"), example),
    }
}

/// Whether a name can be one of DNS: labels of letters, digits, `-` and `_` (which containers have), at most 253 bytes. One that ends in a number would
/// be an address.
pub(super) fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let ends_in_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !ends_in_number
}

/// A name that clients can ask for: `shop.example`, `*.shop.example`, an address, `[v6]`; `DEFAULT` or `*` for every other.
///
/// # Errors
/// What is wrong with it.
pub(super) fn client_host(text: &str) -> Result<(), Wrong> {
    let v6 = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fine = text == "*"
        || text.eq_ignore_ascii_case("default")
        || is_host_name(text.strip_prefix("*.").unwrap_or(text))
        || text.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    if fine {
        return Ok(());
    }
    wrong(
        format!("{text:?} is no host"),
        "write a name such as shop.example, *.shop.example or [::1], or DEFAULT for every other; a host has no port",
    )
}
