//! Any number of services on one agent, each instance with its app and sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::registration::{Check, Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::scene::{caller, unique};

/// What runs. Names of services are unique among the tests that share the agent; instances are called by a short name of the
/// test's own, which is also the app's.
pub struct Fleet {
    instances: BTreeMap<String, (Service, Sidecar)>,
    callers: Vec<Sidecar>,
    apps: BTreeMap<String, App>,
    // Last, so that it outlives those who ask it.
    pub agent: Arc<Agent>,
}

impl Fleet {
    /// On the shared agent.
    pub async fn shared() -> Self {
        Self::on(Agent::shared().await.unwrap())
    }

    /// On this agent.
    pub fn on(agent: Arc<Agent>) -> Self {
        Self { instances: BTreeMap::new(), callers: Vec::new(), apps: BTreeMap::new(), agent }
    }

    /// A name for a service, whose protocol central configuration gives: routers, splitters and permissions need that.
    pub async fn service(&self, prefix: &str, protocol: &str) -> String {
        let name = unique(prefix);
        self.entry("service-defaults", &name, json!({"Protocol": protocol})).await;
        name
    }

    /// Writes a config entry with these fields.
    pub async fn entry(&self, kind: &str, name: &str, mut fields: Value) {
        fields["Kind"] = json!(kind);
        fields["Name"] = json!(name);
        self.agent.config_entry(fields).await.unwrap();
    }

    /// An HTTP app called `instance` and a registration for it as an instance of `service`. The health of its sidecar is what the test
    /// says ([`Fleet::set_health`]), passing at first.
    pub async fn app(&mut self, service: &str, instance: &str) -> Service {
        let app = apps::http_echo(instance).await.unwrap();
        let registration = Service::new(service, &app.address).unwrap().id(unique(instance)).check(Check::Ttl);
        self.apps.insert(instance.into(), app);
        registration
    }

    /// Registers an instance and starts its sidecar.
    pub async fn start(&mut self, instance: &str, service: Service) {
        self.agent.register(&service).await.unwrap();
        let sidecar = Sidecar::start(&self.agent, &service).await.unwrap();
        self.instances.insert(instance.into(), (service, sidecar));
    }

    /// [`Fleet::app`] and [`Fleet::start`] of a plain instance.
    pub async fn run(&mut self, service: &str, instance: &str) {
        let registration = self.app(service, instance).await;
        self.start(instance, registration).await;
    }

    /// The app of an instance.
    pub fn of(&self, instance: &str) -> &App {
        &self.apps[instance]
    }

    /// The registration of an instance.
    pub fn registered(&self, instance: &str) -> &Service {
        &self.instances[instance].0
    }

    /// The sidecar of an instance.
    pub fn sidecar(&mut self, instance: &str) -> &mut Sidecar {
        &mut self.instances.get_mut(instance).unwrap().1
    }

    /// Starts a caller with this upstream; returns its name and where its app finds the upstream.
    pub async fn call(&mut self, upstream: Upstream) -> (String, Address) {
        let web = caller(upstream);
        let address = web.upstreams[0].address();
        self.start_caller(&web).await;
        (web.name, address)
    }

    /// The same with a registration of the test's making.
    pub async fn start_caller(&mut self, web: &Service) {
        self.agent.register(web).await.unwrap();
        self.callers.push(Sidecar::start(&self.agent, web).await.unwrap());
    }

    /// Sets the health of an instance's sidecar: `pass`, `warn` or `fail`.
    pub async fn set_health(&self, instance: &str, health: &str) {
        let check = self.registered(instance).ttl_check();
        self.agent.put(&format!("/v1/agent/check/{health}/{check}"), &Value::Null).await.unwrap();
    }
}

/// Name of the app that answers `GET path`, whatever the status.
pub async fn answerer(address: &Address, path: &str) -> Result<String> {
    app_of(&clients::get(address, path).await?)
}

/// Waits until calls, each on a connection of its own, are answered by all of these apps and no others.
pub async fn answered_by(address: &Address, apps: &[&str], limit: Duration) {
    eventually(&format!("answers of {apps:?} only"), limit, async || {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(answerer(address, "/").await?);
        }
        ensure!(seen.iter().eq(apps), "{seen:?}");
        Ok(())
    })
    .await
    .unwrap();
}

/// Name of the app that gave this answer.
pub fn app_of(answer: &clients::Response) -> Result<String> {
    let name = answer.headers.get("x-app").ok_or_else(|| anyhow::anyhow!("no app: {} {}", answer.status, answer.text()))?;
    Ok(name.to_str()?.to_owned())
}

/// How many of `total` requests on one connection each app answered; all must answer 200.
pub async fn shares(address: &Address, total: usize) -> BTreeMap<String, usize> {
    let mut client = HttpClient::http1(address).await.unwrap();
    let mut shares = BTreeMap::new();
    for _ in 0..total {
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        *shares.entry(app_of(&answer).unwrap()).or_default() += 1;
    }
    shares
}
