//! A headless browser, told what to do by the Chrome DevTools Protocol (<https://chromedevtools.github.io/devtools-protocol/>).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::components;
use crate::process::Process;
use crate::wait::eventually;

/// How long the browser may take to come up, and to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// One tab of a browser of its own, with a profile that goes with it.
#[derive(Debug)]
pub struct Chromium {
    socket: WebSocketStream<TcpStream>,
    session: String,
    asked: u64,
    /// Addresses that the page asked for.
    requests: Vec<String>,
    /// What the page complained of: exceptions, errors and warnings in the console, violated policies.
    complaints: Vec<String>,
    process: Process,
    _profile: TempDir,
}

/// The `chromium` program: `CHROMIUM_BIN`, else the one on the `PATH`.
fn program() -> Result<PathBuf> {
    let named = std::env::var_os("CHROMIUM_BIN").map(PathBuf::from);
    named.or_else(|| components::on_path("chromium")).context("no chromium: apt-get install -y chromium, or set CHROMIUM_BIN")
}

impl Chromium {
    /// Starts the browser with an empty tab.
    ///
    /// # Errors
    /// When there is none, or it does not come up.
    pub async fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut command = Command::new(program()?);
        // Without its sandbox, since tests may run as root; it is shown nothing but our own pages.
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]);
        command.args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let process = Process::start("chromium", command, Duration::ZERO)?;
        let told = profile.path().join("DevToolsActivePort");
        let place = eventually("the browser", LIMIT, async || {
            let text = fs::read_to_string(&told).with_context(|| process.log())?;
            let (port, path) = text.split_once('\n').context("half a file")?;
            ensure!(path.starts_with('/'), "half a file");
            Ok((port.parse::<u16>()?, path.trim().to_owned()))
        });
        let (port, path) = place.await?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://127.0.0.1:{port}{path}"), stream).await?;
        let (requests, complaints) = (Vec::new(), Vec::new());
        let mut browser = Self { socket, session: String::new(), asked: 0, requests, complaints, process, _profile: profile };
        let tab = browser.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attached = browser.call("Target.attachToTarget", json!({"targetId": tab["targetId"], "flatten": true})).await?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    /// Makes the window so wide and high, in CSS pixels, and prefers `light` or `dark`.
    ///
    /// # Errors
    /// When the browser does not take it.
    pub async fn look(&mut self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await?;
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await.map(drop)
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let gone = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(gone["errorText"].is_null(), "{url}: {gone}");
        Ok(())
    }

    /// The value of an expression in the page.
    ///
    /// # Errors
    /// When it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let done = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true, "awaitPromise": true})).await?;
        ensure!(done["exceptionDetails"].is_null(), "{expression}: {done}");
        Ok(done["result"]["value"].clone())
    }

    /// Waits until an expression of the page is true.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn wait_for(&mut self, expression: &str) -> Result<()> {
        eventually(expression, LIMIT, async || {
            ensure!(self.evaluate(expression).await? == true, "not yet");
            Ok(())
        })
        .await
    }

    /// Writes a picture of the page, PNG, from its top down to so many CSS pixels at most.
    ///
    /// # Errors
    /// When it cannot be taken or written.
    pub async fn picture(&mut self, path: &Path, width: u32, most: f64) -> Result<()> {
        let height = self.evaluate("document.documentElement.scrollHeight").await?.as_f64().context("no height")?.min(most);
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let taken = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true, "clip": clip})).await?;
        fs::write(path, BASE64_STANDARD.decode(taken["data"].as_str().context("no picture")?)?)?;
        Ok(())
    }

    /// The addresses that the page asked for so far.
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    /// What the page complained of so far.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Asks the browser for something, and notes what it tells meanwhile.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.asked += 1;
        let mut question = json!({"id": self.asked, "method": method, "params": params});
        if !self.session.is_empty() {
            question["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(question.to_string())).await?;
        loop {
            let told = timeout(LIMIT, self.socket.next()).await.with_context(|| format!("{method}: no answer"))?;
            let told = told.with_context(|| format!("{method}: the browser is gone: {}", self.process.log()))??;
            let Message::Text(text) = told else { continue };
            let mut told: Value = serde_json::from_str(&text)?;
            if told["id"] == self.asked {
                if !told["error"].is_null() {
                    bail!("{method}: {}", told["error"]);
                }
                return Ok(told["result"].take());
            }
            self.note(&told);
        }
    }

    fn note(&mut self, told: &Value) {
        let params = &told["params"];
        match told["method"].as_str() {
            Some("Network.requestWillBeSent") => self.requests.extend(params["request"]["url"].as_str().map(str::to_owned)),
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) => {
                self.complaints.push(params["args"].to_string());
            }
            Some("Log.entryAdded") if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
                self.complaints.push(params["entry"].to_string());
            }
            _ => {}
        }
    }
}
