//! Every watched endpoint under every fault: traffic flows on, the calls are backed off, and the value arrives once the fault ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use openssl::ssl::SslVersion;
use serde_json::json;

use crate::support::ca::{Authority, Leaf, LeafRequest};
use crate::support::fake_agent::{ChainSpec, Endpoint, Fault, Instance, TRUST_DOMAIN, intention, upstream};
use crate::support::mesh::{self, Backend, Mesh, RECOVERY, answering, assert_flawless};
use crate::support::tls::Client;

/// How long each fault lasts.
const LASTS: Duration = Duration::from_millis(700);

/// Calls of one watch while a fault lasts: a few quick ones, then at most one each 100 ms. Without any back-off a watch makes
/// thousands.
const MOST_CALLS: usize = 8;

/// Answers that no reader can use, or follow: a change during the fault is seen after it.
const SEEN_AFTER: [Fault; 13] = [
    Fault::Hang,
    Fault::Status(403),
    Fault::Status(404),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Reset,
    Fault::Garbage,
    Fault::Html,
    Fault::Truncated,
    Fault::WrongTypes,
    Fault::NullLists,
    Fault::Endless,
    Fault::IndexZero,
];

/// Answers that are odd but right: a change during the fault is seen during the fault.
const SEEN_DURING: [Fault; 3] = [Fault::Slow(Duration::from_millis(300)), Fault::UnknownFields, Fault::Churn];

/// Something the agent tells by one endpoint, in numbered states.
trait Told {
    const ENDPOINT: Endpoint;
    /// The name asked for, where calls are held by index.
    const BY_INDEX: Option<&'static str>;
    /// How many watches of this endpoint the mesh has.
    const WATCHES: usize;
    /// Faults that would be right answers of this endpoint, or cannot occur.
    const NOT_FAULTS: &'static [Fault];

    /// Puts the agent into state `n`.
    fn set(&mut self, mesh: &Mesh, n: usize);
    /// Whether the traffic shows state `n`.
    async fn seen(&self, mesh: &Mesh, n: usize) -> Result<()>;
}

/// Most things told have two states.
fn odd(n: usize) -> bool {
    n % 2 == 1
}

async fn survives_all<T: Told>(mesh: &mut Mesh, mut told: T) {
    let mut n = 0;
    let faults = SEEN_AFTER.iter().chain(&SEEN_DURING).filter(|fault| !T::NOT_FAULTS.contains(fault));
    for fault in faults {
        n += 1;
        let what = format!("state {n} of {:?} after {fault:?}", T::ENDPOINT);
        let load = mesh.load(1);
        load.progress(10, RECOVERY).await.unwrap();
        let before = mesh.agent.calls_of(T::ENDPOINT).len();
        mesh.agent.fail(T::ENDPOINT, *fault);
        told.set(mesh, n);
        let met = eventually("a call to meet the fault", RECOVERY, async || {
            ensure!(mesh.agent.met(T::ENDPOINT) > 0);
            Ok(())
        });
        met.await.unwrap();
        tokio::time::sleep(LASTS).await;
        let calls = mesh.agent.calls_of(T::ENDPOINT).len() - before;
        assert!(calls <= MOST_CALLS * T::WATCHES, "{calls} calls of {} watches in {LASTS:?} of {fault:?}", T::WATCHES);
        if SEEN_DURING.contains(fault) {
            eventually(&what, RECOVERY, async || told.seen(mesh, n).await).await.unwrap();
        }
        load.progress(10, RECOVERY).await.unwrap();
        mesh.agent.heal(T::ENDPOINT);
        eventually(&what, RECOVERY, async || told.seen(mesh, n).await).await.unwrap();
        let report = assert_flawless(load, 20).await;
        println!("{:?} under {fault:?}: {calls} calls, 0 of {} requests failed", T::ENDPOINT, report.ok);
    }
    if let Some(name) = T::BY_INDEX {
        n += 1;
        let held = eventually("a held call", RECOVERY, async || {
            ensure!(mesh.agent.held(T::ENDPOINT, name) > 0);
            Ok(())
        });
        held.await.unwrap();
        mesh.agent.rewind(T::ENDPOINT, name);
        told.set(mesh, n);
        let what = format!("state {n} of {:?}, set after its index went back", T::ENDPOINT);
        eventually(&what, RECOVERY, async || told.seen(mesh, n).await).await.unwrap();
    }
    mesh.web.assert_alive().await;
    mesh.api.assert_alive().await;
}

// === the registration: a second listener that moves ===

struct Listener {
    ports: Vec<u16>,
}

impl Told for Listener {
    const ENDPOINT: Endpoint = Endpoint::Registration;
    const BY_INDEX: Option<&'static str> = None;
    const WATCHES: usize = 2;
    // 404 says "deregistered", null lists say "no upstreams", and there is no index.
    const NOT_FAULTS: &'static [Fault] = &[Fault::Status(404), Fault::NullLists, Fault::IndexZero];

    fn set(&mut self, mesh: &Mesh, _: usize) {
        let port = free_port().unwrap();
        self.ports.push(port);
        let upstreams = json!([upstream("api", mesh::port(&mesh.entry), "http"), upstream("other", port, "http")]);
        mesh.agent.edit_registration("web-1-sidecar-proxy", |service| service["Proxy"]["Upstreams"] = upstreams);
    }

    async fn seen(&self, _: &Mesh, _: usize) -> Result<()> {
        let (newest, older) = self.ports.split_last().context("no state yet")?;
        Address::port(*newest).connect().await?;
        for port in older {
            ensure!(Address::port(*port).connect().await.is_err(), "{port} still listens");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registration_survives_all_faults() {
    let mut mesh = Mesh::start("http").await;
    survives_all(&mut mesh, Listener { ports: Vec::new() }).await;
}

// === the leaf: its serial number ===

struct Serial(u32);

impl Told for Serial {
    const ENDPOINT: Endpoint = Endpoint::Leaf;
    const BY_INDEX: Option<&'static str> = Some("api");
    const WATCHES: usize = 2;
    // A leaf has no list.
    const NOT_FAULTS: &'static [Fault] = &[Fault::NullLists];

    fn set(&mut self, mesh: &Mesh, _: usize) {
        self.0 = mesh.agent.reissue_leaf("api").serial;
    }

    async fn seen(&self, mesh: &Mesh, _: usize) -> Result<()> {
        mesh.shows_leaf(self.0).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leaf_survives_all_faults() {
    let mut mesh = Mesh::start("http").await;
    survives_all(&mut mesh, Serial(0)).await;
}

// === the roots: whether a client of another root is let in ===

struct OtherRoot {
    stranger: Leaf,
    root: Authority,
}

impl Told for OtherRoot {
    const ENDPOINT: Endpoint = Endpoint::Roots;
    const BY_INDEX: Option<&'static str> = Some("");
    const WATCHES: usize = 2;
    const NOT_FAULTS: &'static [Fault] = &[];

    fn set(&mut self, mesh: &Mesh, n: usize) {
        mesh.agent.trust_also(odd(n).then(|| self.root.clone()));
    }

    async fn seen(&self, mesh: &Mesh, n: usize) -> Result<()> {
        let status = Client::with(&self.stranger).status(&mesh.public).await?;
        let wanted = odd(n).then_some(200);
        ensure!(status == wanted, "{status:?}, not {wanted:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roots_survive_all_faults() {
    let mut mesh = Mesh::start("http").await;
    let root = Authority::new("other", TRUST_DOMAIN);
    let stranger = root.issue(&LeafRequest::new(root.service_uri("stranger"), 7), "");
    survives_all(&mut mesh, OtherRoot { stranger, root }).await;
}

// === the intentions: whether a probe is denied ===

struct Denied(Leaf);

impl Told for Denied {
    const ENDPOINT: Endpoint = Endpoint::Intentions;
    const BY_INDEX: Option<&'static str> = Some("api");
    const WATCHES: usize = 2;
    // Null says "no intention". A field that nobody knows may restrict whom it allows: such an intention may deny.
    const NOT_FAULTS: &'static [Fault] = &[Fault::NullLists, Fault::UnknownFields];

    fn set(&mut self, mesh: &Mesh, n: usize) {
        let action = if odd(n) { "deny" } else { "allow" };
        mesh.agent.set_intentions("api", vec![intention("probe", "api", action)]);
    }

    async fn seen(&self, mesh: &Mesh, n: usize) -> Result<()> {
        let status = Client::with(&self.0).status(&mesh.public).await?;
        let wanted = if odd(n) { 403 } else { 200 };
        ensure!(status == Some(wanted), "{status:?}, not {wanted}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_intentions_survive_all_faults() {
    let mut mesh = Mesh::start("http").await;
    let probe = mesh.agent.reissue_leaf("probe");
    survives_all(&mut mesh, Denied(probe)).await;
}

// === the mesh entry: whether TLS 1.2 is spoken ===

struct LowestTls(Leaf);

impl Told for LowestTls {
    const ENDPOINT: Endpoint = Endpoint::Mesh;
    const BY_INDEX: Option<&'static str> = None;
    const WATCHES: usize = 2;
    // 404 says "no entry". The entry may be polled as seldom as every 15 s, so one fault of each kind must do.
    const NOT_FAULTS: &'static [Fault] = &[
        Fault::Hang,
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(429),
        Fault::Reset,
        Fault::Garbage,
        Fault::Html,
        Fault::NullLists,
        Fault::Endless,
        Fault::IndexZero,
        Fault::Slow(Duration::from_millis(300)),
        Fault::Churn,
    ];

    fn set(&mut self, mesh: &Mesh, n: usize) {
        let version = if odd(n) { "TLSv1_3" } else { "TLSv1_2" };
        let incoming = json!({"TLSMinVersion": version, "TLSMaxVersion": "", "CipherSuites": []});
        mesh.agent.set_mesh(Some(json!({
            "Kind": "mesh",
            "TransparentProxy": {},
            "TLS": {"Incoming": incoming, "Outgoing": {"TLSMinVersion": "TLS_AUTO"}},
            "CreateIndex": 40,
            "ModifyIndex": 41,
        })));
    }

    async fn seen(&self, mesh: &Mesh, n: usize) -> Result<()> {
        let old = Client { newest: Some(SslVersion::TLS1_2), ..Client::with(&self.0) };
        let spoken = old.server_serial(&mesh.public).await.is_ok();
        ensure!(spoken != odd(n), "TLS 1.2 spoken: {spoken}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_entry_survives_all_faults() {
    let mut mesh = Mesh::start("http").await;
    let probe = mesh.agent.reissue_leaf("probe");
    survives_all(&mut mesh, LowestTls(probe)).await;
}

// === chain and endpoints: which app answers ===

async fn ensure_answering(mesh: &Mesh, name: &str) -> Result<()> {
    let answering = answering(&mesh.entry).await?;
    ensure!(answering == name, "{answering} answers, not {name}");
    Ok(())
}

struct Target;

impl Told for Target {
    const ENDPOINT: Endpoint = Endpoint::Chain;
    const BY_INDEX: Option<&'static str> = Some("api");
    const WATCHES: usize = 1;
    // A chain has no list here.
    const NOT_FAULTS: &'static [Fault] = &[Fault::NullLists];

    fn set(&mut self, mesh: &Mesh, n: usize) {
        let target = if odd(n) { "spare" } else { "api" };
        mesh.agent.set_chain("api", ChainSpec::default_for(target));
    }

    async fn seen(&self, mesh: &Mesh, n: usize) -> Result<()> {
        ensure_answering(mesh, if odd(n) { "spare-1" } else { "api-1" }).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_survives_all_faults() {
    let mut mesh = Mesh::start("http").await;
    let other = Backend::start(&mesh.agent, "spare", "spare-1").await;
    mesh.agent.set_instances("spare", vec![other.instance.clone()]);
    survives_all(&mut mesh, Target).await;
}

struct Instances {
    first: Instance,
    second: Backend,
}

impl Told for Instances {
    const ENDPOINT: Endpoint = Endpoint::Health;
    const BY_INDEX: Option<&'static str> = Some("api");
    const WATCHES: usize = 1;
    const NOT_FAULTS: &'static [Fault] = &[];

    fn set(&mut self, mesh: &Mesh, n: usize) {
        let instance = if odd(n) { &self.second.instance } else { &self.first };
        mesh.agent.set_instances("api", vec![instance.clone()]);
    }

    async fn seen(&self, mesh: &Mesh, n: usize) -> Result<()> {
        ensure_answering(mesh, if odd(n) { "api-2" } else { "api-1" }).await?;
        ensure!(!odd(n) || self.second.app.requests() > 0, "the second app has no request");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_survive_all_faults() {
    let mut mesh = Mesh::start("http").await;
    let first = mesh.instance();
    let second = Backend::start(&mesh.agent, "api", "api-2").await;
    survives_all(&mut mesh, Instances { first, second }).await;
}
