//! Every version with every suite, for each grade (H8 of the original's weaknesses: its grades did not hold for names), with and without a name: what is accepted, and how it scores.

use super::*;

const VERSIONS: [(SslVersion, Version); 5] = [
    (SslVersion::SSL3, Version::Ssl3),
    (SslVersion::TLS1, Version::Tls1_0),
    (SslVersion::TLS1_1, Version::Tls1_1),
    (SslVersion::TLS1_2, Version::Tls1_2),
    (SslVersion::TLS1_3, Version::Tls1_3),
];

/// All suites that the library has, anonymous and null ones too.
fn all_suites() -> Vec<Suite> {
    let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
    let all = Ssl::new(&client(|_| {})).unwrap().bytes_to_cipher_list(&codes[..codes.len() - 2], false).unwrap();
    all.suites.iter().map(|cipher| Suite { name: cipher.name().to_owned(), bits: cipher.bits().algorithm.cast_unsigned() }).collect()
}

fn accepts(front: &Front, name: Option<&str>, version: SslVersion, suite: &str) -> bool {
    let tls13 = suite.starts_with("TLS_");
    if tls13 != (version == SslVersion::TLS1_3) {
        return false;
    }
    let mut is_known = false;
    let context = client(|builder| {
        builder.set_min_proto_version(Some(version)).unwrap();
        builder.set_max_proto_version(Some(version)).unwrap();
        let list = format!("{suite}:@SECLEVEL=0");
        is_known = if tls13 { builder.set_ciphersuites(suite) } else { builder.set_cipher_list(&list) }.is_ok();
    });
    is_known && shake(front, ask(&context, name)).is_ok()
}

fn scan(front: &Front, name: Option<&str>, hsts: Option<u64>) -> Findings {
    // The certificates are of RSA 2048 and P-256, the key exchange of P-256's strength and more.
    let mut found = Findings { key_bits: 2048, is_trusted: true, hsts, ..Findings::default() };
    for (theirs, version) in VERSIONS {
        for suite in all_suites() {
            if accepts(front, name, theirs, &suite.name) {
                found.versions.insert(version);
                found.suites.insert(suite);
            }
        }
    }
    found
}

/// The rating of a grade, the same for each way to ask.
fn rating(grade: TlsGrade, hsts: Option<u64>) -> (Findings, Rating) {
    let ca = WebCa::new();
    let pairs = vec![pair(&ca, "a", &["a.test"]), rsa_pair(&ca, "b", &["a.test", "b.test"], 2048), pair(&ca, "c", &["*.c.test"])];
    let front = front(&tls(grade, pairs));
    let by_name = scan(&front, Some("a.test"), hsts);
    for name in [None, Some("unknown.test"), Some("b.test"), Some("x.c.test")] {
        let other = scan(&front, name, hsts);
        assert_eq!(other.versions, by_name.versions, "{grade:?} for {name:?}");
        assert!(other.suites.is_subset(&by_name.suites), "{grade:?} for {name:?}: {:?}", other.suites.difference(&by_name.suites));
    }
    let rating = rate(&by_name);
    println!("{grade:?}: {rating}");
    (by_name, rating)
}

#[test]
fn high_is_a_plus() {
    let (found, rating) = rating(TlsGrade::High, Some(63_072_000));
    assert_eq!(rating.grade, "A+", "{rating}");
    assert_eq!(found.versions, BTreeSet::from([Version::Tls1_2, Version::Tls1_3]));
    let names: Vec<&str> = found.suites.iter().map(|suite| suite.name.as_str()).collect();
    let modern =
        |name: &&str| (name.starts_with("ECDHE-") && (name.contains("GCM") || name.contains("CHACHA20"))) || name.starts_with("TLS_");
    assert!(names.iter().all(modern) && names.len() == 9, "{names:?}");
}

#[test]
fn medium_is_a() {
    let (found, rating) = rating(TlsGrade::Medium, None);
    assert_eq!(rating.grade, "A", "{rating}");
    assert_eq!(found.versions, BTreeSet::from([Version::Tls1_2, Version::Tls1_3]));
    assert!(found.suites.iter().all(|suite| suite.name.starts_with("ECDHE-") || suite.name.starts_with("TLS_")), "{:?}", found.suites);
}

#[test]
fn unsafe_is_b_at_best() {
    let (found, rating) = rating(TlsGrade::Unsafe, Some(63_072_000));
    assert!(rating.grade >= "B", "{rating}");
    assert!(found.versions.contains(&Version::Tls1_0), "it lets old clients in: {:?}", found.versions);
    assert!(found.suites.iter().any(|suite| suite.name == "AES128-SHA"), "{:?}", found.suites);
    let bare = |suite: &&Suite| suite.bits == 0 || suite.name.starts_with("ADH") || suite.name.starts_with("AECDH");
    assert_eq!(found.suites.iter().find(bare), None, "neither without encryption nor without a certificate");
}
