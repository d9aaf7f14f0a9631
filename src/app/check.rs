//! `aralez check` and `aralez schema`: what can be said without serving anything.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::{Failure, ingress};
use crate::{
    cli::{CheckOptions, Checked, SchemaOf},
    config::{self, changes, kubernetes::ClusterConfig, main_file::MainFile, upstreams::Upstreams},
    control::{
        consul::{self, Client},
        ingress::{certificates, running},
        kubernetes::survey::{survey, way},
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
/// Exit code 2 for files that cannot be used, 1 for a sidecar, or routes of a cluster, that would not work.
pub(super) fn run(CheckOptions { checked, json }: CheckOptions) -> Result<ExitCode, Failure> {
    // What is found is told once, and not by the log too.
    telemetry::log::install(Level::Off, false, false).context("cannot set up the log")?;
    let (report, failed) = match checked {
        Checked::Files(files) => (self::files(&files).1, 2),
        Checked::Changes { conf, with } => (compared(&conf, with.as_deref())?, 2),
        Checked::Cluster { conf, timeout } => surveyed(&conf, timeout)?,
        Checked::Sidecar { selector, agent, default_policy, timeout: patience } => {
            let client = Client::new(*agent).map_err(|problem| Failure::Configuration(problem.into()))?;
            let mut report = Report::default();
            let survey = consul::survey(&client, &selector, default_policy, &mut report);
            if runtime()?.block_on(async { timeout(patience, survey).await }).is_err() {
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
fn files(files: &[PathBuf]) -> (Vec<(MainFile, Option<Upstreams>)>, Report) {
    let (mains, mut faults) = config::check::check(files.iter().map(PathBuf::as_path));
    faults.0.extend(mains.iter().filter_map(|(main, _)| ingress::api::check(main).err()).flat_map(|faults| faults.0));
    let warnings = mains.iter().flat_map(|(main, routes)| {
        let cluster = routes.as_ref().and_then(|routes| routes.kubernetes.as_ref()).map(|kubernetes| &kubernetes.cluster);
        passed_over(main, cluster).into_iter().chain(no_way(main, cluster))
    });
    let warnings = warnings.map(Finding::warning);
    let findings = warnings.chain(faults.0.iter().map(|fault| Finding::error(fault.into()))).collect();
    (mains, Report { facts: Vec::new(), findings })
}

/// What is wrong with a file and, where nothing is, what a reload of it would change.
fn compared(conf: &Path, with: Option<&Path>) -> Result<Report, Failure> {
    let (mains, mut report) = files(&[conf.to_owned()]);
    let (Some((main, _)), true) = (mains.first(), report.is_fine()) else { return Ok(report) };
    let wrong = |faults: config::fault::Faults| Failure::Configuration(faults.into());
    let new = ingress::shown(main).map_err(wrong)?;
    let changes = match with {
        Some(with) => {
            let old = MainFile::load(with).map_err(wrong)?;
            let routes = changes::between(&ingress::shown(&old).map_err(wrong)?, &new);
            let loaded = |main: &MainFile| main.certificates.as_ref().map(|folder| certificates::load(folder, &Certificates::default()).0);
            let certificates = loaded(main).unwrap_or_default().changes_since(&loaded(&old).unwrap_or_default());
            let of_main =
                changes::between(&old.shown, &main.shown).into_iter().map(|change| format!("main.yaml: {change} (from the next start on)"));
            of_main.chain(routes).chain(certificates).collect()
        }
        None => changes::between(&runtime()?.block_on(running::shown(&main.api))?, &new),
    };
    report.facts = if changes.is_empty() { vec!["nothing would change".to_owned()] } else { changes };
    Ok(report)
}

/// What is wrong with a file and, where nothing is, with what it makes of its cluster; and the exit code if anything is.
fn surveyed(conf: &Path, patience: Duration) -> Result<(Report, u8), Failure> {
    let (mains, mut report) = files(&[conf.to_owned()]);
    let (Some((_, Some(Upstreams { routing, kubernetes, .. }))), true) = (mains.into_iter().next(), report.is_fine()) else {
        return Ok((report, 2));
    };
    let Some(kubernetes) = kubernetes else {
        report.error(
            conf.display().to_string(),
            "its routes name no cluster of Kubernetes",
            "leave out -cluster, or write provider: kubernetes",
        );
        return Ok((report, 2));
    };
    runtime()?.block_on(survey(kubernetes, &routing, patience, &mut report));
    Ok((report, 1))
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start")
}

/// That the cluster cannot be asked from here: a start waits until it can.
fn no_way(main: &MainFile, cluster: Option<&ClusterConfig>) -> Option<Unusable> {
    let why = runtime().ok()?.block_on(way(&cluster?.access)).err()?;
    Some(Unusable {
        path: main.upstreams.display().to_string(),
        why: format!("from here the cluster of Kubernetes cannot be asked: {why}"),
        advice: "a start waits until it can".to_owned(),
    })
}

/// Certificates that a start would do without. That there is no folder at all is a fault, and told as one.
fn passed_over(main: &MainFile, cluster: Option<&ClusterConfig>) -> Vec<Unusable> {
    let Some(folder) = main.certificates.as_ref().filter(|folder| main.listeners.tls.is_some() && folder.is_dir()) else {
        return Vec::new();
    };
    let (found, mut problems) = certificates::load(folder, &Certificates::default());
    // They may come from ACME or of Ingresses.
    let others = main.acme.is_some() || cluster.is_some_and(|cluster| cluster.ingresses.is_some());
    if found.pairs.is_empty() && !others {
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
