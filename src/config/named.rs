//! Files that configuration files name: secrets and certificates.

use std::path::Path;

use openssl::{pkey::PKey, x509::X509};

use super::{
    fault::{Check, Place},
    shape::At,
    tree,
};
use crate::model::{
    credentials::{self, Certificate},
    secret::Secret,
};

/// The text of a file that is named at `at`; `None` after a fault was told.
pub(super) fn text(path: &Path, at: &Place, check: &mut Check) -> Option<String> {
    check.also_read(path);
    match tree::read(path) {
        Ok(text) => Some(text),
        Err(faults) => {
            let why: Vec<String> = faults.0.into_iter().map(|fault| fault.what).collect();
            check.fault(at, format!("{}: {}", path.display(), why.join(", ")), "name a file that is there and can be read");
            None
        }
    }
}

/// A secret that stands in the file itself or in one of its own, without the end of its line; `None` if there is none, or after a fault was told.
pub(super) fn secret(
    key: &str,
    inline: Option<&At<String>>,
    file: Option<&At<String>>,
    folder: &Path,
    check: &mut Check,
) -> Option<At<Secret>> {
    let (text, place) = match (inline, file) {
        (Some(_), Some(file)) => {
            check.fault(&file.place, format!("{key} and {key}_file exclude each other"), "keep one");
            return None;
        }
        (Some(inline), None) => (inline.value.clone(), &inline.place),
        (None, Some(file)) => (text(&folder.join(&file.value), &file.place, check)?, &file.place),
        (None, None) => return None,
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        check.fault(place, format!("an empty {key} would let everybody in"), "write a long random one");
        return None;
    }
    Some(At { value: Secret::new(text), place: place.clone() })
}

/// The certificates of a PEM file; `None` after a fault was told.
pub(super) fn certificates(key: &str, file: &At<String>, folder: &Path, check: &mut Check) -> Option<Vec<Certificate>> {
    let pem = text(&folder.join(&file.value), &file.place, check)?;
    credentials::certificates(key, &pem)
        .map_err(|error| check.fault(&file.place, error.to_string(), "name a PEM file with certificates"))
        .ok()
}

/// A certificate chain with its key from two PEM files; `None` after a fault was told.
pub(super) fn pair(certificate: &At<String>, key: &At<String>, folder: &Path, check: &mut Check) -> Option<(Vec<Certificate>, Secret)> {
    let chain = certificates("certificate", certificate, folder, check);
    let pem = text(&folder.join(&key.value), &key.place, check)?;
    let chain = chain?;
    let Ok(private) = PKey::private_key_from_pem(pem.as_bytes()) else {
        check.fault(&key.place, "this file holds no private key", "name a PEM file with a private key that needs no password");
        return None;
    };
    let public = chain.first().and_then(|leaf| X509::from_der(leaf.der()).ok()?.public_key().ok());
    if !public.is_some_and(|public| public.public_eq(&private)) {
        check.fault(&key.place, "this key is not that of the certificate", "name the key that the certificate was made for");
        return None;
    }
    Some((chain, Secret::new(pem)))
}
