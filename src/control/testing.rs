//! What the tests of this room share: credentials and a registration.

use std::{net::SocketAddr, time::Duration};

use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{X509, X509Builder, X509NameBuilder, extension::*},
};

use crate::model::{
    access_log::AccessLog,
    credentials::{Leaf, Roots},
    identity::{ServiceName, SpiffeId, TrustDomain},
    listener::{Address, Bind, Protocol},
    registration::{Registration, UpstreamConfig, UpstreamKey},
};

/// The trust domain of all test credentials.
pub const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

/// The identity of a service in `dc1`.
pub fn peer(service: &str) -> SpiffeId {
    SpiffeId::service(TrustDomain::parse(TRUST_DOMAIN).unwrap(), ServiceName::local(service), "dc1")
}

/// PEM texts as the agent gives them.
pub struct Pems {
    /// The root's certificate.
    pub root: String,
    /// The leaf's certificate.
    pub leaf: String,
    /// The leaf's key.
    pub key: String,
}

/// A fresh root, and a leaf of it for `service`.
pub fn pems(service: &str) -> Pems {
    let (root_key, leaf_key) = (key(), key());
    let mut root = builder(&root_key);
    root.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "test root").unwrap();
    let name = name.build();
    root.set_subject_name(&name).unwrap();
    root.set_issuer_name(&name).unwrap();
    root.sign(&root_key, MessageDigest::sha256()).unwrap();
    let root = root.build();
    let mut leaf = builder(&leaf_key);
    leaf.set_issuer_name(root.subject_name()).unwrap();
    let names = SubjectAlternativeName::new().critical().uri(&peer(service).to_string()).build(&leaf.x509v3_context(Some(&root), None));
    leaf.append_extension(names.unwrap()).unwrap();
    leaf.sign(&root_key, MessageDigest::sha256()).unwrap();
    let text = |certificate: &X509| String::from_utf8(certificate.to_pem().unwrap()).unwrap();
    let key = leaf_key.ec_key().unwrap().private_key_to_pem().unwrap();
    Pems { root: text(&root), leaf: text(&leaf.build()), key: String::from_utf8(key).unwrap() }
}

/// [`pems`], parsed.
pub fn credentials(service: &str) -> (Leaf, Roots) {
    let Pems { root, leaf, key } = pems(service);
    (Leaf::parse(&leaf, &key).unwrap(), Roots::parse(TRUST_DOMAIN, [root.as_str()]).unwrap())
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn builder(key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(3).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

/// The registration of a sidecar with upstreams to the named services.
pub fn registration(service: &str, upstreams: &[&str]) -> Registration {
    let tcp = |port| Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    let bind = |port| Bind { address: tcp(port), mode: None };
    let upstream = |(at, name): (usize, &&str)| UpstreamConfig {
        key: UpstreamKey((*name).into()),
        destination: ServiceName::local(name),
        datacenter: None,
        bind: bind(9000 + u16::try_from(at).unwrap()),
        protocol: None,
        connect_timeout: None,
        mesh_gateway: None,
    };
    Registration {
        proxy_id: format!("{service}-sidecar-proxy").into(),
        service: ServiceName::local(service),
        datacenter: "dc1".into(),
        bind: bind(21000),
        protocol: Protocol::Tcp,
        app: tcp(8080),
        local_connect_timeout: Duration::from_secs(5),
        local_request_timeout: Some(Duration::from_secs(15)),
        local_idle_timeout: Some(Duration::from_secs(300)),
        max_inbound_connections: None,
        access_log: AccessLog::default(),
        upstreams: upstreams.iter().enumerate().map(upstream).collect(),
        problems: Vec::new(),
    }
}
