//! `aralez check` and `aralez schema`: what concerns files alone.

use std::{io::Write, path::PathBuf, process::ExitCode};

use super::ingress;
use crate::{
    cli::SchemaOf,
    config::{self, main_file::MainFile},
    control::ingress::certificates,
    model::{ingress::Certificates, registration::Unusable},
};

/// `aralez check`: a line on standard error for everything that is wrong, and exit code 2 if there is any. Certificates that cannot be used are
/// warnings: a start does without them.
pub(super) fn check(files: &[PathBuf]) -> ExitCode {
    let (mains, mut faults) = config::check::check(files.iter().map(PathBuf::as_path));
    faults.0.extend(mains.iter().filter_map(|main| ingress::api::check(main).err()).flat_map(|faults| faults.0));
    for Unusable { path, why, advice } in mains.iter().flat_map(passed_over) {
        eprintln!("warning: {path}: {why}; {advice}");
    }
    if faults.0.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("{faults}");
    ExitCode::from(2)
}

/// Certificates that a start would do without. That there is no folder at all is a fault, and told as one.
fn passed_over(main: &MainFile) -> Vec<Unusable> {
    let Some(folder) = main.certificates.as_ref().filter(|folder| main.listeners.tls.is_some() && folder.is_dir()) else {
        return Vec::new();
    };
    let (found, mut problems) = certificates::load(folder, &Certificates::default());
    if found.pairs.is_empty() && main.acme.is_none() {
        problems.push(Unusable {
            path: folder.display().to_string(),
            why: "no certificate in it can be shown, so that nobody can connect to proxy_address_tls".to_owned(),
            advice: "put NAME.crt and NAME.key into it".to_owned(),
        });
    }
    problems
}

/// `aralez schema`: of one file, or of both under their names.
pub(super) fn schema(of: Option<SchemaOf>) -> ExitCode {
    let schema = match of {
        Some(SchemaOf::Main) => config::schema::main_file(),
        Some(SchemaOf::Upstreams) => config::schema::upstreams(),
        None => serde_json::json!({"main": config::schema::main_file(), "upstreams": config::schema::upstreams()}),
    };
    // Whoever reads no further has what he wanted.
    let _ = writeln!(std::io::stdout(), "{schema:#}");
    ExitCode::SUCCESS
}
