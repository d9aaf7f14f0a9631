//! The folder of certificates: `NAME.crt` (or `NAME.pem`) with `NAME.key`, and `NAME.ocsp` if there is one. Each pair is loaded by itself: one that
//! cannot be used is a problem, keeps its last good form, and holds nobody else back.

mod staple;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use openssl::{
    pkey::{Id, PKey, Private},
    x509::X509,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::model::{
    credentials::{self, Certificate},
    ingress::{CertificatePair, Certificates},
    moment::unix_now,
    registration::Unusable,
    secret::Secret,
};

/// Longest file that is read, bytes.
const LONGEST: u64 = 1 << 20;
/// How long before its end a certificate is a problem, seconds; for short lives a sixth of them.
const ENDS_SOON: i64 = 14 * 24 * 3600;
/// The pair with this name is shown to clients that ask for no name that any pair has.
const DEFAULT: &str = "default";

/// Loads the folder; `last` is what was loaded before, for pairs that are unusable now. Pairs that did not change keep their `Arc`. Once there were
/// certificates, there are always some: the last ones stay when all files are gone, until the process ends.
///
/// Reads files, so it belongs on a thread that may wait.
pub fn load(folder: &Path, last: &Certificates) -> (Certificates, Vec<Unusable>) {
    load_at(folder, last, unix_now())
}

fn load_at(folder: &Path, last: &Certificates, now: i64) -> (Certificates, Vec<Unusable>) {
    let mut problems = Vec::new();
    let files = match files(folder) {
        Ok(files) => files,
        Err(why) => {
            let advice = "let it be a folder that this process may read; the certificates known so far stay in use";
            return (last.clone(), vec![problem(folder, &why, advice)]);
        }
    };
    let known: BTreeMap<&str, &Arc<CertificatePair>> = last.pairs.iter().map(|pair| (&*pair.name, pair)).collect();
    let mut pairs = Vec::new();
    for (name, files) in &files {
        let last = known.get(name.as_str()).copied();
        match pair(name, files, now, &mut problems) {
            Ok(new) => pairs.push(last.filter(|last| ***last == new).cloned().unwrap_or_else(|| Arc::new(new))),
            Err(unusable) => {
                problems.push(unusable);
                pairs.extend(last.cloned());
            }
        }
    }
    if pairs.is_empty() && !last.pairs.is_empty() {
        let advice = "put NAME.crt and NAME.key there; what was loaded last is shown until then, or until the process ends";
        problems.push(problem(folder, &"the last certificate was removed", advice));
        return (last.clone(), problems);
    }
    let default = pairs.iter().find(|pair| &*pair.name == DEFAULT).map(|pair| pair.name.clone());
    (Certificates { pairs, default }, problems)
}

/// The files of one name.
#[derive(Default)]
struct Files {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    ocsp: Option<PathBuf>,
}

/// The files of the folder by name; others, and hidden ones, are no business of ours.
fn files(folder: &Path) -> io::Result<BTreeMap<String, Files>> {
    let mut found: BTreeMap<String, Files> = BTreeMap::new();
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    // `.crt` goes before `.pem`.
    paths.sort();
    for path in paths {
        let (Some(name), Some(kind)) = (path.file_stem().and_then(|s| s.to_str()), path.extension().and_then(|e| e.to_str())) else {
            continue;
        };
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        let (name, kind) = (name.to_owned(), kind.to_owned());
        match kind.as_str() {
            "crt" | "pem" => {
                found.entry(name).or_default().certificate.get_or_insert(path);
            }
            "key" => found.entry(name).or_default().key = Some(path),
            "ocsp" => found.entry(name).or_default().ocsp = Some(path),
            _ => {}
        }
    }
    Ok(found)
}

/// One pair.
///
/// # Errors
/// Why it cannot be used.
fn pair(name: &str, files: &Files, now: i64, problems: &mut Vec<Unusable>) -> Result<CertificatePair, Unusable> {
    let Some(path) = &files.certificate else {
        let lonely = files.key.as_ref().or(files.ocsp.as_ref()).cloned().unwrap_or_default();
        return Err(problem(&lonely, &format!("there is no {name}.crt that it belongs to"), "put the certificate beside it, or remove it"));
    };
    let text = read_text(path)?;
    let chain = chain_of(path, &text)?;
    // A `.pem` may hold the key too.
    let key_path = files.key.as_ref().unwrap_or(path);
    let key_text = if key_path == path { text } else { read_text(key_path)? };
    let ocsp = files.ocsp.as_ref().and_then(|path| staple::load(path, &chain, now).map_err(|why| problems.push(why)).ok());
    Ok(CertificatePair { ocsp, ..of_texts(name, (path, chain), (key_path, key_text), now, problems)? })
}

/// A pair from the texts of its two parts, each with where it stands.
///
/// # Errors
/// Why it cannot be used.
pub fn from_pem(
    name: &str,
    (path, chain): (&Path, &str),
    (key_path, key): (&Path, &str),
    now: i64,
    problems: &mut Vec<Unusable>,
) -> Result<CertificatePair, Unusable> {
    of_texts(name, (path, chain_of(path, chain)?), (key_path, key.to_owned()), now, problems)
}

fn chain_of(path: &Path, text: &str) -> Result<Vec<Certificate>, Unusable> {
    credentials::certificates("certificate", text)
        .map_err(|why| problem(path, &why, "write the certificate, then its intermediates, as whole PEM blocks"))
}

fn of_texts(
    name: &str,
    (path, chain): (&Path, Vec<Certificate>),
    (key_path, key_text): (&Path, String),
    now: i64,
    problems: &mut Vec<Unusable>,
) -> Result<CertificatePair, Unusable> {
    let key = private_key(key_path, &key_text)?;
    let leaf = leaf(path, &chain)?;
    belongs(path, &chain, &key)?;
    let strength = if key.id() == Id::RSA && key.bits() < 2048 { Some(key.bits()) } else { None };
    if let Some(bits) = strength {
        problems.push(problem(
            key_path,
            &format!("an RSA key of {bits} bits: only grade unsafe shows it"),
            "use P-256, or RSA with 2048 bits or more",
        ));
    }
    let names = names(&leaf);
    if names.is_empty() {
        problems.push(problem(
            path,
            &"it bears no name",
            "issue it with subjectAltName; until then only clients without a name may be shown it",
        ));
    }
    let (not_before, not_after) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    if let Some(why) = age(not_before, not_after, now) {
        problems.push(problem(path, &why, "renew it; it is shown all the same"));
    }
    if let Some(broken) = chain.windows(2).find_map(unlinked) {
        problems.push(problem(path, &broken, "write each certificate before the one that issued it, or clients cannot follow the chain"));
    }
    Ok(CertificatePair { name: name.into(), chain, key: Secret::new(key_text), names, not_before, not_after, ocsp: None })
}

fn problem(path: &Path, why: &impl ToString, advice: &str) -> Unusable {
    Unusable { path: path.display().to_string(), why: why.to_string(), advice: advice.to_owned() }
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    let advice = "let it be a file that this process may read";
    let size = fs::metadata(path).map_err(|why| problem(path, &why, advice))?.len();
    if size > LONGEST {
        return Err(problem(path, &format!("{size} bytes are no certificate or key"), "put the right file there"));
    }
    fs::read(path).map_err(|why| problem(path, &why, advice))
}

fn read_text(path: &Path) -> Result<String, Unusable> {
    String::from_utf8(read(path)?)
        .map_err(|_| problem(path, &"it is not PEM", "convert it: openssl x509 (or pkey) -inform DER -outform PEM"))
}

fn private_key(path: &Path, text: &str) -> Result<PKey<Private>, Unusable> {
    // An empty pass phrase: without one OpenSSL would ask for it on the terminal.
    PKey::private_key_from_pem_passphrase(text.as_bytes(), &[]).map_err(|_| {
        if text.contains("ENCRYPTED") {
            problem(path, &"the private key has a pass phrase", "write it without: openssl pkey -in FILE -out FILE")
        } else {
            problem(path, &"there is no whole private key in it", "write the key as one whole PEM block")
        }
    })
}

fn leaf<'a>(path: &Path, chain: &'a [Certificate]) -> Result<X509Certificate<'a>, Unusable> {
    let der = chain.first().map(Certificate::der).unwrap_or_default();
    let parsed = X509Certificate::from_der(der).map(|(_, leaf)| leaf);
    parsed.map_err(|why| problem(path, &why, "issue it anew"))
}

/// The key belongs to the first certificate.
fn belongs(path: &Path, chain: &[Certificate], key: &PKey<Private>) -> Result<(), Unusable> {
    let fits = |certificate: &Certificate| {
        X509::from_der(certificate.der()).and_then(|certificate| certificate.public_key()).is_ok_and(|public| public.public_eq(key))
    };
    match chain.iter().position(fits) {
        Some(0) => Ok(()),
        Some(at) => {
            Err(problem(path, &format!("the key belongs to certificate {} of the file", at + 1), "write the certificate of the key first"))
        }
        None => Err(problem(
            path,
            &"certificate and key do not belong together",
            "put both files of one pair there; while one is still to come, the last pair stays",
        )),
    }
}

/// The names of `subjectAltName`; the common name if there is no such extension (RFC 6125, section 6.4.4). Lower case, without a final dot.
fn names(leaf: &X509Certificate<'_>) -> Vec<Arc<str>> {
    let found: Vec<String> = match leaf.subject_alternative_name() {
        Ok(Some(san)) => san.value.general_names.iter().filter_map(san_name).collect(),
        _ => leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(ToOwned::to_owned).collect(),
    };
    let mut names: Vec<Arc<str>> = found.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn san_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
            16 => <[u8; 16]>::try_from(*octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// What is wrong with a certificate's time, if anything.
fn age(not_before: i64, not_after: i64, now: i64) -> Option<String> {
    let soon = ENDS_SOON.min((not_after - not_before) / 6);
    let days = |seconds: i64| seconds / (24 * 3600);
    match not_after - now {
        ..=0 => Some(format!("it ended {} days ago", days(now - not_after))),
        _ if now < not_before => Some(format!("it begins in {} days only", days(not_before - now))),
        left if left < soon => Some(format!("it ends in {} days", days(left))),
        _ => None,
    }
}

/// Whether the second of two certificates did not issue the first, in words.
fn unlinked(two: &[Certificate]) -> Option<String> {
    let [issued, issuer] = two else { return None };
    let (_, issued) = X509Certificate::from_der(issued.der()).ok()?;
    let (_, issuer) = X509Certificate::from_der(issuer.der()).ok()?;
    (issued.issuer().as_raw() != issuer.subject().as_raw())
        .then(|| format!("\"{}\" was not issued by \"{}\"", issued.subject(), issuer.subject()))
}

#[cfg(test)]
mod tests;
