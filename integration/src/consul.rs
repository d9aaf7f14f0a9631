//! A Consul agent of the test's own.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::certs::Ca;
use crate::components;
use crate::ports::free_port;
use crate::process::Process;
use crate::registration::Service;
use crate::wait::eventually;

/// From the start of the process to a leader with a Connect CA; seen: 2 to 4 s, more on a busy machine.
const START: Duration = Duration::from_secs(60);
/// From a registration to a passing check: one interval (1 s) plus anti-entropy; wide for busy machines.
const SETTLE: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the datacenter.
    pub datacenter: String,
    /// Further agent configuration, laid over ours key by key (nested objects are merged).
    pub config: Value,
    /// Keep state on disk, so that the agent can be killed and restarted; else it is `-dev`.
    pub persistent: bool,
    /// The token that the test's own calls carry.
    pub token: Option<String>,
    /// Definition files for `-config-dir`: name and text.
    pub definitions: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { datacenter: "dc1".into(), config: json!({}), persistent: false, token: None, definitions: Vec::new() }
    }
}

impl Options {
    /// ACLs on, `default_policy = "deny"`, with a management token for the test itself and none by default for callers.
    pub fn acl() -> Self {
        const MANAGEMENT: &str = "6c1d4a52-6f43-4c1c-9d6e-2d9a4f0b8f11";
        let tokens = json!({"initial_management": MANAGEMENT, "agent": MANAGEMENT});
        Self {
            config: json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": tokens}}),
            token: Some(MANAGEMENT.into()),
            ..Self::default()
        }
    }
}

/// A running agent (one server, its own cluster) on 127.0.0.1.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    options: Options,
    http_port: u16,
    grpc_port: u16,
    folder: TempDir,
    client: reqwest::Client,
}

impl Agent {
    /// Starts a `-dev` agent and waits for its Connect CA.
    ///
    /// # Errors
    /// When there is no Consul, or it does not come up.
    pub async fn dev() -> Result<Self> {
        Self::start(Options::default()).await
    }

    /// A `-dev` agent shared by the tests that run at this moment: started by the first, stopped by the last. Use names of your own.
    ///
    /// # Errors
    /// As [`Agent::dev`].
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Agent>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(agent) = shared.upgrade() {
            return Ok(agent);
        }
        let agent = Arc::new(Self::dev().await?);
        *shared = Arc::downgrade(&agent);
        Ok(agent)
    }

    /// Starts an agent and waits for its Connect CA.
    ///
    /// # Errors
    /// As [`Agent::dev`].
    pub async fn start(options: Options) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut config = json!({
            "datacenter": options.datacenter,
            "node_name": "node",
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {"http": free_port()?, "server": free_port()?, "serf_lan": free_port()?, "serf_wan": -1, "dns": -1, "grpc": free_port()?, "grpc_tls": -1},
            "connect": {"enabled": true},
            // All sidecars of all tests come from one address; the default (200) is the budget of one host, not of this lab.
            "limits": {"http_max_conns_per_client": 5000},
            "performance": {"raft_multiplier": 1},
            "disable_update_check": true,
            "log_level": "info",
            "leave_on_terminate": false,
        });
        if options.persistent {
            lay_over(&mut config, &json!({"server": true, "bootstrap_expect": 1, "data_dir": folder.path().join("data")}));
        }
        lay_over(&mut config, &options.config);
        let port = |name: &str| config["ports"][name].as_u64().and_then(|port| u16::try_from(port).ok()).context("no such port");
        let (http_port, grpc_port) = (port("http")?, port("grpc")?);
        fs::write(folder.path().join("agent.json"), serde_json::to_vec(&config)?)?;
        // No proxy of the environment between a test and its agent. No pooled connections: each belongs to the runtime of the test that
        // opened it, and a shared agent outlives tests.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(15)).build()?;
        let agent = Self { process: launch(&folder, &options)?, options, http_port, grpc_port, folder, client };
        agent.ready().await?;
        Ok(agent)
    }

    /// Kills the agent with SIGKILL: what it held in memory is gone.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts a killed agent again, on the same ports and, if it is persistent, with its data.
    ///
    /// # Errors
    /// As [`Agent::dev`].
    pub async fn restart(&mut self) -> Result<()> {
        self.process = launch(&self.folder, &self.options)?;
        self.ready().await
    }

    async fn ready(&self) -> Result<()> {
        eventually("a Connect CA", START, async || self.trust_domain().await.map(drop)).await.with_context(|| self.process.log())
    }

    /// Value of `CONSUL_HTTP_ADDR` for this agent.
    pub fn http_addr(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    /// Value of `CONSUL_GRPC_ADDR`: where Envoy gets its configuration (xDS).
    pub fn grpc_addr(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    /// Name of the datacenter.
    pub fn datacenter(&self) -> &str {
        &self.options.datacenter
    }

    /// `GET path` (with query), answer as JSON.
    ///
    /// # Errors
    /// A status other than 2xx, with Consul's own words.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// `PUT path` with a JSON body; the answer, `null` if it is empty.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let what = format!("{method} {path}");
        let mut request = self.client.request(method, format!("http://{}{path}", self.http_addr()));
        if let Some(token) = &self.options.token {
            request = request.header("X-Consul-Token", token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| what.clone())?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{what}: {status}: {text}");
        }
        if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).with_context(|| format!("{what}: {text}")) }
    }

    /// Registers a service with its sidecar, or changes the registration.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn register(&self, service: &Service) -> Result<()> {
        for body in service.bodies() {
            self.put("/v1/agent/service/register?replace-existing-checks=true", &body).await?;
        }
        Ok(())
    }

    /// Removes a service; its sidecar's registration goes with it.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn deregister(&self, id: &str) -> Result<()> {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &Value::Null).await.map(drop)
    }

    /// Writes a config entry.
    ///
    /// # Errors
    /// As [`Agent::get`], and when Consul did not take it.
    pub async fn config_entry(&self, entry: Value) -> Result<()> {
        let taken = self.put("/v1/config", &entry).await?;
        ensure!(taken == json!(true), "config entry not written: {entry}");
        Ok(())
    }

    /// Writes an L4 intention; `action` is `allow` or `deny`.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn intention(&self, source: &str, destination: &str, action: &str) -> Result<()> {
        self.put(&exact(source, destination), &json!({"Action": action})).await.map(drop)
    }

    /// Deletes an intention.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn delete_intention(&self, source: &str, destination: &str) -> Result<()> {
        self.delete(&exact(source, destination)).await.map(drop)
    }

    /// Waits until `service` has exactly `count` passing mesh instances.
    ///
    /// # Errors
    /// When that does not come to pass within 30 s.
    pub async fn healthy(&self, service: &str, count: usize) -> Result<()> {
        eventually(&format!("{count} healthy {service}"), SETTLE, async || {
            let instances = self.get(&format!("/v1/health/connect/{service}?passing")).await?;
            let seen = instances.as_array().map_or(0, Vec::len);
            if seen != count {
                bail!("{seen} passing of {}", self.get(&format!("/v1/health/connect/{service}")).await?);
            }
            Ok(())
        })
        .await
    }

    /// Trust domain of the Connect CA, `<cluster id>.consul`.
    ///
    /// # Errors
    /// While there is no CA yet.
    pub async fn trust_domain(&self) -> Result<String> {
        let roots = self.get("/v1/connect/ca/roots").await?;
        ensure!(roots["Roots"].as_array().is_some_and(|roots| !roots.is_empty()), "no roots");
        Ok(roots["TrustDomain"].as_str().context("no trust domain")?.to_owned())
    }

    /// SPIFFE ID of a service of this agent's datacenter.
    ///
    /// # Errors
    /// As [`Agent::trust_domain`].
    pub async fn spiffe_id(&self, service: &str) -> Result<String> {
        Ok(format!("spiffe://{}/ns/default/dc/{}/svc/{service}", self.trust_domain().await?, self.datacenter()))
    }

    /// ID of the root that signs now.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn active_root(&self) -> Result<String> {
        let roots = self.get("/v1/connect/ca/roots").await?;
        Ok(roots["ActiveRootID"].as_str().context("no active root")?.to_owned())
    }

    /// Rotates the mesh to a new root (cross-signed by the old one) and returns it, so that the test can issue leaves of any shape
    /// that the mesh trusts.
    ///
    /// # Errors
    /// As [`Agent::get`], and when the active root stays the old one.
    pub async fn rotate_ca(&self) -> Result<Ca> {
        let before = self.active_root().await?;
        let ca = Ca::new(&self.trust_domain().await?)?;
        let config = json!({"PrivateKey": ca.key_pem()?, "RootCert": ca.certificate_pem()?, "LeafCertTTL": "72h"});
        let change = json!({"Provider": "consul", "Config": config, "ForceWithoutCrossSigning": false});
        self.put("/v1/connect/ca/configuration", &change).await?;
        ensure!(self.active_root().await? != before, "the active root did not change");
        Ok(ca)
    }

    /// Creates a token with nothing but the service identity of `service`; returns its secret.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub async fn service_token(&self, service: &str) -> Result<String> {
        let token = self.put("/v1/acl/token", &json!({"ServiceIdentities": [{"ServiceName": service}]})).await?;
        Ok(token["SecretID"].as_str().context("no SecretID")?.to_owned())
    }
}

fn launch(folder: &TempDir, options: &Options) -> Result<Process> {
    let mut command = Command::new(components::consul()?);
    command.arg("agent").arg(format!("-config-file={}", folder.path().join("agent.json").display()));
    if !options.persistent {
        command.arg("-dev");
    }
    if !options.definitions.is_empty() {
        let definitions = folder.path().join("definitions");
        fs::create_dir_all(&definitions)?;
        for (name, text) in &options.definitions {
            fs::write(definitions.join(name), text)?;
        }
        command.arg(format!("-config-dir={}", definitions.display()));
    }
    Process::start("consul agent", command, Duration::from_secs(2))
}

fn exact(source: &str, destination: &str) -> String {
    format!("/v1/connect/intentions/exact?source={source}&destination={destination}")
}

/// Merges `over` into `base`, objects key by key.
fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
