#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, symlink};

use aralez_integration::web_pki::{Pair, WebCa, ec_key};
use openssl::rsa::Rsa;

use super::*;

const DAY: i64 = 24 * 3600;

/// A folder with a good pair `a`.
fn folder(ca: &WebCa) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let Pair { crt, key } = ca.issue(&["a.test"]);
    write(&folder, "a.crt", &crt);
    write(&folder, "a.key", &key);
    folder
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).unwrap();
}

fn shown(certificates: &Certificates) -> Vec<&str> {
    certificates.pairs.iter().map(|pair| &*pair.name).collect()
}

fn assert_problem(problems: &[Unusable], file: &str, words: &str) {
    let found = problems.iter().any(|problem| problem.path.ends_with(file) && problem.why.contains(words) && !problem.advice.is_empty());
    assert!(found, "{file}: {words}; there is {problems:#?}");
}

#[test]
fn names_are_those_of_the_certificate() {
    let ca = WebCa::new();
    let folder = folder(&ca);
    let Pair { crt, key } = ca.issue(&["SHOP.Example", "*.Shop.example", "127.0.0.1", "::1", "shop.example"]);
    write(&folder, "z.crt", &crt);
    write(&folder, "z.key", &key);
    let Pair { crt, key } = ca.issue_named("Common.Example", &[], ec_key(), 90);
    write(&folder, "cn.pem", &format!("{crt}{key}"));
    let (certificates, problems) = load(folder.path(), &Certificates::default());
    assert_eq!(shown(&certificates), ["a", "cn", "z"]);
    let names = |at: usize| certificates.pairs[at].names.iter().map(|name| &**name).collect::<Vec<_>>();
    assert_eq!(names(1), ["common.example"], "the common name, since there is no subjectAltName");
    assert_eq!(names(2), ["*.shop.example", "127.0.0.1", "::1", "shop.example"]);
    assert_eq!((problems, certificates.default), (vec![], None));
}

#[test]
fn an_unusable_pair_is_told_of_keeps_its_last_form_and_holds_nobody_back() {
    let ca = WebCa::new();
    let other = ca.issue(&["b.test"]);
    type Spoil<'a> = &'a dyn Fn(&tempfile::TempDir);
    let cases: [(&str, Spoil<'_>, &str, &str); 9] = [
        ("half a certificate", &|f| write(f, "b.crt", &other.crt[..other.crt.len() / 2]), "b.crt", "PEM"),
        ("an empty certificate", &|f| write(f, "b.crt", ""), "b.crt", "no certificate"),
        ("half a key", &|f| write(f, "b.key", &other.key[..other.key.len() / 2]), "b.key", "no whole private key"),
        ("the key of another pair", &|f| write(f, "b.key", &ca.issue(&["x"]).key), "b.crt", "do not belong together"),
        ("the certificate of another pair", &|f| write(f, "b.crt", &ca.issue(&["x"]).crt), "b.crt", "do not belong together"),
        ("no key", &|f| fs::remove_file(f.path().join("b.key")).unwrap(), "b.crt", "no whole private key"),
        ("no certificate", &|f| fs::remove_file(f.path().join("b.crt")).unwrap(), "b.key", "no b.crt"),
        ("garbage", &|f| fs::write(f.path().join("b.crt"), [0x80; 40]).unwrap(), "b.crt", "not PEM"),
        ("the chain upside down", &|f| write(f, "b.crt", &format!("{}{}", ca.root_pem(), other.crt)), "b.crt", "certificate 2 of the file"),
    ];
    for (what, harm, file, words) in cases {
        let folder = folder(&ca);
        write(&folder, "b.crt", &other.crt);
        write(&folder, "b.key", &other.key);
        let (first, problems) = load(folder.path(), &Certificates::default());
        assert_eq!((shown(&first), problems), (vec!["a", "b"], vec![]), "{what}");
        harm(&folder);
        let Pair { crt, key } = ca.issue(&["a.test", "new.test"]);
        write(&folder, "a.crt", &crt);
        write(&folder, "a.key", &key);
        let (second, problems) = load(folder.path(), &first);
        assert_problem(&problems, file, words);
        assert_eq!(shown(&second), ["a", "b"], "{what}");
        assert!(Arc::ptr_eq(&second.pairs[1], &first.pairs[1]), "{what}: the last good form stays");
        assert!(second.pairs[0].names.contains(&"new.test".into()), "{what}: the other pair is renewed");
        let (fresh, _) = load(folder.path(), &Certificates::default());
        assert_eq!(shown(&fresh), ["a"], "{what}: without a last form it is left out");
    }
}

#[test]
fn what_did_not_change_stays_the_same_value() {
    let ca = WebCa::new();
    let folder = folder(&ca);
    let (first, _) = load(folder.path(), &Certificates::default());
    let Pair { crt, key } = ca.issue(&["b.test"]);
    write(&folder, "default.crt", &crt);
    write(&folder, "default.key", &key);
    write(&folder, ".hidden.crt", "nothing");
    write(&folder, "README", "nothing");
    let (second, problems) = load(folder.path(), &first);
    assert_eq!(problems, []);
    assert!(Arc::ptr_eq(&first.pairs[0], &second.pairs[0]));
    assert_eq!((shown(&second), second.default.as_deref()), (vec!["a", "default"], Some("default")));
}

#[test]
fn a_removed_pair_goes_and_the_last_one_stays() {
    let ca = WebCa::new();
    let folder = folder(&ca);
    let Pair { crt, key } = ca.issue(&["b.test"]);
    write(&folder, "b.crt", &crt);
    write(&folder, "b.key", &key);
    let (both, _) = load(folder.path(), &Certificates::default());
    for file in ["a.crt", "a.key"] {
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    let (one, problems) = load(folder.path(), &both);
    assert_eq!((shown(&one), problems), (vec!["b"], vec![]));
    for file in ["b.crt", "b.key"] {
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    let (still, problems) = load(folder.path(), &one);
    assert_eq!(still, one);
    assert_problem(&problems, folder.path().to_str().unwrap(), "last certificate was removed");
    fs::remove_dir(folder.path()).unwrap();
    let (still, problems) = load(folder.path(), &one);
    assert_eq!((still, problems.len()), (one, 1), "nor does a folder that is gone take them away");
    assert_eq!(load(Path::new("/nowhere"), &Certificates::default()).0, Certificates::default());
}

#[test]
fn time_and_strength_are_warned_about() {
    let ca = WebCa::new();
    let folder = folder(&ca);
    for (after, words) in
        [(0, None), (75 * DAY, None), (77 * DAY, Some("it ends in 1")), (91 * DAY, Some("ended")), (-2 * DAY, Some("begins in"))]
    {
        let (certificates, problems) = load_at(folder.path(), &Certificates::default(), unix_now() + after);
        assert_eq!(shown(&certificates), ["a"], "it is shown all the same");
        match words {
            None => assert_eq!(problems, [], "after {after}"),
            Some(words) => assert_problem(&problems, "a.crt", words),
        }
    }
    let weak = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    let Pair { crt, key } = ca.issue_named("", &["weak.test"], weak, 90);
    write(&folder, "weak.crt", &crt);
    write(&folder, "weak.key", &key);
    let (certificates, problems) = load(folder.path(), &Certificates::default());
    assert_eq!(shown(&certificates), ["a", "weak"]);
    assert_problem(&problems, "weak.key", "1024 bits");
}

#[test]
fn secrets_and_odd_files_are_told_of_without_their_content() {
    let ca = WebCa::new();
    let folder = folder(&ca);
    let sealed = ec_key().private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"secret").unwrap();
    write(&folder, "b.crt", &ca.issue(&["b.test"]).crt);
    fs::write(folder.path().join("b.key"), sealed).unwrap();
    write(&folder, "a.ocsp", "no answer");
    let (certificates, problems) = load(folder.path(), &Certificates::default());
    assert_eq!(shown(&certificates), ["a"]);
    assert_problem(&problems, "b.key", "pass phrase");
    assert_problem(&problems, "a.ocsp", "no OCSP answer");
    assert!(!format!("{problems:?}{certificates:?}").contains("BEGIN"));
    let Pair { crt, key } = ca.issue(&["c.test"]);
    write(&folder, "c.crt", &format!("{crt}{}{}", ca.issue(&["x"]).crt, ca.root_pem()));
    write(&folder, "c.key", &key);
    let (certificates, problems) = load(folder.path(), &Certificates::default());
    assert_eq!(shown(&certificates), ["a", "c"], "a chain in disorder is shown, since some clients know the way");
    assert_problem(&problems, "c.crt", "was not issued by");
}

#[test]
fn swapped_links_are_followed() {
    // Kubernetes mounts secrets so: the names are links through a link to a folder, which is swapped.
    let ca = WebCa::new();
    let folder = tempfile::tempdir().unwrap();
    for (version, name) in [("..1", "one.test"), ("..2", "two.test")] {
        fs::create_dir(folder.path().join(version)).unwrap();
        let Pair { crt, key } = ca.issue(&[name]);
        write(&folder, &format!("{version}/tls.crt"), &crt);
        write(&folder, &format!("{version}/tls.key"), &key);
        fs::set_permissions(folder.path().join(version).join("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    symlink("..1", folder.path().join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), folder.path().join(file)).unwrap();
    }
    let (first, problems) = load(folder.path(), &Certificates::default());
    assert_eq!((shown(&first), problems), (vec!["tls"], vec![]));
    symlink("..2", folder.path().join("..new")).unwrap();
    fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
    let (second, problems) = load(folder.path(), &first);
    assert_eq!((&*second.pairs[0].names[0], problems), ("two.test", vec![]));
}
