//! What can stand: a leaf must be ours, fit its key, and chain to the roots.
//!
//! No clock here: whether a leaf is still valid is asked when it is used.

use openssl::{
    pkey::PKey,
    stack::Stack,
    x509::{X509, X509StoreContext, store::X509StoreBuilder, verify::X509VerifyFlags},
};

use crate::model::{
    credentials::{Leaf, Roots},
    identity::ServiceName,
};

/// Why a leaf cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLeaf {
    #[error("it names {found}, not {wanted}")]
    OtherService { found: String, wanted: String },
    #[error("its trust domain {found} is not that of the roots, {wanted}")]
    OtherTrustDomain { found: String, wanted: String },
    #[error("the private key does not belong to it")]
    OtherKey,
    #[error("it does not chain to any root: {0}")]
    NoChain(String),
    #[error(transparent)]
    OpenSsl(#[from] openssl::error::ErrorStack),
}

/// Checks a leaf against the service it must name and the roots it must chain to.
pub(crate) fn leaf(leaf: &Leaf, roots: &Roots, service: &ServiceName) -> Result<(), BadLeaf> {
    if leaf.id.as_service() != Some(service) {
        return Err(BadLeaf::OtherService { found: leaf.id.to_string(), wanted: service.to_string() });
    }
    if leaf.id.trust_domain != roots.trust_domain {
        let (found, wanted) = (leaf.id.trust_domain.to_string(), roots.trust_domain.to_string());
        return Err(BadLeaf::OtherTrustDomain { found, wanted });
    }
    let mut presented = Stack::new()?;
    let mut chain = leaf.chain.iter();
    let Some(first) = chain.next() else { return Err(BadLeaf::NoChain("it is empty".to_owned())) };
    let first = X509::from_der(first.der())?;
    let key = PKey::private_key_from_pem(leaf.key.expose().as_bytes())?;
    if !first.public_key()?.public_eq(&key) {
        return Err(BadLeaf::OtherKey);
    }
    for intermediate in chain {
        presented.push(X509::from_der(intermediate.der())?)?;
    }
    let mut store = X509StoreBuilder::new()?;
    store.set_flags(X509VerifyFlags::NO_CHECK_TIME | X509VerifyFlags::PARTIAL_CHAIN)?;
    for root in &roots.certificates {
        store.add_cert(X509::from_der(root.der())?)?;
    }
    let store = store.build();
    let mut context = X509StoreContext::new()?;
    let (fine, why) = context.init(&store, &first, &presented, |c| Ok((c.verify_cert()?, c.error().error_string())))?;
    if fine { Ok(()) } else { Err(BadLeaf::NoChain(why.to_owned())) }
}
