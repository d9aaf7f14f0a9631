//! For unit tests: a mesh's credentials, a root and leaves that it signed; and clusters.

use std::{sync::Arc, time::Duration};

use aralez_integration::web_pki::ec_key;
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    hash::MessageDigest,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509NameBuilder,
        extension::{BasicConstraints, KeyUsage, SubjectAlternativeName, SubjectKeyIdentifier},
    },
};

use super::{
    balance::{Balance, Limits, PassiveHealth},
    cluster::{Cluster, Endpoint, Subset, TargetId, Trust},
    credentials::{Identity, Leaf, Roots},
    identity::{ServiceName, SpiffeId, TrustDomain},
    listener::Protocol,
};

/// The trust domain of all test credentials.
pub(crate) const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

/// The identity of a service in `dc1`.
pub(crate) fn id(service: &str) -> SpiffeId {
    SpiffeId::service(TrustDomain::parse(TRUST_DOMAIN).unwrap(), ServiceName::local(service), "dc1")
}

/// An HTTP cluster called after its service in `dc1`, with nothing else set.
pub(crate) fn cluster(service: &str, trust: Trust, endpoints: impl IntoIterator<Item = Arc<Endpoint>>) -> Cluster {
    Cluster {
        target: TargetId(service.into()),
        service: ServiceName::local(service),
        datacenter: "dc1".into(),
        trust,
        subset: Subset::default(),
        protocol: Protocol::Http,
        connect_timeout: Duration::from_secs(5),
        balance: Balance::default(),
        limits: Limits::default(),
        passive: PassiveHealth::default(),
        endpoints: endpoints.into_iter().collect(),
    }
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
