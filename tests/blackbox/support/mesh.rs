//! Two services that talk through two sidecars: `web` calls `api`.

use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::apps::{App, http_echo, tcp_echo};
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::load::{Load, Report};
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use serde_json::Value;

use super::fake_agent::{FakeAgent, Instance, Sidecar, upstream};
use super::sidecar::{Aralez, Launch};
use super::tls::Client;

/// How soon a change in the agent shows in the traffic: the bound that the tests hold the sidecar to.
pub const EFFECT: Duration = Duration::from_secs(2);

/// How soon a value is seen again after a fault: back-off included, on a busy machine.
pub const RECOVERY: Duration = Duration::from_secs(20);

/// Between two requests of one connection of a load.
const PACE: Duration = Duration::from_millis(5);

/// An agent, an app behind `api`'s sidecar, and `web`'s sidecar with a listener for `api`.
pub struct Mesh {
    /// The sidecar that listens for the client.
    pub web: Aralez,
    /// The sidecar in front of the app.
    pub api: Aralez,
    /// The app behind `api`.
    pub app: App,
    /// The agent of both.
    pub agent: FakeAgent,
    /// `web`'s listener for `api`.
    pub entry: Address,
    /// `api`'s public listener.
    pub public: Address,
}

/// The sidecar of `api-1` in front of `app`.
pub fn api(app: &App, protocol: &'static str) -> Sidecar {
    service("api", "api-1", app, protocol)
}

/// The sidecar of an instance in front of `app`, without upstreams.
pub fn service(service: &str, service_id: &str, app: &App, protocol: &'static str) -> Sidecar {
    Sidecar {
        service: service.to_owned(),
        service_id: service_id.to_owned(),
        public_port: free_port().unwrap(),
        app_port: port(&app.address),
        protocol,
        upstreams: Vec::new(),
    }
}

/// The sidecar of `web-1`, which serves nothing itself.
pub fn web(upstreams: Vec<Value>) -> Sidecar {
    Sidecar {
        service: "web".to_owned(),
        service_id: "web-1".to_owned(),
        public_port: free_port().unwrap(),
        app_port: free_port().unwrap(),
        protocol: "http",
        upstreams,
    }
}

/// The port of a TCP address.
pub fn port(address: &Address) -> u16 {
    match address {
        Address::Tcp(address) => address.port(),
        Address::Unix(path) => panic!("{} has no port", path.display()),
    }
}

/// Registers a sidecar and makes it the only instance of its service.
pub fn announce(agent: &FakeAgent, sidecar: &Sidecar) {
    agent.register(sidecar);
    agent.set_instances(&sidecar.service, vec![Instance::new(&sidecar.proxy_id(), sidecar.public_port)]);
}

/// An HTTP echo behind a sidecar of its own; registered, and in nobody's list of instances yet.
pub struct Backend {
    /// The sidecar.
    pub sidecar: Aralez,
    /// The app, named after the service instance.
    pub app: App,
    /// How a list of instances names it.
    pub instance: Instance,
}

impl Backend {
    /// An instance of `service`.
    pub async fn start(agent: &FakeAgent, name: &str, service_id: &str) -> Backend {
        let app = http_echo(service_id).await.unwrap();
        let registration = service(name, service_id, &app, "http");
        agent.register(&registration);
        let instance = Instance::new(&registration.proxy_id(), registration.public_port);
        Backend { sidecar: Launch::sidecar_for(agent, service_id).start().await, app, instance }
    }
}

impl Mesh {
    /// Both sidecars ready, with an echo of the right kind as the app.
    pub async fn start(protocol: &'static str) -> Mesh {
        let app = if protocol == "tcp" { tcp_echo().await } else { http_echo("api-1").await };
        Mesh::around(FakeAgent::start().await, app.unwrap(), protocol).await
    }

    /// The same with an agent that knows something already.
    pub async fn around(agent: FakeAgent, app: App, protocol: &'static str) -> Mesh {
        let api_sidecar = api(&app, protocol);
        announce(&agent, &api_sidecar);
        let entry = free_port().unwrap();
        agent.register(&web(vec![upstream("api", entry, protocol)]));
        let api = Launch::sidecar_for(&agent, "api-1").start().await;
        let web = Launch::sidecar_for(&agent, "web-1").start().await;
        let public = Address::port(api_sidecar.public_port);
        Mesh { web, api, app, agent, entry: Address::port(entry), public }
    }

    /// `api-1`, as a list of instances names it.
    pub fn instance(&self) -> Instance {
        Instance::new("api-1-sidecar-proxy", port(&self.public))
    }

    /// Which app answers at the entry.
    pub async fn answering(&self) -> Result<String> {
        answering(&self.entry).await
    }

    /// Waits until the app called `name` answers at the entry.
    pub async fn answered_by(&self, name: &str, limit: Duration) {
        let what = format!("{name} to answer");
        let answered = eventually(&what, limit, async || {
            let answering = self.answering().await?;
            ensure!(answering == name, "{answering} answers");
            Ok(())
        });
        answered.await.unwrap();
    }

    /// Whether the sidecar of `api` shows this leaf in a handshake.
    pub async fn shows_leaf(&self, serial: u32) -> Result<()> {
        let shown = Client::default().server_serial(&self.public).await?;
        ensure!(shown == serial, "leaf {shown} is shown, not {serial}");
        Ok(())
    }

    /// Waits until it does.
    pub async fn leaf_shown(&self, serial: u32, limit: Duration) {
        let what = format!("leaf {serial} in a handshake");
        eventually(&what, limit, async || self.shows_leaf(serial).await).await.unwrap();
    }

    /// Requests from `workers` kept-alive connections to the entry, until stopped.
    pub fn load(&self, workers: usize) -> Load {
        load(&self.entry, workers)
    }
}

/// Which app answers `GET /` at `address`.
pub async fn answering(address: &Address) -> Result<String> {
    let response = clients::get(address, "/").await?;
    ensure!(response.status == 200, "{}: {}", response.status, response.text());
    Ok(response.headers["x-app"].to_str()?.to_owned())
}

/// Requests from `workers` kept-alive connections to `address`, until stopped: enough to be in flight at any moment, too few to
/// starve the other tests of the machine.
pub fn load(address: &Address, workers: usize) -> Load {
    let target = address.clone();
    Load::start(workers, move |client: Option<HttpClient>| {
        let target = target.clone();
        async move {
            let mut client = match client {
                Some(client) => client,
                None => HttpClient::http1(&target).await?,
            };
            let response = client.post("/load", "ping").await?;
            ensure!(response.status == 200 && response.text() == "ping", "{}: {}", response.status, response.text());
            tokio::time::sleep(PACE).await;
            Ok(client)
        }
    })
}

/// Lets a load do at least `least` more, stops it, and asserts that nothing failed.
pub async fn assert_flawless(load: Load, least: u64) -> Report {
    load.progress(least, RECOVERY).await.unwrap();
    let report = load.stop().await.unwrap();
    report.flawless(least).unwrap();
    report
}
