//! The files together: what is refused, what loads, and what the schemas say of it.

mod anything;
mod examples;
mod layouts;
mod meanings;
mod refusals;
mod schema;

use std::path::{Path, PathBuf};

use super::{
    fault::Faults,
    main_file::MainFile,
    upstreams::{self, Upstreams},
};

/// The least that a `main.yaml` says.
const LEAST: &str = "{proxy_address_http: 127.0.0.1:0, upstreams_conf: upstreams.yaml, config_address: 127.0.0.1:3000}";

/// The environment of tests.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "SECRET" => "a-secret-out-of-the-environment",
        "PORT" => "8080",
        "NUMBER" => "7",
        "YES" => "true",
        "SECONDS" => "5s",
        _ => return None,
    };
    Some(value.to_owned())
}

fn main_of(text: &str) -> Result<MainFile, Faults> {
    MainFile::parse_in(text, Path::new("/etc/aralez/main.yaml"), env)
}

fn routes_of(texts: &[(&str, &str)]) -> Result<Upstreams, Faults> {
    let main = main_of(LEAST).unwrap();
    let texts: Vec<(PathBuf, String)> = texts.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    upstreams::parse_in(&texts, &main, env)
}

fn routes(text: &str) -> Result<Upstreams, Faults> {
    routes_of(&[("upstreams.yaml", text)])
}
