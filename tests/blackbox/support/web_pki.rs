//! Certificates of names, as the public web has them.

use std::net::IpAddr;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder, X509NameRef};

/// An authority that browsers would trust.
pub struct WebCa {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate with its key, PEM.
pub struct Pair {
    pub crt: String,
    pub key: String,
}

impl WebCa {
    /// A fresh root.
    pub fn new() -> WebCa {
        let key = ec_key();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "test web root").unwrap();
        let name = name.build();
        let mut builder = builder(&key, &name, &name, 3650);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        WebCa { certificate: builder.build(), key }
    }

    /// The root, PEM.
    pub fn root_pem(&self) -> String {
        text(self.certificate.to_pem().unwrap())
    }

    /// A P-256 certificate for these DNS names and addresses, for 90 days.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, ec_key(), 90)
    }

    /// The same with this key, for so many days.
    pub fn issue_with(&self, names: &[&str], key: PKey<Private>, days: u32) -> Pair {
        let empty = X509NameBuilder::new().unwrap().build();
        let mut builder = builder(&key, &empty, self.certificate.subject_name(), days);
        let mut san = SubjectAlternativeName::new();
        san.critical();
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(_) => san.ip(name),
                Err(_) => san.dns(name),
            };
        }
        let san = san.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(san).unwrap();
        builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build().unwrap()).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap()).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Pair { crt: text(builder.build().to_pem().unwrap()), key: text(key.private_key_to_pem_pkcs8().unwrap()) }
    }
}

fn builder(key: &PKey<Private>, subject: &X509NameRef, issuer: &X509NameRef, days: u32) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(days).unwrap()).unwrap();
    builder
}

fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).unwrap()
}
