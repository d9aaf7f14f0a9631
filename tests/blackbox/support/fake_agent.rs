//! A Consul agent in the test's own process: the endpoints a sidecar uses, state that a test changes, faults.
//!
//! It speaks plain HTTP/1.1 on loopback, blocks by index or by content hash like Consul 1.20.1, signs with
//! an authority of its own, and keeps every call for the assertions.

mod calls;
mod catalog;
mod fault;
mod registration;
mod server;
mod topic;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Response};
use serde_json::Value;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use calls::Call;
pub use catalog::{ChainSpec, Instance, TRUST_DOMAIN};
pub use fault::Fault;
pub use registration::{Sidecar, intention, upstream};
pub use topic::{Endpoint, Topic};

use super::ca::{Authority, Leaf};
use catalog::{Catalog, Content};
use topic::{Position, Positions};

/// The handle of a test on its agent. Everything ends when it is dropped.
pub struct FakeAgent {
    address: SocketAddr,
    shared: Arc<Shared>,
    _listeners: JoinSet<()>,
}

/// What the connections see.
struct Shared {
    data: Mutex<Data>,
    calls: Mutex<Vec<Call>>,
    /// Counts changes of data and faults; every blocked call looks again.
    changes: watch::Sender<u64>,
    /// True while the agent is down: connections are reset.
    down: watch::Sender<bool>,
    open: AtomicUsize,
    peak: AtomicUsize,
}

struct Data {
    catalog: Catalog,
    positions: Positions,
    faults: HashMap<Endpoint, Fault>,
    /// Its server replays its log.
    replaying: bool,
    /// How many calls have met the present fault of an endpoint.
    met: HashMap<Endpoint, usize>,
    /// How many calls are held now.
    held: HashMap<Topic, usize>,
}

// === impl FakeAgent ===

impl FakeAgent {
    /// On a free port of loopback.
    pub async fn start() -> FakeAgent {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            data: Mutex::new(Data {
                catalog: Catalog::new(),
                positions: Positions::default(),
                faults: HashMap::new(),
                replaying: false,
                met: HashMap::new(),
                held: HashMap::new(),
            }),
            calls: Mutex::default(),
            changes: watch::Sender::new(0),
            down: watch::Sender::new(false),
            open: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        let mut listeners = JoinSet::new();
        listeners.spawn(server::serve_tcp(listener, Arc::clone(&shared)));
        FakeAgent { address, shared, _listeners: listeners }
    }

    /// Serves on a Unix socket as well.
    pub fn listen_unix(&mut self, path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        self._listeners.spawn(server::serve_unix(listener, Arc::clone(&self.shared)));
    }

    /// Host and port, as `CONSUL_HTTP_ADDR` takes it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Stops listening and resets every connection, as a killed agent does.
    pub async fn kill(&mut self) {
        self._listeners.shutdown().await;
        self.shared.down.send_replace(true);
        let reset = eventually("the connections to be reset", Duration::from_secs(20), async || {
            ensure!(self.connections() == 0);
            Ok(())
        });
        reset.await.unwrap();
    }

    /// Listens again, on the port it had, with all its data.
    pub async fn revive(&mut self) {
        self.shared.down.send_replace(false);
        let listener = TcpListener::bind(self.address).await.unwrap();
        self._listeners.spawn(server::serve_tcp(listener, Arc::clone(&self.shared)));
    }

    /// Whether it answers as one whose server has not applied its log yet: from an empty store with the index 2, unless it is asked
    /// `consistent`; then it holds the call until this ends.
    pub fn replay(&self, replaying: bool) {
        self.shared.data.lock().unwrap().replaying = replaying;
        self.shared.wake();
    }

    // --- what it knows ---

    /// Adds or replaces a sidecar's registration.
    pub fn register(&self, sidecar: &Sidecar) {
        self.set_registration(&sidecar.proxy_id(), sidecar.to_json());
    }

    /// Adds or replaces a registration given as JSON.
    pub fn set_registration(&self, proxy_id: &str, service: Value) {
        self.change(Endpoint::Registration, proxy_id, |catalog| {
            catalog.registrations.insert(proxy_id.to_owned(), service);
        });
    }

    /// Changes a registration in place.
    pub fn edit_registration(&self, proxy_id: &str, edit: impl FnOnce(&mut Value)) {
        self.change(Endpoint::Registration, proxy_id, |catalog| {
            edit(catalog.registrations.get_mut(proxy_id).unwrap());
        });
    }

    /// Removes a registration: reads of it answer 404.
    pub fn deregister(&self, proxy_id: &str) {
        self.change(Endpoint::Registration, proxy_id, |catalog| {
            catalog.registrations.remove(proxy_id);
        });
    }

    /// Replaces the instances of `service`.
    pub fn set_instances(&self, service: &str, instances: Vec<Instance>) {
        self.change(Endpoint::Health, service, |catalog| {
            catalog.instances.insert(service.to_owned(), instances);
        });
    }

    /// Replaces the instances of `service` that have no sidecar.
    pub fn set_bare_instances(&self, service: &str, instances: Vec<Instance>) {
        self.change(Endpoint::Bare, service, |catalog| {
            catalog.bare.insert(service.to_owned(), instances);
        });
    }

    /// Replaces the intentions whose destination is `service`; the first of them has precedence.
    pub fn set_intentions(&self, service: &str, intentions: Vec<Value>) {
        self.change(Endpoint::Intentions, service, |catalog| {
            catalog.intentions.insert(service.to_owned(), intentions);
        });
    }

    /// What holds without a matching intention: the ACL default, and the agent's own override of it.
    pub fn set_default_policy(&self, acl: &'static str, intention: Option<&'static str>) {
        self.change(Endpoint::Authorize, "", |catalog| {
            catalog.acl_default = acl;
            catalog.intention_default = intention;
        });
    }

    /// Replaces or removes the mesh config entry.
    pub fn set_mesh(&self, entry: Option<Value>) {
        self.change(Endpoint::Mesh, "", |catalog| catalog.mesh = entry);
    }

    /// Sets the proxy-defaults, or the service-defaults of a service.
    pub fn set_defaults(&self, endpoint: Endpoint, name: &str, entry: Value) {
        self.change(endpoint, name, |catalog| {
            catalog.defaults.insert(Topic::new(endpoint, name), entry);
        });
    }

    /// Replaces the jwt-provider config entries.
    pub fn set_jwt_providers(&self, entries: Vec<Value>) {
        self.change(Endpoint::JwtProviders, "", |catalog| catalog.jwt_providers = entries);
    }

    /// Replaces the chain of `service` by one as the agent compiles it.
    pub fn set_compiled_chain(&self, service: &str, chain: Value) {
        self.change(Endpoint::Chain, service, |catalog| {
            catalog.compiled.insert(service.to_owned(), chain);
        });
    }

    /// Replaces the chain of `service`.
    pub fn set_chain(&self, service: &str, chain: ChainSpec) {
        self.change(Endpoint::Chain, service, |catalog| {
            catalog.chains.insert(service.to_owned(), chain);
        });
    }

    /// From now on only this token has rights; `None` turns ACLs off.
    pub fn require_token(&self, token: Option<&str>) {
        self.change(Endpoint::Services, "", |catalog| catalog.token = token.map(str::to_owned));
    }

    // --- its certificates ---

    /// The root that signs now.
    pub fn signer(&self) -> Authority {
        self.shared.data.lock().unwrap().catalog.signer()
    }

    /// A new leaf for `service`, as after a renewal.
    pub fn reissue_leaf(&self, service: &str) -> Leaf {
        self.change(Endpoint::Leaf, service, |catalog| catalog.issue(service))
    }

    /// Serves this leaf for `service`.
    pub fn set_leaf(&self, service: &str, leaf: Leaf) {
        self.change(Endpoint::Leaf, service, |catalog| {
            catalog.leaves.insert(service.to_owned(), leaf);
        });
    }

    /// The leaf that `service` has now.
    pub fn leaf(&self, service: &str) -> Option<Leaf> {
        self.shared.data.lock().unwrap().catalog.leaves.get(service).cloned()
    }

    /// Adds a root that signs from now on; the others stay trusted. `cross_sign` sends the bridge from the
    /// old root with new leaves. No leaf is renewed by this.
    pub fn add_root(&self, id: &str, cross_sign: bool) -> Authority {
        self.change(Endpoint::Roots, "", |catalog| {
            let old = catalog.signer();
            let new = Authority::new(id, TRUST_DOMAIN);
            catalog.cross_signed = cross_sign.then(|| old.cross_sign(&new));
            catalog.roots.push(new.clone());
            new
        })
    }

    /// Only the signing root stays trusted.
    pub fn drop_old_roots(&self) {
        self.change(Endpoint::Roots, "", |catalog| {
            catalog.roots = vec![catalog.signer()];
            catalog.cross_signed = None;
        });
    }

    /// Lists this root beside its own, in place of the one given before.
    pub fn trust_also(&self, other: Option<Authority>) {
        self.change(Endpoint::Roots, "", |catalog| catalog.other_root = other);
    }

    /// Says `"Roots": []`, or the truth again.
    pub fn hide_roots(&self, hide: bool) {
        self.change(Endpoint::Roots, "", |catalog| catalog.hide_roots = hide);
    }

    // --- faults ---

    /// Lets `endpoint` misbehave until [`FakeAgent::heal`].
    pub fn fail(&self, endpoint: Endpoint, fault: Fault) {
        {
            let mut data = self.shared.data.lock().unwrap();
            data.faults.insert(endpoint, fault);
            data.met.remove(&endpoint);
        }
        self.shared.wake();
    }

    /// How many calls of `endpoint` have met the fault it has now.
    pub fn met(&self, endpoint: Endpoint) -> usize {
        self.shared.data.lock().unwrap().met.get(&endpoint).copied().unwrap_or(0)
    }

    /// Ends the fault of `endpoint`.
    pub fn heal(&self, endpoint: Endpoint) {
        self.shared.data.lock().unwrap().faults.remove(&endpoint);
        self.shared.wake();
    }

    /// How many calls for `name` are held now, until something changes.
    pub fn held(&self, endpoint: Endpoint, name: &str) -> usize {
        self.shared.data.lock().unwrap().held.get(&Topic::new(endpoint, name)).copied().unwrap_or(0)
    }

    /// Sets the index of one topic back to 2; held calls answer at once. A call that arrives later with an index from before is
    /// held until it has waited, as by Consul.
    pub fn rewind(&self, endpoint: Endpoint, name: &str) {
        self.shared.data.lock().unwrap().positions.rewind(&Topic::new(endpoint, name));
        self.shared.wake();
    }

    // --- what was asked of it ---

    /// All calls so far, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// The calls of one endpoint so far.
    pub fn calls_of(&self, endpoint: Endpoint) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.is(endpoint)).collect()
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub fn peak_connections(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    fn change<T>(&self, endpoint: Endpoint, name: &str, change: impl FnOnce(&mut Catalog) -> T) -> T {
        let result = {
            let mut data = self.shared.data.lock().unwrap();
            data.positions.advance(&Topic::new(endpoint, name));
            change(&mut data.catalog)
        };
        self.shared.wake();
        result
    }
}

// === impl Shared ===

impl Shared {
    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn fault(&self, endpoint: Endpoint) -> Option<Fault> {
        self.data.lock().unwrap().faults.get(&endpoint).copied()
    }

    fn hold(&self, topic: &Topic) {
        *self.data.lock().unwrap().held.entry(topic.clone()).or_default() += 1;
    }

    fn release(&self, topic: &Topic) {
        *self.data.lock().unwrap().held.entry(topic.clone()).or_default() -= 1;
    }

    fn meets_fault(&self, endpoint: Endpoint) {
        *self.data.lock().unwrap().met.entry(endpoint).or_default() += 1;
    }

    fn position(&self, topic: &Topic) -> Position {
        let data = self.data.lock().unwrap();
        let position = data.positions.of(topic);
        if data.replaying { Position { index: 2, ..position } } else { position }
    }

    /// Whether an answer to `call` waits for the server to apply its log.
    fn awaits_log(&self, call: &Call, topic: &Topic) -> bool {
        let of_agent =
            matches!(topic.endpoint, Endpoint::Services | Endpoint::Registration | Endpoint::Authorize | Endpoint::Roots | Endpoint::Leaf);
        self.data.lock().unwrap().replaying && !of_agent && call.query.contains_key("consistent")
    }

    /// The content hash of a registration; `None` for everything else.
    fn content_hash(&self, topic: &Topic) -> Option<String> {
        if topic.endpoint != Endpoint::Registration {
            return None;
        }
        let content = self.content(topic, &Value::Null).ok()?;
        let mut hasher = DefaultHasher::new();
        content.to_string().hash(&mut hasher);
        Some(format!("{:016x}", hasher.finish()))
    }

    /// What it says about `topic` at present.
    fn content(&self, topic: &Topic, body: &Value) -> Content {
        let Data { catalog, replaying, .. } = &mut *self.data.lock().unwrap();
        if *replaying { catalog.early_content(topic, body) } else { catalog.content(topic, body) }
    }

    /// 403 for a wrong token where Consul wants a right; roots and mesh need none.
    fn refuse(&self, call: &Call, topic: &Topic) -> Option<Response<server::Body>> {
        let data = self.data.lock().unwrap();
        let open = matches!(topic.endpoint, Endpoint::Roots | Endpoint::Mesh | Endpoint::ProxyDefaults);
        let known = data.catalog.token.as_deref().is_none_or(|token| call.token() == Some(token));
        (!open && !known).then(|| {
            let text = "Permission denied: token with AccessorID '1' lacks permission";
            server::plain(403, text, None)
        })
    }

    /// Adds the header that every answer of an agent has.
    fn mark(&self, mut response: Response<server::Body>) -> Response<server::Body> {
        let policy = self.data.lock().unwrap().catalog.acl_default;
        response.headers_mut().insert("x-consul-default-acl-policy", HeaderValue::from_static(policy));
        response
    }
}
