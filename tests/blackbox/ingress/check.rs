//! `aralez check`, `aralez -t` and `aralez schema`: exit codes, and what goes to which stream.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
};

use aralez_integration::web_pki::WebCa;
use serde_json::Value;
use tempfile::TempDir;

use super::{Edge, push};
use crate::support::{mesh::EFFECT, sidecar::aralez};

const MAIN: &str = "proxy_address_http: 127.0.0.1:0\nupstreams_conf: upstreams.yaml\n";
const ROUTES: &str = "provider: file\nupstreams:\n  shop.test:\n    paths:\n      /: {servers: ['127.0.0.1:8000']}\n";

/// Names and texts.
type Files<'a> = &'a [(&'a str, &'a str)];

fn folder(files: Files<'_>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("main.yaml", MAIN), ("upstreams.yaml", ROUTES)].iter().chain(files) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn run(arguments: &[&str], path: Option<&Path>) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = aralez().args(arguments).args(path).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The spellings of the check; all say the same.
const CHECKS: [&[&str]; 4] = [&["check"], &["-t", "-c"], &["--test", "--conf"], &["serve", "-test", "-conf"]];

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mains = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("main.yaml"));
    let found: Vec<_> = mains.filter(|main| main.is_file()).collect();
    assert!(found.len() >= 4, "{found:?}");
    found
}

#[test]
fn what_is_right_is_0_and_silent_and_binds_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let main = format!("proxy_address_http: {}\nupstreams_conf: upstreams.yaml\npid_file: aralez.pid\n", taken.local_addr().unwrap());
    let more = "upstreams:\n  blog.test:\n    paths:\n      /: {servers: ['127.0.0.1:8001']}\n";
    let folder = folder(&[("main.yaml", &main), ("conf.d/blog.yaml", more), ("conf.d/notes.txt", "no: {yaml")]);
    for check in CHECKS {
        assert_eq!(run(check, Some(&folder.path().join("main.yaml"))), (Some(0), String::new(), String::new()), "{check:?}");
    }
    assert!(!folder.path().join("aralez.pid").exists());
}

#[test]
fn what_is_wrong_is_2_with_a_line_for_each_problem_of_each_file() {
    let bad = ROUTES.replace("servers", "serverz");
    let certificates = "proxy_address_tls: 127.0.0.1:0\nproxy_certificates: nowhere\n";
    let cases: [(Files<'_>, &[&str]); 9] = [
        (&[("main.yaml", &format!("{MAIN}hc_intervall: 2\n"))], &["main.yaml:3:1: unknown key \"hc_intervall\"", "hc_interval"]),
        (&[("main.yaml", "upstreams_conf: upstreams.yaml\n")], &["main.yaml:1:1: ", "proxy_address_http"]),
        (&[("main.yaml", "")], &["main.yaml:1:1: "]),
        (&[("main.yaml", &format!("{MAIN}{certificates}"))], &["main.yaml:", "nowhere", "NAME.crt"]),
        (&[("main.yaml", &MAIN.replace("upstreams.yaml", "routes.yaml"))], &["routes.yaml:1:1: cannot be read"]),
        (&[("upstreams.yaml", &bad)], &["upstreams.yaml:5:11: unknown key \"serverz\"", "servers"]),
        (&[("upstreams.yaml", "")], &["upstreams.yaml:1:1: "]),
        (&[("conf.d/a.yaml", "upstreams: {"), ("conf.d/b.yaml", &bad)], &["a.yaml:1:", "b.yaml:"]),
        (&[("upstreams.yaml", &bad), ("conf.d/b.yaml", &bad)], &["upstreams.yaml:5:11: ", "b.yaml:5:11: "]),
    ];
    for (files, words) in cases {
        let folder = folder(files);
        for check in CHECKS {
            let (code, out, told) = run(check, Some(&folder.path().join("main.yaml")));
            assert_eq!((code, out.as_str()), (Some(2), ""), "{check:?} {files:?}: {told}");
            assert!(words.iter().all(|word| told.contains(word)), "{check:?} {files:?}: {words:?} in\n{told}");
        }
    }
    let [good, bad, worse] = [folder(&[]), folder(&[("upstreams.yaml", &bad)]), folder(&[("main.yaml", "thread: 1\n")])];
    let mains = [&good, &bad, &worse].map(|folder| folder.path().join("main.yaml").display().to_string());
    let (code, out, told) = run(&["check", &mains[0], &mains[1], &mains[2]], None);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(told.contains("serverz") && told.contains("\"thread\"") && !told.contains(&mains[0]), "{told}");
}

#[test]
fn what_a_start_does_without_is_a_warning_and_0() {
    let main = format!("{MAIN}proxy_address_tls: 127.0.0.1:0\nproxy_certificates: certs\n");
    let good = WebCa::new().issue(&["a.test"]);
    let pair = [("main.yaml", main.as_str()), ("certs/a.crt", &good.crt), ("certs/a.key", &good.key)];
    let cases: [(Files<'_>, &[&str]); 3] = [
        (&[], &[]),
        (&[("certs/b.crt", &good.crt)], &["certs/b.crt: "]),
        (&[("certs/a.key", "no key")], &["certs/a.key: ", "certs: no certificate in it can be shown"]),
    ];
    for (more, warnings) in cases {
        let folder = folder(&[&pair, more].concat());
        for check in CHECKS {
            let (code, out, told) = run(check, Some(&folder.path().join("main.yaml")));
            assert_eq!((code, out.as_str(), told.lines().count()), (Some(0), "", warnings.len()), "{check:?} {more:?}: {told}");
            for (line, warning) in told.lines().zip(warnings) {
                assert!(line.starts_with("warning: ") && line.contains(warning), "{check:?} {more:?}: {told}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_is_2_and_named() {
    let folder = folder(&[("latin.yaml", ""), ("far/main.yaml", &MAIN.replace("upstreams.yaml", "routes.d"))]);
    fs::write(folder.path().join("latin.yaml"), b"# caf\xe9\n").unwrap();
    fs::create_dir_all(folder.path().join("far/routes.d")).unwrap();
    symlink("loop.yaml", folder.path().join("loop.yaml")).unwrap();
    let files = [
        ("gone.yaml", "gone.yaml"),
        (".", "directory"),
        ("loop.yaml", "symbolic links"),
        ("latin.yaml", "UTF-8"),
        ("far/main.yaml", "routes.d"),
    ];
    for (file, named) in files {
        for check in CHECKS {
            let (code, out, told) = run(check, Some(&folder.path().join(file)));
            assert_eq!((code, out.as_str()), (Some(2), ""), "{check:?} {file}: {told}");
            assert!(told.contains(named), "{check:?} {file}: {told}");
        }
    }
    let (code, _, told) = run(&["check"], None);
    assert!(code == Some(2) && told.contains("FILE"), "{told}");
}

#[test]
fn every_example_is_right() {
    for main in examples() {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(main.parent().unwrap()).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let (certificates, pair) = (folder.path().join("certificates"), WebCa::new().issue(&["shop.example"]));
        fs::create_dir(&certificates).unwrap();
        fs::write(certificates.join("shop.crt"), pair.crt).unwrap();
        fs::write(certificates.join("shop.key"), pair.key).unwrap();
        let mut command = aralez();
        for name in ["ARALEZ_MASTER_KEY", "API_KEY_ONE", "API_KEY_TWO", "CONSUL_HTTP_TOKEN"] {
            command.env(name, "a-value-of-the-environment");
        }
        let Output { status, stderr, .. } = command.arg("check").arg(folder.path().join("main.yaml")).output().unwrap();
        assert_eq!((status.code(), String::from_utf8(stderr).unwrap()), (Some(0), String::new()), "{}", main.display());
    }
}

#[test]
fn schemas_are_json_on_standard_output() {
    let schema = |of: &[&str]| {
        let (code, out, told) = run(&[&["schema"], of].concat(), None);
        assert_eq!((code, told.as_str()), (Some(0), ""), "{of:?}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let (main, upstreams) = (schema(&["main"]), schema(&["upstreams"]));
    for schema in [&main, &upstreams] {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
    assert!(main.to_string().contains("\"proxy_address_http\"") && upstreams.to_string().contains("\"sticky_sessions\""));
    assert_eq!(schema(&[]), serde_json::json!({"main": main, "upstreams": upstreams}));
    let (code, out, told) = run(&["schema", "mesh"], None);
    assert!(code == Some(2) && out.is_empty() && told.contains("upstreams"), "{told}");
}

/// As [`MAIN`], with a configuration API.
fn served(address: &str) -> String {
    format!("{MAIN}config_address: {address}\nmaster_key: of-the-test\n")
}

#[test]
fn what_a_reload_would_change_is_told_beside_another_file() {
    let [one, other] = [WebCa::new().issue(&["a.test"]), WebCa::new().issue(&["b.test"])];
    let main = format!("{MAIN}proxy_address_tls: 127.0.0.1:0\nproxy_certificates: certs\n");
    let old = folder(&[("main.yaml", main.as_str()), ("certs/a.crt", &one.crt), ("certs/a.key", &one.key)]);
    let routes = ROUTES.replace("127.0.0.1:8000", "127.0.0.1:8001");
    let files = [("main.yaml", &*main.replace("certs", "./certs")), ("upstreams.yaml", &routes)];
    let new = folder(&[&files[..], &[("certs/b.crt", &other.crt), ("certs/b.key", &other.key)]].concat());
    let [old, new] = [&old, &new].map(|folder| folder.path().join("main.yaml"));
    let (code, out, told) = run(&["check", &format!("-diff={}", old.display()), "-c"], Some(&new));
    assert_eq!((code, told.as_str()), (Some(0), ""), "{out}");
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "main.yaml: proxy_certificates: certs -> ./certs (from the next start on)",
            "route shop.test/: server 127.0.0.1:8000 removed",
            "route shop.test/: server 127.0.0.1:8001 added",
            "certificate b added: b.test",
            "certificate a removed",
        ]
    );
    let (code, out, told) = run(&["check", &format!("--diff={}", new.display()), "-format=json"], Some(&new));
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, told.as_str(), out), (Some(0), "", serde_json::json!({"facts": ["nothing would change"], "findings": []})));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_would_change_is_told_beside_the_running_process_and_by_its_log() {
    let edge = Edge::start(ROUTES).await;
    let compare = async || {
        let path = edge.path("main.yaml");
        tokio::task::spawn_blocking(move || run(&["check", "-diff", "-c"], Some(&path))).await.unwrap()
    };
    assert_eq!(compare().await, (Some(0), "nothing would change\n".to_owned(), String::new()));
    let other = ROUTES.replace("8000", "8001");
    let told = push(&edge, "?dry_run", &other).await.text();
    assert!(told.ends_with("\nwould change: route shop.test/: server 127.0.0.1:8001 added\n"), "{told}");
    assert_eq!(push(&edge, "", &other).await.status, 200);
    edge.aralez.logged("route shop.test/: server 127.0.0.1:8000 removed; route shop.test/: server 127.0.0.1:8001 added", EFFECT).await;
    let (code, out, told) = compare().await;
    assert_eq!((code, told.as_str()), (Some(0), ""));
    assert_eq!(out, "route shop.test/: server 127.0.0.1:8001 removed\nroute shop.test/: server 127.0.0.1:8000 added\n");
}

#[test]
fn a_process_that_cannot_be_asked_is_1_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    for (main, words) in [(served(&address), address.as_str()), (MAIN.to_owned(), "master_key")] {
        let folder = folder(&[("main.yaml", main.as_str())]);
        let (code, out, told) = run(&["check", "-diff", "-c"], Some(&folder.path().join("main.yaml")));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{told}");
        assert!(told.contains(words) && !told.contains("of-the-test"), "{told}");
    }
}
