//! The import rule of `src/lib.rs`, kept by reading the `use` lines and paths of every source file.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "architecture/book.rs"]
mod book;
#[path = "architecture/features.rs"]
mod features;
#[path = "architecture/packaging.rs"]
mod packaging;
#[path = "architecture/reference.rs"]
mod reference;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which rooms of the crate each room may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("trust", &[]),
    ("model", &["model"]),
    ("snapshot", &["model", "snapshot"]),
    ("config", &["model", "telemetry", "config"]),
    ("telemetry", &["model", "telemetry"]),
    ("control", &["model", "snapshot", "config", "telemetry", "control", "trust"]),
    ("process", &["model", "config", "process"]),
    ("proxy", &["model", "snapshot", "telemetry", "process", "proxy", "trust"]),
    ("explain", &["model", "explain"]),
    ("admin", &["model", "snapshot", "telemetry", "admin"]),
    ("cli", &["model", "config", "telemetry", "cli"]),
];

/// Crates that stay in some rooms.
const STAYS_IN: &[(&str, &[&str])] = &[
    ("pingora", &["proxy", "app"]),
    ("consul_api_types", &["control/consul"]),
    ("kube", &["control/kubernetes"]),
    ("k8s_openapi", &["control/kubernetes"]),
    ("reqwest", &["control/consul", "control/ingress", "control/keys", "proxy/filter/auth", "app/ask"]),
    ("axum", &["admin", "control/embedded"]),
];

/// Sees that a page is what it would be made as, or makes it.
fn fresh(path: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("WRITE_PAGES").is_some() {
        fs::write(&path, page).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let line = 1 + known.lines().zip(page.lines()).take_while(|(known, made)| known == made).count();
    assert!(known == page, "{}:{line} is not what it would be made as: write the page anew with WRITE_PAGES=1", path.display());
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be read") {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The lines of code, without comments and without what stands in `#[cfg(test)]` at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, line)| !line.starts_with("//"))
}

/// The rooms that a line names by `crate::room`, also in a `use crate::{…}` group that begins on it.
fn rooms_named<'a>(lines: &[(usize, &'a str)], at: usize) -> Vec<&'a str> {
    let line = lines[at].1;
    let mut named: Vec<&str> = line.match_indices("crate::").map(|(i, m)| word(&line[i + m.len()..])).filter(|w| !w.is_empty()).collect();
    if line == "use crate::{" {
        let mut depth = 1;
        for (_, inner) in &lines[at + 1..] {
            if depth == 1 {
                named.push(word(inner));
            }
            depth += inner.matches('{').count();
            depth -= inner.matches('}').count();
            if depth == 0 {
                break;
            }
        }
    }
    named
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

#[test]
fn every_room_names_only_the_rooms_it_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources are where they were");
    let mut offences = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let room = relative.split('/').next().unwrap().trim_end_matches(".rs");
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<_> = code(&text).collect();
        for at in 0..lines.len() {
            let (number, line) = lines[at];
            if let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == room) {
                for named in rooms_named(&lines, at) {
                    let is_room = MAY_NAME.iter().any(|(name, _)| *name == named) || named == "app";
                    if is_room && !allowed.contains(&named) {
                        offences.push(format!("src/{relative}:{number}: {room} may not name {named}: {line}"));
                    }
                }
            }
            for (krate, rooms) in STAYS_IN {
                let names = line.contains(&format!("{krate}::"))
                    || line.contains(&format!("{krate}_core::"))
                    || line.contains(&format!("{krate}_proxy::"));
                if names && !rooms.iter().any(|r| relative.starts_with(r)) {
                    offences.push(format!("src/{relative}:{number}: {krate} stays in {rooms:?}: {line}"));
                }
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}
