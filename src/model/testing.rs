//! A mesh's credentials for unit tests: a root, and leaves that it signed.

use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509NameBuilder,
        extension::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier},
    },
};

use super::{
    credentials::{Identity, Leaf, Roots},
    identity::{ServiceName, SpiffeId, TrustDomain},
};

/// The trust domain of all test credentials.
pub(crate) const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

/// The identity of a service in `dc1`.
pub(crate) fn id(service: &str) -> SpiffeId {
    SpiffeId::service(TrustDomain::parse(TRUST_DOMAIN).unwrap(), ServiceName::local(service), "dc1")
}

/// A certificate authority.
pub(crate) struct Ca {
    key: PKey<Private>,
    certificate: X509,
}

impl Ca {
    /// A fresh root.
    pub(crate) fn new() -> Self {
        let key = ec_key();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "test root").unwrap();
        let name = name.build();
        let mut builder = builder(&key, &name);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        let subject_key = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(subject_key).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// The root's certificate, PEM.
    pub(crate) fn root_pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().unwrap()).unwrap()
    }

    /// A leaf with the given URI names, PEM, and its key in SEC1 form as Consul gives it.
    pub(crate) fn leaf_pem(&self, uris: &[&str]) -> (String, String) {
        let leaf_key = ec_key();
        let mut builder = builder(&leaf_key, self.certificate.subject_name());
        let mut names = SubjectAlternativeName::new();
        names.critical();
        for uri in uris {
            names.uri(uri);
        }
        let names = names.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(builder.build().to_pem().unwrap()), text(leaf_key.ec_key().unwrap().private_key_to_pem().unwrap()))
    }

    /// The leaf of a service.
    pub(crate) fn leaf(&self, service: &str) -> Leaf {
        let (certificate, key) = self.leaf_pem(&[&id(service).to_string()]);
        Leaf::parse(&certificate, &key).unwrap()
    }

    /// Roots with this one only.
    pub(crate) fn roots(&self) -> Roots {
        Roots::parse(TRUST_DOMAIN, [self.root_pem().as_str()]).unwrap()
    }

    /// The identity of a service.
    pub(crate) fn identity(&self, service: &str) -> Identity {
        Identity::new(self.leaf(service), self.roots())
    }
}

/// A P-256 key.
pub(crate) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn builder(key: &PKey<Private>, issuer: &openssl::x509::X509NameRef) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(fastrand::u32(1..)).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(3).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder
}

/// An authority that browsers would trust, for certificates of names.
pub(crate) struct WebCa(Ca);

impl WebCa {
    /// A fresh root.
    pub(crate) fn new() -> Self {
        Self(Ca::new())
    }

    /// The root's certificate, PEM.
    pub(crate) fn root_pem(&self) -> String {
        self.0.root_pem()
    }

    /// A P-256 certificate for these DNS names and addresses, for 90 days, and its key, PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_named("", names, ec_key(), 90)
    }

    /// The same with this common name and key, for so many days; without names there is no `subjectAltName`.
    pub(crate) fn issue_named(&self, common: &str, names: &[&str], leaf_key: PKey<Private>, days: u32) -> (String, String) {
        let mut builder = builder(&leaf_key, self.0.certificate.subject_name());
        builder.set_not_after(&Asn1Time::days_from_now(days).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        if !common.is_empty() {
            subject.append_entry_by_text("CN", common).unwrap();
        }
        builder.set_subject_name(&subject.build()).unwrap();
        let authority = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(Some(&self.0.certificate), None)).unwrap();
        builder.append_extension(authority).unwrap();
        builder.append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build().unwrap()).unwrap();
        builder.append_extension(ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap()).unwrap();
        let mut san = SubjectAlternativeName::new();
        if common.is_empty() {
            san.critical();
        }
        for name in names {
            if name.parse::<std::net::IpAddr>().is_ok() {
                san.ip(name)
            } else {
                san.dns(name)
            };
        }
        if !names.is_empty() {
            let san = san.build(&builder.x509v3_context(Some(&self.0.certificate), None)).unwrap();
            builder.append_extension(san).unwrap();
        }
        builder.sign(&self.0.key, MessageDigest::sha256()).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(builder.build().to_pem().unwrap()), text(leaf_key.private_key_to_pem_pkcs8().unwrap()))
    }
}
