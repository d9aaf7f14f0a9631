//! Consul's own acceptance cases that need two sidecars and no routing. Each test bears the name of its case.

use anyhow::{Context, Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::certs;
use aralez_integration::clients::{self, GrpcCall};
use aralez_integration::consul::{Agent, Options};
use aralez_integration::net::Address;
use aralez_integration::process::Signal;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, app_in, echo_ok, http_answers, tcp_refused};

/// The suite's "eventually" is 5 s. Wider, because a busy machine is no failure.
pub const EVENTUALLY: std::time::Duration = PATIENCE;

/// One cluster of the suite: `s1` calls `s2` (and whoever else answers for it).
pub struct Case {
    pub s1: Service,
    sidecars: Vec<(String, Sidecar)>,
    apps: Vec<App>,
    // Last, so that it outlives those who ask it.
    pub agent: Agent,
}

impl Case {
    /// The agent of cluster `primary`, nothing registered. Default intention policy: allow.
    pub async fn cluster() -> Agent {
        Self::cluster_with(json!({})).await
    }

    /// The same with more agent configuration.
    pub async fn cluster_with(mut config: Value) -> Agent {
        config["primary_datacenter"] = json!("primary");
        Agent::start(Options { datacenter: "primary".into(), config, ..Options::default() }).await.unwrap()
    }

    /// Registers and starts `callees`, then `s1`; checks BASE: ID(s1), ID of every callee, UP of every called name.
    pub async fn start(agent: Agent, (s1, app): (Service, App), callees: Vec<(Service, App)>) -> Self {
        let mut case = Self { agent, s1: s1.clone(), sidecars: Vec::new(), apps: vec![app] };
        let mut names: Vec<_> = callees.iter().map(|(service, _)| service.name.clone()).collect();
        for (service, app) in callees {
            case.run(&service).await;
            case.apps.push(app);
        }
        names.sort();
        for same in names.chunk_by(|one, next| one == next) {
            case.agent.healthy(&same[0], same.len()).await.unwrap();
        }
        case.run(&s1).await;
        case
    }

    async fn run(&mut self, service: &Service) {
        self.agent.register(service).await.unwrap();
        self.sidecars.push((service.id.clone(), Sidecar::start(&self.agent, service).await.unwrap()));
        self.shows_its_id(service).await;
    }

    /// ID(x): without client certificate and SNI the server certificate is still to be seen.
    async fn shows_its_id(&self, service: &Service) {
        let id = self.agent.spiffe_id(&service.name).await.unwrap();
        assert!(id.ends_with(&format!("/ns/default/dc/primary/svc/{}", service.name)), "{id}");
        let shown = eventually("a server certificate", EVENTUALLY, async || certs::shown_by(&service.public()).await).await.unwrap();
        assert_eq!(certs::uris(&shown), [id]);
    }

    /// "kill x": SIGTERM to the proxy of the service with this ID.
    pub fn terminate(&mut self, id: &str) {
        let (_, sidecar) = self.sidecars.iter_mut().find(|(name, _)| name == id).unwrap();
        sidecar.signal(Signal::TERM).unwrap();
    }

    /// What the sidecar of `s1` says of itself at `/snapshot`.
    pub async fn snapshot(&self) -> Value {
        let (_, sidecar) = self.sidecars.iter().find(|(name, _)| *name == self.s1.id).unwrap();
        serde_json::from_str(&sidecar.admin("/snapshot").await.unwrap().text()).unwrap()
    }

    /// Where `s1` finds `s2` ("port 5000").
    pub fn upstream(&self) -> Address {
        self.s1.upstreams[0].address()
    }

    /// ECHO-OK(5000).
    pub async fn echo_ok(&self) {
        eventually("ECHO-OK", EVENTUALLY, async || echo_ok(&self.upstream()).await).await.unwrap();
    }

    /// APP(name, "", none).
    pub async fn reaches_app(&self, name: &str) {
        eventually(&format!("an answer of {name}"), EVENTUALLY, async || {
            let dump = clients::get(&self.upstream(), "/debug?env=dump").await?.text();
            ensure!(app_in(&dump)? == name, "{dump}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

/// `s1` with its upstream `s2`.
pub async fn s1() -> (Service, App) {
    let (s1, app) = service("s1", "s1").await;
    (s1.upstream(Upstream::new("s2").unwrap()), app)
}

/// A service of the suite with its app; the ID is the app's name.
pub async fn service(name: &str, id: &str) -> (Service, App) {
    let app = apps::http_echo(id).await.unwrap();
    (Service::new(name, &app.address).unwrap().id(id), app)
}

/// `s1` and `s2` with `protocol` in both registrations and the upstream.
async fn pair(agent: Agent, protocol: &str) -> Case {
    pair_with(agent, protocol, |s1| s1).await
}

/// The same with more in the registration of `s1`.
pub async fn pair_with(agent: Agent, protocol: &str, more: impl FnOnce(Service) -> Service) -> Case {
    let (s2, app) = service("s2", "s2").await;
    let (s1, s1_app) = service("s1", "s1").await;
    let s1 = s1.protocol(protocol).upstream(Upstream::new("s2").unwrap().protocol(protocol));
    Case::start(agent, (more(s1), s1_app), vec![(s2.protocol(protocol), app)]).await
}

async fn plain_pair(agent: Agent) -> Case {
    Case::start(agent, s1().await, vec![service("s2", "s2").await]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn case_basic() {
    plain_pair(Case::cluster().await).await.echo_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_badauthz() {
    let agent = Case::cluster().await;
    agent.intention("s1", "s2", "deny").await.unwrap();
    let case = plain_pair(agent).await;
    case.agent.healthy("s2", 1).await.unwrap();
    eventually("an empty reply", EVENTUALLY, async || tcp_refused(&case.upstream()).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_http() {
    // Of the passive check only the interval is set; the rest stays at its defaults.
    let passive = json!({"interval": "22s"});
    let case = pair_with(Case::cluster().await, "http", |mut s1| {
        s1.upstreams = s1.upstreams.into_iter().map(|s2| s2.config("passive_health_check", passive.clone())).collect();
        s1
    });
    case.await.echo_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn case_http_badauthz() {
    let case = pair(Case::cluster().await, "http").await;
    case.agent.intention("s1", "s2", "deny").await.unwrap();
    eventually("403", EVENTUALLY, async || http_answers(&case.upstream(), 403).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_grpc() {
    let case = pair(Case::cluster().await, "grpc").await;
    eventually("a ping", EVENTUALLY, async || ping(&case.upstream()).await).await.unwrap();
}

pub async fn ping(address: &Address) -> Result<()> {
    let call = GrpcCall::open(address, "/fgrpc.PingServer/Ping").await?;
    call.send(b"ping").await?;
    let (messages, trailers) = call.finish().await?;
    ensure!(messages == ["ping"], "{messages:?}");
    ensure!(trailers.get("grpc-status").context("no status")? == "0", "{trailers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn case_consul_exec() {
    // `s2` does not exist: a sidecar starts without it.
    Case::start(Case::cluster().await, s1().await, Vec::new()).await;
}
