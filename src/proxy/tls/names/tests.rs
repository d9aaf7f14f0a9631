#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use aralez_integration::{
    ssllabs::{Findings, Rating, Suite, Version, rate},
    web_pki::{Pair, WebCa, ec_key},
};
use openssl::{
    rsa::Rsa,
    ssl::{SslContextBuilder, SslStream, SslVersion, StatusType},
};

use super::*;
use crate::model::{credentials::certificates, ingress::certificates::Staple, secret::Secret};

mod resumption;
mod scan;

fn pair_of(name: &str, names: &[&str], Pair { crt, key }: &Pair) -> CertificatePair {
    CertificatePair {
        name: name.into(),
        chain: certificates("test", crt).unwrap(),
        key: Secret::new(key.clone()),
        names: names.iter().map(|name| (*name).into()).collect(),
        not_before: 0,
        not_after: i64::MAX,
        ocsp: None,
    }
}

/// A P-256 pair.
fn pair(ca: &WebCa, name: &str, names: &[&str]) -> Arc<CertificatePair> {
    Arc::new(pair_of(name, names, &ca.issue(names)))
}

fn rsa_pair(ca: &WebCa, name: &str, names: &[&str], bits: u32) -> Arc<CertificatePair> {
    let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    Arc::new(pair_of(name, names, &ca.issue_named("", names, key, 90)))
}

fn tls(grade: TlsGrade, pairs: Vec<Arc<CertificatePair>>) -> IngressTls {
    IngressTls { grade, certificates: Arc::new(Certificates { pairs, default: None }), client_auth: None, hsts: None }
}

fn front(tls: &IngressTls) -> Arc<Front> {
    Arc::new(Front::new(tls, &Challenges::default()).unwrap())
}

/// A client that speaks anything to anybody.
fn client(set: impl FnOnce(&mut SslContextBuilder)) -> SslContext {
    let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
    builder.set_security_level(0);
    builder.set_cipher_list("ALL:COMPLEMENTOFALL:@SECLEVEL=0").unwrap();
    set(&mut builder);
    builder.build()
}

/// A handshake of both sides, and a byte from the server, before which come its tickets.
fn shake(front: &Front, client: Ssl) -> Result<SslStream<UnixStream>, String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let session = front.session().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Ok(mut stream) = session.accept(ours) {
                let _ = stream.write_all(b"!");
                let _ = stream.read(&mut [0]);
            }
        });
        let mut stream = client.connect(theirs).map_err(|e| e.to_string())?;
        stream.read_exact(&mut [0]).map_err(|e| e.to_string())?;
        let _ = stream.shutdown();
        Ok(stream)
    })
}

fn ask(context: &SslContext, name: Option<&str>) -> Ssl {
    let mut ssl = Ssl::new(context).unwrap();
    if let Some(name) = name {
        ssl.set_hostname(name).unwrap();
    }
    ssl
}

/// The `name` of the pair that a client is shown.
fn shown(tls: &IngressTls, stream: &SslStream<UnixStream>) -> String {
    let der = stream.ssl().peer_certificate().unwrap().to_der().unwrap();
    let pair = tls.certificates.pairs.iter().find(|pair| pair.chain[0].der() == der);
    pair.map_or_else(|| "unknown".to_owned(), |pair| pair.name.to_string())
}

#[test]
fn the_name_chooses_the_certificate() {
    let ca = WebCa::new();
    let pairs =
        vec![pair(&ca, "a", &["a.test"]), pair(&ca, "both", &["x.wild.test", "y.test"]), pair(&ca, "wild", &["*.wild.test", "127.0.0.1"])];
    let mut tls = tls(TlsGrade::Medium, pairs);
    let context = client(|_| {});
    let first = front(&tls);
    Arc::get_mut(&mut tls.certificates).unwrap().default = Some("wild".into());
    let stated = front(&tls);
    for (name, expected) in [
        (Some("a.test"), "a"),
        (Some("A.TEST"), "a"),
        (Some("a.test."), "a"),
        (Some("y.test"), "both"),
        (Some("x.wild.test"), "both"),
        (Some("z.wild.test"), "wild"),
        (Some("Z.Wild.TEST."), "wild"),
        (Some("a.b.wild.test"), "default"),
        (Some("wild.test"), "default"),
        (Some(".wild.test"), "default"),
        (Some("b.a.test"), "default"),
        (Some("unknown.test"), "default"),
        (None, "default"),
    ] {
        for (front, default) in [(&first, "a"), (&stated, "wild")] {
            let stream = shake(front, ask(&context, name)).unwrap();
            let expected = if expected == "default" { default } else { expected };
            assert_eq!(shown(&tls, &stream), expected, "{name:?}");
        }
    }
}

#[test]
fn the_client_chooses_between_keys_of_two_kinds() {
    let ca = WebCa::new();
    let names = ["a.test", "b.test"];
    let tls = tls(TlsGrade::High, vec![pair(&ca, "ec", &names), rsa_pair(&ca, "rsa", &names, 2048), pair(&ca, "other", &["c.test"])]);
    let front = front(&tls);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        for (algorithms, expected) in [("ECDSA+SHA256", "ec"), ("RSA-PSS+SHA256", "rsa"), ("RSA-PSS+SHA256:ECDSA+SHA256", "ec")] {
            let context = client(|builder| {
                builder.set_max_proto_version(Some(version)).unwrap();
                builder.set_sigalgs_list(algorithms).unwrap();
            });
            for name in [Some("a.test"), None] {
                let stream = shake(&front, ask(&context, name)).unwrap();
                assert_eq!(shown(&tls, &stream), expected, "{version:?} {algorithms} {name:?}");
            }
        }
    }
}

#[test]
fn the_longer_valid_of_two_certificates_is_shown() {
    let ca = WebCa::new();
    let dated = |name: &str, not_before, not_after| {
        let pair = pair_of(name, &["a.test"], &ca.issue(&["a.test"]));
        Arc::new(CertificatePair { not_before, not_after, ..pair })
    };
    let pairs = vec![
        dated("ended", 0, 1),
        dated("future", i64::MAX - 1, i64::MAX),
        dated("long", 0, i64::MAX - 5),
        dated("short", 0, i64::MAX - 9),
    ];
    let tls = tls(TlsGrade::Medium, pairs);
    assert_eq!(shown(&tls, &shake(&front(&tls), ask(&client(|_| {}), Some("a.test"))).unwrap()), "long");
}

/// The shortest OCSP answer: "try later" (RFC 6960, section 4.2.1).
const ANSWER: &[u8] = &[0x30, 3, 0x0a, 1, 3];

#[test]
fn the_whole_chain_and_the_stapled_answer_go_out() {
    let ca = WebCa::new();
    let mut stapled = pair_of("a", &["a.test"], &ca.issue(&["a.test"]));
    stapled.chain.extend(certificates("test", &ca.root_pem()).unwrap());
    stapled.ocsp = Some(Staple { answer: ANSWER.into(), until: i64::MAX });
    let mut ended = pair_of("c", &["c.test"], &ca.issue(&["c.test"]));
    ended.ocsp = Some(Staple { answer: ANSWER.into(), until: unix_now() });
    let tls = tls(TlsGrade::Medium, vec![Arc::new(stapled), pair(&ca, "b", &["b.test"]), Arc::new(ended)]);
    let front = front(&tls);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let context = client(|builder| builder.set_max_proto_version(Some(version)).unwrap());
        for (name, length, answer) in
            [(Some("a.test"), 2, Some(ANSWER)), (None, 2, Some(ANSWER)), (Some("b.test"), 1, None), (Some("c.test"), 1, None)]
        {
            let mut ssl = ask(&context, name);
            ssl.set_status_type(StatusType::OCSP).unwrap();
            let stream = shake(&front, ssl).unwrap();
            assert_eq!(
                (stream.ssl().peer_cert_chain().unwrap().len(), stream.ssl().ocsp_status()),
                (length, answer),
                "{name:?} {version:?}"
            );
        }
    }
}

#[test]
fn protocols_are_agreed_or_refused() {
    let ca = WebCa::new();
    let tls = tls(TlsGrade::Medium, vec![pair(&ca, "a", &["a.test"])]);
    let challenge = pair(&ca, "challenge", &["acme.test"]);
    let challenges = Challenges { tls_alpn: [("acme.test".into(), challenge.clone())].into(), ..Challenges::default() };
    let front = Front::new(&tls, &challenges).unwrap();
    let context = client(|_| {});
    let agreed = |name: &str, offered: &[u8]| {
        let mut ssl = ask(&context, Some(name));
        if !offered.is_empty() {
            ssl.set_alpn_protos(offered).unwrap();
        }
        let stream = shake(&front, ssl)?;
        let of_challenge = stream.ssl().peer_certificate().unwrap().to_der().unwrap() == challenge.chain[0].der();
        Ok::<_, String>((stream.ssl().selected_alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()), of_challenge))
    };
    let spoken = |protocol: &str| Ok((Some(protocol.to_owned()), false));
    assert_eq!(agreed("a.test", b"\x02h2\x08http/1.1"), spoken("h2"));
    assert_eq!(agreed("a.test", b"\x08http/1.1\x02h2"), spoken("h2"));
    assert_eq!(agreed("a.test", b"\x08http/1.1"), spoken("http/1.1"));
    assert_eq!(agreed("a.test", b""), Ok((None, false)));
    assert!(agreed("a.test", b"\x04smtp").unwrap_err().contains("no application protocol"), "not talked into HTTP");
    assert_eq!(agreed("acme.test", b"\x0aacme-tls/1"), Ok((Some("acme-tls/1".to_owned()), true)));
    assert_eq!(agreed("ACME.test", b"\x0aacme-tls/1"), Ok((Some("acme-tls/1".to_owned()), true)));
    assert_eq!(agreed("acme.test", b"\x08http/1.1"), spoken("http/1.1"), "others do not see the challenge's certificate");
    assert!(agreed("a.test", b"\x0aacme-tls/1").is_err(), "nobody asked for it");
}

#[test]
fn client_certificates_are_asked_for_and_verified() {
    let (ca, clients) = (WebCa::new(), WebCa::new());
    let certificate = |ca: &WebCa| {
        let Pair { crt, key } = ca.issue_named("alice", &["alice.test"], ec_key(), 90);
        (X509::from_pem(crt.as_bytes()).unwrap(), PKey::private_key_from_pem(key.as_bytes()).unwrap())
    };
    for required in [true, false] {
        let roots = certificates("test", &clients.root_pem()).unwrap();
        let auth = Some(ClientAuth { roots, required });
        let front =
            front(&IngressTls { client_auth: auth, ..tls(TlsGrade::High, vec![pair(&ca, "a", &["a.test"]), pair(&ca, "b", &["b.test"])]) });
        for (who, fine) in [(Some(&clients), true), (Some(&ca), false), (None, !required)] {
            let context = client(|builder| {
                if let Some((certificate, key)) = who.map(certificate) {
                    builder.set_certificate(&certificate).unwrap();
                    builder.set_private_key(&key).unwrap();
                }
            });
            for name in [Some("a.test"), Some("b.test"), None] {
                let done = shake(&front, ask(&context, name));
                assert_eq!(done.is_ok(), fine, "required {required}, shown {}, {name:?}: {:?}", who.is_some(), done.err());
            }
        }
    }
}

#[test]
fn a_pair_that_the_grade_refuses_leaves_the_others_alone() {
    let ca = WebCa::new();
    let weak = rsa_pair(&ca, "0weak", &["weak.test"], 1024);
    for (grade, expected) in [(TlsGrade::High, "a"), (TlsGrade::Medium, "a"), (TlsGrade::Unsafe, "0weak")] {
        let tls = tls(grade, vec![weak.clone(), pair(&ca, "a", &["a.test"])]);
        let front = front(&tls);
        assert_eq!(shown(&tls, &shake(&front, ask(&client(|_| {}), Some("weak.test"))).unwrap()), expected);
    }
    assert!(Front::new(&tls(TlsGrade::High, vec![weak]), &Challenges::default()).is_err(), "nothing is left to show");
}

#[test]
fn one_changed_certificate_loads_no_other() {
    let ca = WebCa::new();
    let mut pairs: Vec<_> = (0..100).map(|n| pair(&ca, &format!("{n:03}"), &[&format!("{n}.test")])).collect();
    let front = front(&tls(TlsGrade::High, pairs.clone()));
    let before = front.table.load_full();
    pairs[7] = pair(&ca, "007", &["7.test"]);
    front.follow(&Certificates { pairs: pairs.clone(), default: None }, &Challenges::default()).unwrap();
    let after = front.table.load_full();
    let changed: Vec<usize> = (0..100).filter(|n| !Arc::ptr_eq(&before.pairs[*n], &after.pairs[*n])).collect();
    assert_eq!(changed, [7]);
    // Nothing to show is no change.
    assert!(front.follow(&Certificates::default(), &Challenges::default()).is_err());
    assert!(Arc::ptr_eq(&front.table.load_full(), &after));
}

#[test]
fn certificates_are_swapped_whole_under_load() {
    let ca = WebCa::new();
    let still = pair(&ca, "still", &["still.test"]);
    let versions: Vec<_> = (0..8)
        .map(|n| if n % 2 == 0 { pair(&ca, "moving", &["moving.test"]) } else { rsa_pair(&ca, "moving", &["moving.test"], 2048) })
        .collect();
    let with = |moving: &Arc<CertificatePair>| Certificates { pairs: vec![moving.clone(), still.clone()], default: None };
    let front = front(&tls(TlsGrade::Medium, with(&versions[0]).pairs));
    let (done, shakes, seen) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let context = client(|_| {});
                while !done.load(Ordering::Relaxed) {
                    let moving = shake(&front, ask(&context, Some("moving.test"))).expect("a handshake with a whole pair");
                    let der = moving.ssl().peer_certificate().unwrap().to_der().unwrap();
                    seen.lock().unwrap().insert(versions.iter().position(|pair| pair.chain[0].der() == der).expect("one of the pairs"));
                    let other = shake(&front, ask(&context, Some("still.test"))).unwrap();
                    assert_eq!(other.ssl().peer_certificate().unwrap().to_der().unwrap(), still.chain[0].der());
                    shakes.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        for round in 0..200 {
            front.follow(&with(&versions[round % versions.len()]), &Challenges::default()).unwrap();
            let before = shakes.load(Ordering::Relaxed);
            while shakes.load(Ordering::Relaxed) < before + 2 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let (shakes, seen) = (shakes.load(Ordering::Relaxed), seen.lock().unwrap().len());
    assert!(shakes >= 400 && seen == versions.len(), "{shakes} handshakes saw {seen} pairs");
    println!("{shakes} handshakes over 200 swaps, none with a mixed pair");
}
