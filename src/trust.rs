//! Whom this system trusts, for TLS to servers whose CA nobody names: read once, for traffic and for probes alike.

use std::{path::PathBuf, sync::Arc};

use openssl::x509::X509;
use parking_lot::Mutex;

/// The system's roots: `SSL_CERT_FILE`, else the bundle at one of the places that distributions have. None where there is no bundle: then nobody is trusted.
pub fn system_roots() -> Arc<Box<[X509]>> {
    static ROOTS: Mutex<Option<Arc<Box<[X509]>>>> = Mutex::new(None);
    let mut roots = ROOTS.lock();
    if let Some(roots) = &*roots {
        return roots.clone();
    }
    let usual = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem"];
    let places = std::env::var_os("SSL_CERT_FILE").map_or_else(|| usual.map(PathBuf::from).to_vec(), |file| vec![file.into()]);
    let read = places.iter().filter_map(|path| std::fs::read(path).ok()).find_map(|pem| X509::stack_from_pem(&pem).ok());
    let loaded = Arc::new(read.unwrap_or_default().into_boxed_slice());
    if loaded.is_empty() {
        tracing::error!("no root certificates in {places:?}: servers are refused unless tls_ca names whom to trust");
    }
    *roots = Some(loaded.clone());
    loaded
}
