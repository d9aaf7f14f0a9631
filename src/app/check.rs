//! `aralez check` and `aralez schema`: what can be said without serving anything.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::{runtime::Builder, time::timeout};

use super::{Failure, ingress};
use crate::{
    cli::{CheckOptions, Checked, SchemaOf},
    config::{self, changes, main_file::MainFile},
    control::{
        consul::{self, Client},
        ingress::{certificates, running},
    },
    model::{
        finding::{Finding, Report},
        ingress::Certificates,
        registration::Unusable,
    },
    telemetry::{self, log::Level},
};

/// `aralez check`: what stands on standard output, what does not on standard error; as JSON, all on standard output.
///
/// Exit code 2 for files that cannot be used, 1 for a sidecar that would not work.
pub(super) fn run(CheckOptions { checked, json }: CheckOptions) -> Result<ExitCode, Failure> {
    // What is found is told once, and not by the log too.
    telemetry::log::install(Level::Off, false, false).context("cannot set up the log")?;
    let (report, failed) = match checked {
        Checked::Files(files) => (self::files(&files).1, 2),
        Checked::Changes { conf, with } => (compared(&conf, with.as_deref())?, 2),
        Checked::Sidecar { selector, agent, default_policy, timeout: patience } => {
            let client = Client::new(*agent).map_err(|problem| Failure::Configuration(problem.into()))?;
            let mut report = Report::default();
            let survey = consul::survey(&client, &selector, default_policy, &mut report);
            let runtime = Builder::new_current_thread().enable_all().build().context("cannot start")?;
            if runtime.block_on(async { timeout(patience, survey).await }).is_err() {
                let why = format!("the agent did not answer everything within {patience:?}");
                report.error("agent", why, "the rest is not checked; -timeout-seconds gives it longer");
            }
            (report, 1)
        }
    };
    print(&report, json).context("cannot write")?;
    Ok(if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::from(failed) })
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = if json {
        writeln!(out, "{:#}", serde_json::json!(report))
    } else {
        report.findings.iter().for_each(|finding| eprintln!("{finding}"));
        report.facts.iter().try_for_each(|fact| writeln!(out, "{fact}"))
    };
    match written {
        // Who reads has read enough: `| head`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Everything that is wrong with files. Certificates that cannot be used are warnings: a start does without them.
fn files(files: &[PathBuf]) -> (Vec<MainFile>, Report) {
    let (mains, mut faults) = config::check::check(files.iter().map(PathBuf::as_path));
    faults.0.extend(mains.iter().filter_map(|main| ingress::api::check(main).err()).flat_map(|faults| faults.0));
    let warnings = mains.iter().flat_map(passed_over).map(Finding::warning);
    let findings = warnings.chain(faults.0.iter().map(|fault| Finding::error(fault.into()))).collect();
    (mains, Report { facts: Vec::new(), findings })
}

/// What is wrong with a file and, where nothing is, what a reload of it would change.
fn compared(conf: &Path, with: Option<&Path>) -> Result<Report, Failure> {
    let (mains, mut report) = files(&[conf.to_owned()]);
    let (Some(main), true) = (mains.first(), report.is_fine()) else { return Ok(report) };
    let wrong = |faults: config::fault::Faults| Failure::Configuration(faults.into());
    let new = ingress::shown(main).map_err(wrong)?;
    let changes = match with {
        Some(with) => {
            let old = MainFile::load(with).map_err(wrong)?;
            let routes = changes::between(&ingress::shown(&old).map_err(wrong)?, &new);
            let loaded = |main: &MainFile| main.certificates.as_ref().map(|folder| certificates::load(folder, &Certificates::default()).0);
            let certificates = loaded(main).unwrap_or_default().changes_since(&loaded(&old).unwrap_or_default());
            let main = changes::of_main(with, conf).map_err(wrong)?;
            main.into_iter().chain(routes).chain(certificates).collect()
        }
        None => {
            let runtime = Builder::new_current_thread().enable_all().build().context("cannot start")?;
            changes::between(&runtime.block_on(running::shown(&main.api))?, &new)
        }
    };
    report.facts = if changes.is_empty() { vec!["nothing would change".to_owned()] } else { changes };
    Ok(report)
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
    let _ = writeln!(io::stdout(), "{schema:#}");
    ExitCode::SUCCESS
}
