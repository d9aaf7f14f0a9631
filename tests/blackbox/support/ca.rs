//! A certificate authority with the shape of Consul's: EC P-256, SPIFFE URI SAN only, empty subject, SEC1 keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// Signs leaves; one per root certificate.
#[derive(Clone)]
pub struct Authority {
    /// Consul's root ID; any text that differs from root to root.
    pub id: String,
    /// `<cluster uuid>.consul`, without the scheme.
    pub trust_domain: String,
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate with its key, as the leaf endpoint gives it.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The serial number of the certificate.
    pub serial: u32,
    /// The first URI SAN.
    pub uri: String,
    /// Leaf first, then intermediates.
    pub cert_pem: String,
    /// SEC1 (`EC PRIVATE KEY`).
    pub key_pem: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// What to put into a leaf.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// URI SANs, in order.
    pub uris: Vec<String>,
    /// Age of the certificate at issue.
    pub backdated: Duration,
    /// Whole length of validity, counted from the (backdated) start.
    pub lifetime: Duration,
    /// The serial number.
    pub serial: u32,
}

impl LeafRequest {
    /// One URI SAN, valid from a minute ago for 72 hours, as Consul issues it.
    pub fn new(uri: impl Into<String>, serial: u32) -> LeafRequest {
        LeafRequest { uris: vec![uri.into()], backdated: Duration::from_secs(60), lifetime: Duration::from_secs(72 * 3600), serial }
    }
}

impl Authority {
    /// A new self-signed root for `trust_domain`.
    pub fn new(id: &str, trust_domain: &str) -> Authority {
        let key = new_key();
        let name = name(&format!("Fake CA {id}"));
        let mut builder = builder(&key, &name, &name, 1, HALF_HOUR, YEAR);
        let uri =
            SubjectAlternativeName::new().uri(&format!("spiffe://{trust_domain}")).build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(uri).unwrap();
        make_ca(&mut builder);
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { id: id.to_owned(), trust_domain: trust_domain.to_owned(), certificate: builder.build(), key }
    }

    /// The SPIFFE ID that Consul gives to `service` in `dc1`.
    pub fn service_uri(&self, service: &str) -> String {
        format!("spiffe://{}/ns/default/dc/dc1/svc/{service}", self.trust_domain)
    }

    /// The root certificate as PEM.
    pub fn root_pem(&self) -> String {
        pem(&self.certificate)
    }

    /// The other root's key, certified by this one: what peers that know only this root need.
    pub fn cross_sign(&self, other: &Authority) -> String {
        let issuer = self.certificate.subject_name();
        let subject = other.certificate.subject_name();
        let mut builder = builder(&other.key, subject, issuer, 2, HALF_HOUR, YEAR);
        make_ca(&mut builder);
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        pem(&builder.build())
    }

    /// A leaf signed by this root, followed by `intermediates` (PEM) in `cert_pem`.
    pub fn issue(&self, request: &LeafRequest, intermediates: &str) -> Leaf {
        let key = new_key();
        let empty = X509NameBuilder::new().unwrap().build();
        let issuer = self.certificate.subject_name();
        let LeafRequest { uris, backdated, lifetime, serial } = request;
        let mut builder = builder(&key, &empty, issuer, *serial, *backdated, *lifetime);
        let mut names = SubjectAlternativeName::new();
        names.critical();
        for uri in uris {
            names.uri(uri);
        }
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let extensions = [
            names.build(&context).unwrap(),
            BasicConstraints::new().critical().build().unwrap(),
            KeyUsage::new().critical().digital_signature().key_encipherment().build().unwrap(),
            ExtendedKeyUsage::new().client_auth().server_auth().build().unwrap(),
            AuthorityKeyIdentifier::new().keyid(false).build(&context).unwrap(),
        ];
        for extension in extensions {
            builder.append_extension(extension).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let not_before = SystemTime::now() - *backdated;
        Leaf {
            serial: *serial,
            uri: uris[0].clone(),
            cert_pem: pem(&builder.build()) + intermediates,
            key_pem: sec1(&key),
            not_before,
            not_after: not_before + *lifetime,
        }
    }
}

const HALF_HOUR: Duration = Duration::from_secs(1800);
const YEAR: Duration = Duration::from_secs(365 * 86400);

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
    name.build()
}

fn builder(
    key: &PKey<Private>,
    subject: &openssl::x509::X509NameRef,
    issuer: &openssl::x509::X509NameRef,
    serial: u32,
    backdated: Duration,
    lifetime: Duration,
) -> X509Builder {
    let start = SystemTime::now() - backdated;
    let serial = Asn1Integer::from_bn(&BigNum::from_u32(serial).unwrap()).unwrap();
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&asn1_time(start)).unwrap();
    builder.set_not_after(&asn1_time(start + lifetime)).unwrap();
    builder
}

fn make_ca(builder: &mut X509Builder) {
    let key_id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().digital_signature().build();
    builder.append_extension(usage.unwrap()).unwrap();
    builder.append_extension(key_id).unwrap();
}

fn asn1_time(at: SystemTime) -> Asn1Time {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    Asn1Time::from_unix(seconds.try_into().unwrap()).unwrap()
}

fn pem(certificate: &X509) -> String {
    String::from_utf8(certificate.to_pem().unwrap()).unwrap()
}

fn sec1(key: &PKey<Private>) -> String {
    String::from_utf8(key.ec_key().unwrap().private_key_to_pem().unwrap()).unwrap()
}
