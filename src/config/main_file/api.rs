//! The config API: where it listens, and who may use it.

use std::path::PathBuf;

use super::{Checker, raw::Main};
use crate::{
    config::named,
    model::{
        listener::{Address, Bind},
        secret::Secret,
    },
};

/// Where the API listens if nothing else is said.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 3000);

/// The listeners of the config API, and who may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiSettings {
    /// `config_address`; 127.0.0.1:3000 if the API is on and has no other address.
    pub address: Option<Bind>,
    /// `config_tls_address` with its certificate.
    pub tls: Option<ApiTls>,
    /// Whether configuration may be pushed (`config_api_enabled`); on by default where there is a master key. Never on without one.
    pub enabled: bool,
    /// `master_key`; never empty.
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

impl Checker<'_> {
    pub(super) fn api(&mut self, raw: &Main) -> ApiSettings {
        let (inline, file) = (raw.master_key.as_ref(), raw.master_key_file.as_ref());
        let master_key = named::secret("master_key", inline, file, &self.folder, self.check).map(|at| at.value);
        let is_named = inline.is_some() || file.is_some();
        let tls = match (&raw.config_tls_address, &raw.config_tls_certificate, &raw.config_tls_key_file) {
            (Some(address), Some(certificate), Some(key)) => {
                Some(ApiTls { address: address.value.0.clone(), certificate: self.path(certificate), key: self.path(key) })
            }
            (Some(address), _, _) => {
                let advice = "name its files as config_tls_certificate and config_tls_key_file";
                self.check.fault(&address.place, "config_tls_address without a certificate", advice);
                None
            }
            // The seeds have the certificate's keys without the address too.
            (None, ..) => None,
        };
        let enabled = raw.config_api_enabled.as_ref().map_or(master_key.is_some(), |at| at.value);
        if let (Some(at), false, true) = (&raw.config_api_enabled, is_named, enabled) {
            let advice = "write a long random master_key, or config_api_enabled: false";
            self.check.fault(&at.place, "config_api_enabled without master_key: everybody could push a configuration", advice);
        }
        let otherwise = (enabled && tls.is_none()).then(|| Bind { address: Address::Tcp(ADDRESS.into()), mode: None });
        let address = raw.config_address.as_ref().map(|at| at.value.0.clone()).or(otherwise);
        ApiSettings { address, tls, enabled, master_key }
    }
}
