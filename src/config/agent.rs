//! How to reach the local Consul agent, as flags and `CONSUL_*` variables say it.

use std::{fmt, path::PathBuf, time::Duration};

use crate::model::secret::Secret;

/// The agent's address and what it wants to see. The same fields, defaults and precedence as Consul's own clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentConfig {
    /// `host:port`, `http://…`, `https://…` (both with an optional path prefix) or `unix://<path>`; empty is `127.0.0.1:8500`.
    pub address: String,
    /// ACL token. A token file wins over it.
    pub token: Option<Secret>,
    /// File that holds the ACL token; read again when it changes and when the agent answers 403.
    pub token_file: Option<PathBuf>,
    /// `user:password` for HTTP basic authentication.
    pub auth: Option<Secret>,
    /// Use HTTPS although the address has no scheme.
    pub ssl: bool,
    /// Verify the agent's certificate; only `CONSUL_HTTP_SSL_VERIFY=false` turns it off.
    pub ssl_verify: bool,
    /// PEM file with the CA of the agent's certificate.
    pub ca_file: Option<PathBuf>,
    /// Folder with PEM files of CAs.
    pub ca_path: Option<PathBuf>,
    /// Client certificate, PEM file.
    pub client_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM file.
    pub client_key: Option<PathBuf>,
    /// Name to expect in the agent's certificate, and to send as SNI.
    pub tls_server_name: Option<String>,
    /// Namespace of the service; sent only when it is neither empty nor `default` (Consul CE refuses it otherwise).
    pub namespace: Option<String>,
    /// Admin partition of the service; sent under the same condition.
    pub partition: Option<String>,
    /// How long the agent may hold a query; `None` is Consul's default, 5 minutes. A hung agent is noticed a little after it.
    pub wait: Option<Duration>,
    /// What to do if the agent cannot be reached: told until it has answered once. For an address that nobody stated.
    pub advice: Option<String>,
}

/// Which registration is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxySelector {
    /// The one `connect-proxy` registration whose `DestinationServiceID` is this (compared without case).
    SidecarFor(String),
    /// The registration with this id.
    ProxyId(String),
    /// The one that Nomad made for a sidecar of this allocation: its id begins with `_nomad-task-<allocation>-group-<group>-` (Nomad 1.11).
    NomadTask {
        /// The allocation's id.
        allocation: String,
        /// Name of its group.
        group: String,
        /// Name of the service, where the group may have several with a sidecar each.
        service: Option<String>,
    },
}

/// Whose proxy it is, for messages.
impl fmt::Display for ProxySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SidecarFor(id) | Self::ProxyId(id) => f.write_str(id),
            Self::NomadTask { allocation, group, service: None } => write!(f, "group {group} of Nomad's allocation {allocation}"),
            Self::NomadTask { allocation, service: Some(service), .. } => write!(f, "{service} of Nomad's allocation {allocation}"),
        }
    }
}
