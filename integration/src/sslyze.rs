//! sslyze, a scanner of TLS servers: all versions, suites and known weaknesses, as a client of its own making.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::components;
use crate::ssllabs::{Findings, Suite, Version};

/// What it found.
#[derive(Debug)]
pub struct Scan {
    /// What decides on the grade.
    pub findings: Findings,
    /// Known weaknesses that it found, and what it could not tell.
    pub weaknesses: Vec<String>,
    /// It resumed TLS 1.2 sessions by tickets.
    pub resumes_by_ticket: bool,
}

/// Scans a server as clients do that ask for `name`; `ca` is a PEM file with the root to trust.
///
/// # Errors
/// When sslyze cannot be had or run, or could not connect.
pub async fn scan(server: SocketAddr, name: &str, ca: &Path) -> Result<Scan> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.json");
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", components::sslyze()?).args(["-m", "sslyze", "--quiet", "--mozilla_config", "disable"]);
    python.args(["--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--certinfo", "--http_headers", "--resum"]);
    python.args(["--reneg", "--compression", "--heartbleed", "--openssl_ccs", "--robot", "--fallback", "--early_data"]);
    python.arg("--certinfo_ca_file").arg(ca).args(["--sni", name]).arg("--json_out").arg(&report).arg(server.to_string());
    let done = python.kill_on_drop(true).output().await.context("start python3")?;
    let text = std::fs::read_to_string(&report).with_context(|| format!("no report; it said {}", String::from_utf8_lossy(&done.stderr)))?;
    let report: Value = serde_json::from_str(&without_long_numbers(&text)).context("read the report")?;
    let found = &report["server_scan_results"][0]["scan_result"];
    ensure!(found.is_object(), "sslyze could not scan: {text}");
    Ok(read(found))
}

/// The report without the numbers of RSA keys, which are longer than any number type.
fn without_long_numbers(text: &str) -> String {
    let (mut short, mut digits) = (String::with_capacity(text.len()), String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        short.push_str(if digits.len() > 18 { "0" } else { &digits });
        digits.clear();
        short.push(c);
    }
    short
}

fn read(found: &Value) -> Scan {
    let (mut versions, mut suites) = (BTreeSet::new(), BTreeSet::new());
    for (key, version) in [
        ("ssl_2_0_cipher_suites", Version::Ssl2),
        ("ssl_3_0_cipher_suites", Version::Ssl3),
        ("tls_1_0_cipher_suites", Version::Tls1_0),
        ("tls_1_1_cipher_suites", Version::Tls1_1),
        ("tls_1_2_cipher_suites", Version::Tls1_2),
        ("tls_1_3_cipher_suites", Version::Tls1_3),
    ] {
        for accepted in found[key]["result"]["accepted_cipher_suites"].as_array().into_iter().flatten() {
            let suite = &accepted["cipher_suite"];
            let bits = suite["key_size"].as_u64().and_then(|bits| bits.try_into().ok()).unwrap_or(0);
            versions.insert(version);
            suites.insert(Suite { name: suite["name"].as_str().unwrap_or_default().to_owned(), bits });
        }
    }
    let deployments = found["certificate_info"]["result"]["certificate_deployments"].as_array().cloned().unwrap_or_default();
    let is_trusted = |deployment: &Value| {
        let mut paths = deployment["path_validation_results"].as_array().into_iter().flatten();
        // The roots that come with sslyze know nothing of ours.
        paths.any(|path| path["trust_store"]["name"] == "Supplied CA file" && path["was_validation_successful"] == true)
    };
    let key_bits = |deployment: &Value| {
        let key = &deployment["received_certificate_chain"][0]["public_key"];
        let bits = key["key_size"].as_u64().and_then(|bits| u32::try_from(bits).ok()).unwrap_or(0);
        // P-256 is as strong as RSA with 3072 bits, P-384 as 7680.
        if key["algorithm"].as_str().is_some_and(|algorithm| algorithm.contains("RSA")) { bits } else { bits * 12 }
    };
    let hsts = found["http_headers"]["result"]["strict_transport_security_header"]["max_age"].as_u64();
    let findings = Findings {
        versions,
        suites,
        // Key exchange is by X25519 or P-256 at least.
        key_bits: deployments.iter().map(key_bits).min().unwrap_or(0).min(3072),
        is_trusted: !deployments.is_empty() && deployments.iter().all(is_trusted),
        hsts,
    };
    let mut weaknesses = Vec::new();
    for (key, field, good) in [
        ("heartbleed", "is_vulnerable_to_heartbleed", Value::Bool(false)),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", Value::Bool(false)),
        ("tls_compression", "supports_compression", Value::Bool(false)),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", Value::Bool(false)),
        ("session_renegotiation", "supports_secure_renegotiation", Value::Bool(true)),
        ("tls_fallback_scsv", "supports_fallback_scsv", Value::Bool(true)),
        ("tls_1_3_early_data", "supports_early_data", Value::Bool(false)),
    ] {
        let said = &found[key]["result"][field];
        if *said != good {
            weaknesses.push(format!("{field}: {said}"));
        }
    }
    let robot = found["robot"]["result"]["robot_result"].as_str().unwrap_or("unknown");
    if !robot.starts_with("NOT_VULNERABLE") {
        weaknesses.push(format!("robot: {robot}"));
    }
    let resumes_by_ticket = found["session_resumption"]["result"]["tls_ticket_resumption_result"] == "FULLY_SUPPORTED";
    Scan { findings, weaknesses, resumes_by_ticket }
}
