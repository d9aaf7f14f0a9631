//! The CA of the embedded mesh: one root, kept in memory, new with every start.
//!
//! Certificates have the form of Consul's built-in CA: EC P-256, a leaf with an empty subject and its SPIFFE ID as the one, critical
//! URI name, good for both ends of TLS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509Name, X509NameRef,
        extension::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier},
    },
};

use super::catalog::{DATACENTER, TRUST_DOMAIN};
use crate::model::{
    credentials::{Leaf, Roots},
    identity::{ServiceName, SpiffeId, TrustDomain},
};

/// How long the root is valid; no process lives longer.
const ROOT_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates are valid from a little before they are made, as Consul's are: clocks differ.
const BACKDATED: Duration = Duration::from_secs(60);

/// A root with its key.
#[derive(Debug)]
pub(super) struct Ca {
    root: X509,
    key: PKey<Private>,
}

impl Ca {
    /// A new root.
    pub(super) fn new() -> Result<Self, ErrorStack> {
        let key = new_key()?;
        let mut name = X509Name::builder()?;
        name.append_entry_by_nid(Nid::COMMONNAME, "aralez dev CA")?;
        let name = name.build();
        let mut root = certificate(&key, &name, ROOT_VALIDITY)?;
        root.set_subject_name(&name)?;
        root.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        root.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().digital_signature().build()?)?;
        let key_id = SubjectKeyIdentifier::new().build(&root.x509v3_context(None, None))?;
        root.append_extension(key_id)?;
        root.sign(&key, MessageDigest::sha256())?;
        Ok(Self { root: root.build(), key })
    }

    /// The roots of the mesh: this one.
    pub(super) fn roots(&self) -> anyhow::Result<Roots> {
        Ok(Roots::parse(TRUST_DOMAIN, [pem(self.root.to_pem()?)?.as_str()])?)
    }

    /// A new leaf for an identity, with a new key.
    pub(super) fn leaf(&self, id: &SpiffeId, validity: Duration) -> anyhow::Result<Leaf> {
        let key = new_key()?;
        let mut leaf = certificate(&key, self.root.subject_name(), validity)?;
        leaf.append_extension(BasicConstraints::new().critical().build()?)?;
        leaf.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
        leaf.append_extension(ExtendedKeyUsage::new().client_auth().server_auth().build()?)?;
        let context = leaf.x509v3_context(Some(&self.root), None);
        let key_id = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        let name = SubjectAlternativeName::new().critical().uri(&id.to_string()).build(&context)?;
        leaf.append_extension(key_id)?;
        leaf.append_extension(name)?;
        leaf.sign(&self.key, MessageDigest::sha256())?;
        Ok(Leaf::parse(&pem(leaf.build().to_pem()?)?, &pem(key.private_key_to_pem_pkcs8()?)?)?)
    }
}

/// The identity of a service of the mesh.
pub(super) fn id(service: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::service(TrustDomain::parse(TRUST_DOMAIN)?, ServiceName::local(service), DATACENTER))
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// A certificate to be: version 3, a random serial number, a subject that is empty as yet.
fn certificate(key: &PKey<Private>, issuer: &X509NameRef, validity: Duration) -> Result<X509Builder, ErrorStack> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = |time: Duration| Asn1Time::from_unix(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial()?.as_ref())?;
    builder.set_issuer_name(issuer)?;
    builder.set_not_before(at(now.saturating_sub(BACKDATED))?.as_ref())?;
    builder.set_not_after(at(now.saturating_add(validity))?.as_ref())?;
    builder.set_pubkey(key)?;
    Ok(builder)
}

/// 159 random bits: positive, and 20 bytes at most (RFC 5280, section 4.1.2.2).
fn serial() -> Result<Asn1Integer, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(159, MsbOption::MAYBE_ZERO, false)?;
    serial.to_asn1_integer()
}

fn pem(bytes: Vec<u8>) -> anyhow::Result<String> {
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {

    use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer};

    use super::*;

    #[test]
    fn a_leaf_has_the_form_of_consuls() {
        let (ca, id) = (Ca::new().unwrap(), id("web").unwrap());
        let leaf = ca.leaf(&id, Duration::from_secs(3600)).unwrap();
        assert_eq!(leaf.id, id);
        assert_eq!(leaf.not_after - leaf.not_before, 3660);
        let (_, certificate) = X509Certificate::from_der(leaf.chain[0].der()).unwrap();
        assert_eq!(certificate.subject().iter().count(), 0);
        assert!(certificate.public_key().parsed().unwrap().key_size() >= 256);
        let name = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(name.critical);
        assert_eq!(name.value.general_names.len(), 1);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && usage.server_auth && usage.other.is_empty());
        assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
        let key_ids =
            certificate.extensions().iter().filter(|e| matches!(e.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_)));
        assert_eq!(key_ids.count(), 1);
    }

    #[test]
    fn every_leaf_has_a_key_and_a_serial_of_its_own() {
        let (ca, id) = (Ca::new().unwrap(), id("web").unwrap());
        let (a, b) = (ca.leaf(&id, Duration::from_secs(60)).unwrap(), ca.leaf(&id, Duration::from_secs(60)).unwrap());
        assert!(a.serial != b.serial && a.key != b.key);
    }
}
