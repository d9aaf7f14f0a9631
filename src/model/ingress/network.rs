//! Addresses: networks, and who the client is.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;

/// Networks in CIDR form; a single address is a network of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Networks(pub Vec<IpNet>);

impl Networks {
    /// Whether an address is in one of them. IPv4 addresses in IPv6 clothes (`::ffff:…`) count as IPv4.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

/// How the client's address is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientAddress {
    /// Peers whose `X-Forwarded-*`, `Forwarded` and `X-Real-IP` are believed; empty by default, then those fields are overwritten.
    pub trusted: Networks,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Whether `Forwarded` (RFC 7239) is sent too.
    pub forwarded: bool,
}

/// PROXY protocol, versions 1 and 2, on an ingress listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// None is expected; one that comes is a bad request.
    #[default]
    Off,
    /// Connections from these peers must begin with one, others must not.
    From(Networks),
}
