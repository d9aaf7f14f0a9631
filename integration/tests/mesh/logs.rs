//! Access logs as proxy-defaults order them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use aralez_integration::clients::{self, request};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::registration::Upstream;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::Fleet;
use crate::scene::PATIENCE;

/// A file that sidecars log to.
pub struct Log {
    folder: TempDir,
}

impl Log {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// The first JSON line for which `wanted` holds, once it is there; `what` names it.
    pub async fn line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, PATIENCE, async || {
            let text = fs::read_to_string(self.path())?;
            let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
            lines.with_context(|| text.clone())?.into_iter().find(&wanted).with_context(|| format!("not among\n{text}"))
        })
        .await
    }

    async fn text_line(&self, wanted: &str) {
        eventually(wanted, PATIENCE, async || {
            let text = fs::read_to_string(self.path())?;
            text.lines().find(|line| *line == wanted).map(drop).with_context(|| format!("not among\n{text}"))
        })
        .await
        .unwrap();
    }
}

/// An agent whose proxy-defaults say `AccessLogs`, and that they are on.
pub async fn logging_agent(mut access_logs: Value) -> Arc<Agent> {
    access_logs["Enabled"] = json!(true);
    let agent = Agent::dev().await.unwrap();
    agent.config_entry(json!({"Kind": "proxy-defaults", "Name": "global", "AccessLogs": access_logs})).await.unwrap();
    Arc::new(agent)
}

/// `web` calls `db` once, with a field that the formats show; returns the fleet, so that nobody stops.
async fn one_call(agent: Arc<Agent>) -> (Fleet, u16) {
    let mut fleet = Fleet::on(agent);
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "db").await;
    let (_, upstream) = fleet.call(Upstream::new(&db).unwrap()).await;
    let mut call = request(Method::POST, "/called?q=1", "hello").unwrap();
    call.headers_mut().insert("x-team", HeaderValue::from_static("blue \"and\" red"));
    assert_eq!(clients::once(&upstream, call).await.unwrap().status, 200);
    let Address::Tcp(listener) = upstream else { panic!("{upstream:?}") };
    (fleet, listener.port())
}

/// Envoy's JSON lines keep numbers as numbers and turn what has no value into null; other texts are strings.
#[tokio::test(flavor = "multi_thread")]
async fn lines_in_the_json_of_the_operator() {
    let format = json!({
        "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
        "team": "%REQ(X-TEAM)%", "short": "%REQ(X-TEAM):4%", "else": "%REQ(X-NONE?:METHOD)%", "none": "%REQ(X-NONE)%",
        "app": "%RESP(X-APP)%", "received": "%BYTES_RECEIVED%", "sent": "%BYTES_SENT%", "protocol": "%PROTOCOL%",
        "local": "%DOWNSTREAM_LOCAL_ADDRESS%", "start": "%START_TIME%", "fixed": "100%%", "two": "%PROTOCOL% %RESPONSE_CODE%",
        "took": "%DURATION%",
    });
    let log = Log::new();
    let agent = logging_agent(json!({"Type": "file", "Path": log.path(), "JSONFormat": format.to_string()})).await;
    let (_fleet, port) = one_call(agent).await;

    let ours = |line: &Value| line["local"].as_str().is_some_and(|local| local.ends_with(&format!(":{port}")));
    let mut line = log.line("the caller's line", ours).await.unwrap();
    assert!(line["took"].is_u64(), "{line}");
    let start = line["start"].as_str().unwrap();
    assert!(start.len() == "2026-01-01T00:00:00.000Z".len() && start.ends_with('Z'), "{start}");
    for key in ["took", "start", "local"] {
        line.as_object_mut().unwrap().remove(key);
    }
    let wanted = json!({
        "method": "POST", "path": "/called?q=1", "code": 200, "flags": "-",
        "team": "blue \"and\" red", "short": "blue", "else": "POST", "none": null,
        "app": "db", "received": 5, "sent": 5, "protocol": "HTTP/1.1",
        "fixed": "100%", "two": "HTTP/1.1 200",
    });
    assert_eq!(line, wanted);
    // The other side logs to the same file.
    log.line("the callee's line", |line| !ours(line) && line["path"] == "/called?q=1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_in_the_text_of_the_operator() {
    let format = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %REQ(X-NONE)% 100%%";
    let log = Log::new();
    let agent = logging_agent(json!({"Type": "file", "Path": log.path(), "TextFormat": format})).await;
    let _running = one_call(agent).await;
    log.text_line("POST /called?q=1 200 - 5 - 100%").await;
}

/// Without a format: the 24 fields of Consul's own.
#[tokio::test(flavor = "multi_thread")]
async fn lines_in_the_usual_json() {
    let log = Log::new();
    let agent = logging_agent(json!({"Type": "file", "Path": log.path()})).await;
    let _running = one_call(agent).await;
    let line = log.line("a line", |line| line["path"] == "/called?q=1").await.unwrap();
    let fields = line.as_object().unwrap();
    assert_eq!((&fields["method"], &fields["response_code"], &fields["bytes_received"]), (&json!("POST"), &json!(200), &json!(5)));
    assert_eq!(fields.len(), 24, "{:?}", fields.keys());
}

/// Stdout is the process's own, where the harness reads it.
#[tokio::test(flavor = "multi_thread")]
async fn lines_on_stdout() {
    let agent = logging_agent(json!({"Type": "stdout", "TextFormat": "logged %REQ(:PATH)%"})).await;
    let (mut fleet, _) = one_call(agent).await;
    eventually("a line", PATIENCE, async || {
        let log = fleet.sidecar("db").log();
        log.lines().find(|line| *line == "logged /called?q=1").map(drop).with_context(|| log.clone())
    })
    .await
    .unwrap();
}
