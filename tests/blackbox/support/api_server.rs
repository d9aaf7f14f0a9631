//! A small API server of Kubernetes: lists, watches and status patches of the objects that a test puts there, with faults on demand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aralez_integration::web_pki::{Pair, acceptor};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use openssl::ssl::{Ssl, SslAcceptor};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_openssl::SslStream;
use tokio_util::task::AbortOnDropHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What goes wrong with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They are answered with this status.
    Status(u16),
    /// They are not answered.
    Silence,
}

/// What the server knows.
#[derive(Default)]
struct World {
    version: u64,
    /// By collection (`services`) and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    /// Version, collection, event.
    events: Vec<(u64, String, Value)>,
    /// Watches from before this version are answered with 410.
    oldest: u64,
    /// Watches that began in an earlier epoch are cut.
    epoch: u64,
    /// By collection, `watch ` before it for its watches alone, `status` for what is said of one; `""` is all.
    faults: BTreeMap<String, Fault>,
    /// Lists that were answered, by collection.
    lists: BTreeMap<String, u32>,
    /// Status patches that were answered, by `namespace/name`.
    patches: BTreeMap<String, u32>,
    /// What new connections are shown, and the token that every request must have.
    guard: Option<(SslAcceptor, String)>,
}

impl World {
    fn fault(&self, collection: &str) -> Option<Fault> {
        self.faults.get(collection).or_else(|| self.faults.get("")).copied()
    }

    fn put(&mut self, collection: &str, mut object: Value) {
        self.version += 1;
        let version = self.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let known = self.objects.insert((collection.to_owned(), key(&object)), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.events.push((version, collection.to_owned(), json!({"type": kind, "object": object})));
    }
}

/// The server.
pub struct ApiServer {
    port: u16,
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<()>>,
    _serving: AbortOnDropHandle<()>,
}

impl ApiServer {
    /// An empty cluster.
    pub async fn start() -> ApiServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (world, changed) = (Arc::new(Mutex::new(World { version: 1, ..World::default() })), Arc::new(watch::Sender::new(())));
        let server = Serving { world: world.clone(), changed: changed.clone() };
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, accepting) = (server.clone(), server.world.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let server = server.clone();
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    });
                    // A client that goes away, or does not trust us, is no matter.
                    let guard = accepting.lock().guard.clone();
                    match guard {
                        None => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
                        Some((acceptor, _)) => {
                            let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
                            if Pin::new(&mut stream).accept().await.is_ok() {
                                // One request each, so that another certificate is noticed.
                                drop(http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        }));
        ApiServer { port, world, changed, _serving: serving }
    }

    /// A kubeconfig file that leads here.
    pub fn kubeconfig(&self) -> String {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "stub",
            "clusters": [{"name": "stub", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}], "users": [{"name": "stub", "user": {}}]})
        .to_string()
    }

    /// From now on is served by TLS with this certificate, to those with this token.
    pub fn guard(&self, pair: &Pair, token: &str) {
        self.world.lock().guard = Some((acceptor(pair), token.to_owned()));
    }

    /// A kubeconfig file that leads here by TLS, with this root and token.
    pub fn guarded_kubeconfig(&self, root: &str, token: &str) -> String {
        let mut config: Value = serde_json::from_str(&self.kubeconfig()).unwrap();
        config["clusters"][0]["cluster"] =
            json!({"server": format!("https://127.0.0.1:{}", self.port), "certificate-authority-data": BASE64_STANDARD.encode(root)});
        config["users"][0]["user"] = json!({"token": token});
        config.to_string()
    }

    /// Creates an object, or changes it.
    pub fn put(&self, collection: &str, object: Value) {
        self.world.lock().put(collection, object);
        self.changed.send_replace(());
    }

    /// The object as it is now.
    pub fn get(&self, collection: &str, key: &str) -> Value {
        self.world.lock().objects[&(collection.to_owned(), key.to_owned())].clone()
    }

    /// From now on requests for a collection fail, `""` being all, `watch …` its watches, `status` what is said of one; or do not any more.
    pub fn fail(&self, collection: &str, fault: Option<Fault>) {
        let mut world = self.world.lock();
        match fault {
            Some(fault) => world.faults.insert(collection.to_owned(), fault),
            None => world.faults.remove(collection),
        };
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.world.lock().epoch += 1;
        self.changed.send_replace(());
    }

    /// Forgets what happened so far: a watch from before is answered with 410.
    pub fn compact(&self) {
        let mut world = self.world.lock();
        world.version += 1;
        world.oldest = world.version;
    }

    /// How often a collection was listed.
    pub fn lists(&self, collection: &str) -> u32 {
        self.world.lock().lists.get(collection).copied().unwrap_or_default()
    }

    /// How often the status of an object was written.
    pub fn patches(&self, key: &str) -> u32 {
        self.world.lock().patches.get(key).copied().unwrap_or_default()
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

#[derive(Clone)]
struct Serving {
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<()>>,
}

impl Serving {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if let Some((_, token)) = &self.world.lock().guard
            && request.headers().get("authorization").is_none_or(|value| *value != format!("Bearer {token}"))
        {
            return status(401);
        }
        if parts.last() == Some(&"selfsubjectaccessreviews") {
            let allowed = self.world.lock().fault("status").is_none();
            return whole(201, json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}, "status": {"allowed": allowed}}).to_string());
        }
        if request.method() == Method::PATCH {
            // …/namespaces/NAMESPACE/ingresses/NAME/status
            let [.., namespace, collection, name, "status"] = parts[..] else { return status(404) };
            let (collection, key) = (collection.to_owned(), format!("{namespace}/{name}"));
            if let Some(Fault::Status(code)) = self.world.lock().fault("status") {
                return status(code);
            }
            let patch: Value = serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
            let mut world = self.world.lock();
            let Some(mut object) = world.objects.get(&(collection.clone(), key.clone())).cloned() else { return status(404) };
            *world.patches.entry(key).or_default() += 1;
            object["status"] = patch["status"].clone();
            world.put(&collection, object.clone());
            drop(world);
            self.changed.send_replace(());
            return whole(200, object.to_string());
        }
        let collection = parts.last().copied().unwrap_or_default().to_owned();
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(ToOwned::to_owned);
        let watched = value("watch").and_then(|_| self.world.lock().fault(&format!("watch {collection}")));
        let fault = watched.or_else(|| self.world.lock().fault(&collection));
        match fault {
            Some(Fault::Status(code)) => return status(code),
            Some(Fault::Silence) => std::future::pending().await,
            None => {}
        }
        if value("watch").is_some() {
            return self.watch(collection, value("resourceVersion").unwrap().parse().unwrap());
        }
        let mut world = self.world.lock();
        *world.lists.entry(collection.clone()).or_default() += 1;
        let items: Vec<&Value> = world.objects.iter().filter(|((of, _), _)| *of == collection).map(|(_, object)| object).collect();
        whole(
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": world.version.to_string()}, "items": items})
                .to_string(),
        )
    }

    fn watch(&self, collection: String, from: u64) -> Response<Body> {
        let (world, changed) = (self.world.clone(), self.changed.subscribe());
        let epoch = world.lock().epoch;
        let events = stream::unfold((from, changed), move |(from, mut changed)| {
            let (world, collection) = (world.clone(), collection.clone());
            async move {
                loop {
                    let next = {
                        let world = world.lock();
                        if world.epoch != epoch {
                            return None;
                        }
                        if from < world.oldest {
                            let gone = json!({"type": "ERROR", "object": failure(410)});
                            return Some((line(&gone), (u64::MAX, changed)));
                        }
                        world.events.iter().find(|(at, of, _)| *at > from && *of == collection).map(|(at, _, event)| (*at, line(event)))
                    };
                    if let Some((at, line)) = next {
                        return Some((line, (at, changed)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(events)))
    }
}

fn line(event: &Value) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(format!("{event}\n"))))
}

fn failure(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "the test says so", "reason": "Test", "code": code})
}

fn status(code: u16) -> Response<Body> {
    whole(code, failure(code).to_string())
}

fn whole(code: u16, text: String) -> Response<Body> {
    Response::builder().status(code).body(Full::new(Bytes::from(text)).boxed_unsync()).unwrap()
}

/// How long a change may take to reach traffic, as promised to users.
pub const PROMISED: Duration = Duration::from_secs(1);
