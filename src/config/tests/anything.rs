//! Texts that nobody means: told or taken, but never a crash, and never for long.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{LEAST, main_of, routes};
use crate::config::{main_file::MainFile, upstreams};

/// A value of YAML in flow style, made of words that mean something.
fn value() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "upstreams",
        "paths",
        "servers",
        "/",
        "a.test",
        "127.0.0.1:80",
        "rate_limit",
        "authorization",
        "type",
        "jwt",
        "creds",
        "true",
        "0",
        "-1",
        "1e9",
        "headers",
        "a: b",
        "consul",
        "services",
        "real",
        "proxy",
        "healthcheck",
        "cors",
        "origins",
        "*",
        "${NUMBER}",
        "${",
        "files",
        "root",
        "~",
        "",
        "[::1]:1",
        "sticky_sessions",
        "5s",
        "tls_ca",
        "redirect_to",
        "https://a",
        "<<",
        "DEFAULT",
    ]);
    let leaf = word.prop_map(|word| if word.starts_with(['-', '1', '0', 't']) { word.to_owned() } else { format!("{word:?}") });
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((inner.clone(), inner), 0..5).prop_map(|entries| format!(
                "{{{}}}",
                entries.into_iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ")
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_taken_or_told(text in "\\PC{0,200}|[a-z:{}\\[\\]&*<|>\n \"'-]{0,200}") {
        for told in [routes(&text).err(), main_of(&text).err()].into_iter().flatten() {
            prop_assert!(!told.0.is_empty());
        }
    }

    #[test]
    fn any_yaml_is_taken_or_told(text in value()) {
        for told in [routes(&text).err(), main_of(&text).err()].into_iter().flatten() {
            prop_assert!(!told.0.is_empty());
        }
    }
}

fn quickly<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = run();
    assert!(begin.elapsed() < Duration::from_secs(10), "{what} took {:?}", begin.elapsed());
    result
}

#[test]
fn bombs_are_refused_quickly() {
    let laughs: String = (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))).collect();
    let laughs = format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{laughs}");
    let deep = "[".repeat(100_000);
    let nested = format!("upstreams: {}", "{a: ".repeat(50_000));
    // A chain of aliases is as deep as it is long.
    let chain: String = (1..2000).map(|n| format!("a{n}: &a{n} [*a{}]\n", n - 1)).collect();
    let chain = format!("a0: &a0 []\n{chain}");
    let long = format!("upstreams: {{}} # {}", "x".repeat(10 << 20));
    for (name, text) in [("laughs", laughs), ("deep", deep), ("nested", nested), ("chain", chain), ("long", long)] {
        let told = quickly(name, || routes(&text)).expect_err(name);
        assert!(!told.0.is_empty(), "{name}");
    }
}

#[test]
fn a_text_of_ten_thousand_routes_loads() {
    let paths: String = (0..10_000).map(|n| format!("      /p{n}: {{servers: [\"127.0.0.1:{}\"]}}\n", 4000 + n)).collect();
    let text = format!("upstreams:\n  a.test:\n    paths:\n{paths}");
    let routes = routes(&text).unwrap();
    assert_eq!(routes.routing.routes.len(), 10_000);
}

#[test]
fn files_of_other_bytes_are_told_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let main_path = folder.path().join("main.yaml");
    let routes_path = folder.path().join("upstreams.yaml");
    fs::write(&main_path, LEAST).unwrap();
    let main = MainFile::load(&main_path).unwrap();
    let told = |bytes: &[u8]| {
        fs::write(&routes_path, bytes).unwrap();
        upstreams::load(&main).map_err(|faults| faults.to_string())
    };
    assert!(upstreams::load(&main).unwrap_err().to_string().contains("upstreams.yaml:1:1: cannot be read: "));
    assert!(
        told(b"upstreams: {}\n# \xff\n").unwrap_err().contains("upstreams.yaml:2:3: is not UTF-8 from here on; save the file as UTF-8")
    );
    assert!(told(&vec![b'#'; 9 << 20]).unwrap_err().contains("upstreams.yaml:1:1: is larger than 8 MiB; split it into files of conf.d"));
    assert!(told(b"").unwrap_err().contains("the file is empty"));
    assert!(told(b"\xef\xbb\xbfupstreams: {}\n").is_ok(), "a byte order mark is no fault (YAML 1.2.2, section 5.2)");
    fs::remove_file(&routes_path).unwrap();
    fs::create_dir(&routes_path).unwrap();
    assert!(upstreams::load(&main).unwrap_err().to_string().contains("is no file"));
    assert!(MainFile::load(&PathBuf::from("/dev/zero")).unwrap_err().to_string().contains("is larger than 8 MiB"));
}
