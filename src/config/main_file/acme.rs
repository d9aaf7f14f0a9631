//! `acme`: certificates that are ordered.

use std::path::Path;

use super::{
    Checker,
    raw::{self, Main},
};
use crate::config::{
    acme::{AcmeCertificate, AcmeChallenge, AcmeSettings, LETS_ENCRYPT},
    read,
    shape::{At, Several},
};

impl Checker<'_> {
    /// `None` without ACME, or after a fault was told.
    pub(super) fn acme(&mut self, raw: &Main, folder: Option<&Path>) -> Option<AcmeSettings> {
        let At { value: acme, place } = raw.acme.as_ref()?;
        let Some(folder) = folder else {
            self.check.fault(place, "acme without a folder for certificates", "name it as proxy_certificates");
            return None;
        };
        let challenge = acme.challenge.as_ref().map(|at| at.value.0).unwrap_or_default();
        let (needed, is_there) = match challenge {
            AcmeChallenge::Http01 => ("proxy_address_http", raw.proxy_address_http.is_some()),
            AcmeChallenge::TlsAlpn01 => ("proxy_address_tls", raw.proxy_address_tls.is_some()),
        };
        if !is_there {
            self.check.fault(
                place,
                format!("the ACME server asks at {needed}, which is not there"),
                format!("add {needed}, or another challenge"),
            );
        }
        let certificates = self.orders(acme, place)?;
        let contact = |at: &At<String>| if at.value.contains(':') { at.value.clone() } else { format!("mailto:{}", at.value) };
        Some(AcmeSettings {
            directory: acme.directory.as_ref().map_or_else(|| LETS_ENCRYPT.to_owned(), |at| at.value.0.0.clone()),
            roots: acme.ca_file.as_ref().map(|at| self.path(at)),
            contacts: acme.email.iter().flat_map(|at| &at.value.0).map(contact).collect(),
            challenge,
            certificates,
            folder: folder.to_owned(),
        })
    }

    fn orders(&mut self, acme: &raw::Acme, place: &crate::config::fault::Place) -> Option<Vec<AcmeCertificate>> {
        let lists = acme.domains.as_ref().map(|at| at.value.as_slice()).unwrap_or_default();
        if lists.iter().all(|at| at.value.0.is_empty()) {
            self.check.lacking(place, "acme without domains", "list the names of the certificates as domains");
            return None;
        }
        let mut known: Vec<String> = Vec::new();
        let mut certificates = Vec::new();
        for At { value: Several(names), .. } in lists {
            let domains: Vec<String> = names.iter().filter_map(|name| self.domain(name, &mut known)).collect();
            if let Some(first) = domains.first() {
                certificates.push(AcmeCertificate {
                    name: first.as_str().into(),
                    domains: domains.iter().map(|name| name.as_str().into()).collect(),
                });
            }
        }
        Some(certificates)
    }

    fn domain(&mut self, name: &At<String>, known: &mut Vec<String>) -> Option<String> {
        let domain = name.value.trim_end_matches('.').to_ascii_lowercase();
        let wrong = if domain.starts_with("*.") {
            Some((
                format!("{:?} cannot be ordered: a wildcard needs the challenge dns-01", name.value),
                "list each name, or put a certificate into the folder",
            ))
        } else if !read::is_host_name(&domain) || !domain.contains('.') {
            Some((format!("{:?} is no name that an ACME server certifies", name.value), "write a DNS name such as shop.example"))
        } else if known.contains(&domain) {
            Some((format!("{:?} is ordered twice", name.value), "keep one"))
        } else {
            None
        };
        if let Some((what, advice)) = wrong {
            self.check.fault(&name.place, what, advice);
            return None;
        }
        known.push(domain.clone());
        Some(domain)
    }
}
