//! What is told about the traffic, and what must never be told.

use std::time::Duration;

use anyhow::{Context, ensure};
use aralez_integration::apps::http_echo;
use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, intention, upstream};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY, announce, answering, api, web};
use crate::support::raw::read_until;
use crate::support::sidecar::Launch;

/// The keys of Consul's default access log format, in its order.
const KEYS: [&str; 24] = [
    "start_time",
    "route_name",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "upstream_transport_failure_reason",
];

/// The access log lines in a log, each with its text.
fn access_lines(log: &str) -> Vec<(String, Value)> {
    let parsed = log.lines().filter_map(|line| Some((line.to_owned(), serde_json::from_str::<Value>(line).ok()?)));
    parsed.filter(|(_, line)| line.get("response_code_details").is_some()).collect()
}

fn assert_keys(text: &str, line: &Value) {
    let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let mut wanted = KEYS.to_vec();
    keys.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(keys, wanted);
    let places: Vec<usize> = KEYS.iter().map(|key| text.find(&format!("\"{key}\"")).unwrap()).collect();
    assert!(places.is_sorted(), "the keys are not in Consul's order: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_consuls_keys_once_it_is_enabled() {
    let mesh = Mesh::start("http").await;
    mesh.answering().await.unwrap();
    assert!(access_lines(&mesh.api.log()).is_empty(), "a line although the log is off");
    mesh.agent.edit_registration("api-1-sidecar-proxy", |service| service["Proxy"]["AccessLogs"] = json!({"Enabled": true}));
    let logged = eventually("an access log line", EFFECT, async || {
        let request = http::Request::post("http://x/path?with=query").header("host", "api.example").header("user-agent", "test/1");
        let sent = clients::once(&mesh.entry, request.body(Bytes::from_static(b"four")).unwrap()).await?;
        ensure!(sent.status == 200);
        let log = mesh.api.log();
        access_lines(&log).pop().with_context(|| format!("none in {log}"))
    });
    let (text, line) = logged.await.unwrap();
    assert_keys(&text, &line);
    assert_eq!(line["method"], "POST");
    assert_eq!(line["path"], "/path?with=query");
    assert_eq!(line["authority"], "api.example");
    assert_eq!(line["user_agent"], "test/1");
    assert_eq!(line["response_code"], 200);
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&json!(4), &json!(4)));
    assert!(line["duration"].is_number(), "{line}");
    assert!(line["start_time"].as_str().unwrap().ends_with('Z'), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_is_logged_with_its_reason() {
    let agent = FakeAgent::start().await;
    agent.set_intentions("api", vec![intention("web", "api", "deny")]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mesh = Mesh::around(agent, http_echo("api-1").await.unwrap(), "http").await;
    mesh.agent.edit_registration("api-1-sidecar-proxy", |service| {
        service["Proxy"]["AccessLogs"] = json!({"Enabled": true, "Type": "file", "Path": file});
    });
    let logged = eventually("a line in the file", EFFECT, async || {
        let denied = clients::get(&mesh.entry, "/").await?;
        ensure!(denied.status == 403);
        access_lines(&std::fs::read_to_string(&file)?).pop().context("no line")
    });
    let (text, line) = logged.await.unwrap();
    assert_keys(&text, &line);
    assert_eq!(line["response_code"], 403);
    assert!(!line["response_code_details"].as_str().unwrap_or_default().is_empty(), "{line}");
    assert_eq!(line["upstream_host"], Value::Null, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_are_logged_when_they_end() {
    let mesh = Mesh::start("tcp").await;
    mesh.agent.edit_registration("api-1-sidecar-proxy", |service| service["Proxy"]["AccessLogs"] = json!({"Enabled": true}));
    let logged = eventually("a line", EFFECT, async || {
        let mut tunnel = mesh.entry.connect().await?;
        tunnel.write_all(b"ping").await?;
        read_until(&mut tunnel, b"ping").await?;
        drop(tunnel);
        access_lines(&mesh.api.log()).pop().context("no line")
    });
    let (text, line) = logged.await.unwrap();
    assert_keys(&text, &line);
    assert_eq!(line["bytes_received"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_by_both_services() {
    let mesh = Mesh::start("http").await;
    for _ in 0..3 {
        mesh.answering().await.unwrap();
    }
    let counted = eventually("three requests", EFFECT, async || {
        let metrics = mesh.api.admin("/metrics").await?.text();
        let of_web = |line: &&str| {
            let wanted = [r#"direction="inbound""#, r#"source="web""#, r#"destination="api""#];
            line.starts_with("aralez_requests_total{") && wanted.iter().all(|label| line.contains(label))
        };
        let count: f64 = metrics.lines().filter(of_web).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        ensure!(count == 3.0, "{count} in {metrics}");
        Ok(metrics)
    });
    let metrics = counted.await.unwrap();
    for name in ["aralez_request_duration_seconds_bucket", "aralez_leaf_expiry_timestamp_seconds", "aralez_build_info", "process_"] {
        assert!(metrics.contains(name), "no {name} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_anywhere_at_the_most_talkative_level() {
    const TOKEN: &str = "b3f2c1d0-5ec7-e70c-a111-ca11ab1e0001";
    let folder = tempfile::tempdir().unwrap();
    let (api_log, web_log) = (folder.path().join("api.log"), folder.path().join("web.log"));
    let agent = FakeAgent::start().await;
    agent.require_token(Some(TOKEN));
    let app = http_echo("api-1").await.unwrap();
    let sidecar = api(&app, "http");
    announce(&agent, &sidecar);
    let entry = free_port().unwrap();
    agent.register(&web(vec![upstream("api", entry, "http")]));
    let launch = |id, log| {
        let launch = Launch::sidecar_for(&agent, id).env("CONSUL_HTTP_TOKEN", TOKEN).arg("-log-level").arg("trace");
        launch.log_to(log)
    };
    let mut sidecars = [launch("api-1", &api_log).start().await, launch("web-1", &web_log).start().await];
    let entry = Address::port(entry);
    answering(&entry).await.unwrap();
    let mut leaves = vec![agent.leaf("api").unwrap(), agent.leaf("web").unwrap()];
    // A leaf that arrives, one whose text is cut off, and a refusal of the token: each is an occasion to say too much.
    leaves.push(agent.reissue_leaf("api"));
    for fault in [Fault::Truncated, Fault::WrongTypes, Fault::Status(403), Fault::Reset] {
        agent.fail(Endpoint::Leaf, fault);
        let calls = agent.calls_of(Endpoint::Leaf).len();
        let asked = eventually("a call under the fault", RECOVERY, async || {
            ensure!(agent.calls_of(Endpoint::Leaf).len() > calls);
            Ok(())
        });
        asked.await.unwrap();
    }
    agent.heal(Endpoint::Leaf);
    answering(&entry).await.unwrap();

    let mut shown = Vec::new();
    for sidecar in &sidecars {
        for path in ["/", "/status.json", "/snapshot", "/metrics", "/ready", "/live", "/log"] {
            shown.push((path.to_owned(), sidecar.admin(path).await.unwrap().text()));
        }
    }
    let levels: Vec<&String> = shown.iter().filter(|(path, _)| path == "/log").map(|(_, level)| level).collect();
    assert!(levels.iter().all(|level| level.contains("trace")), "{levels:?}");
    for sidecar in &mut sidecars {
        sidecar.signal(Signal::TERM);
        sidecar.exit(Duration::from_secs(10)).await;
    }
    for log in [&api_log, &web_log] {
        let text = std::fs::read_to_string(log).unwrap();
        shown.push((log.display().to_string(), text));
    }
    for (place, text) in &shown {
        assert!(!text.contains("PRIVATE KEY"), "a key in {place}");
        assert!(!text.contains(TOKEN), "the token in {place}");
        for leaf in &leaves {
            let lines = leaf.key_pem.lines().filter(|line| !line.starts_with("-----"));
            for line in lines {
                assert!(!text.contains(line), "a line of a key in {place}");
            }
        }
    }
}
