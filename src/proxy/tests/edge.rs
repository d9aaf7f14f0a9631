//! A reverse proxy in this process, with routes made by hand.

use super::*;
use crate::{
    model::{
        cluster::Dial,
        ingress::{
            ClientAddress, Ingress, IngressTls, Routing,
            pool::{ProxyHeader, Scheme, ServerTls},
        },
        secret::Secret,
    },
    proxy::bindings::Bindings,
};

/// What an edge serves.
#[derive(Clone)]
pub struct Setup {
    /// The routes; all lead to the one cluster.
    pub routing: Arc<Routing>,
    /// Its servers.
    pub cluster: Arc<Cluster>,
    /// Whom it believes what it says about clients.
    pub client: ClientAddress,
    /// What its TLS listener shows; without it there is none.
    pub tls: Option<IngressTls>,
    /// How many idle connections to servers are kept.
    pub pool: usize,
}

/// A server that is called `name`.
pub fn server(address: SocketAddr, name: &str, scheme: Scheme) -> Arc<Endpoint> {
    Arc::new(Endpoint { dial: Some(Dial { name: name.into(), scheme }), ..Endpoint::clone(&endpoint(address)) })
}

/// A cluster of one server.
pub fn servers(server: Arc<Endpoint>, tls: ServerTls, proxy_header: Option<ProxyHeader>) -> Arc<Cluster> {
    Arc::new(cluster("edge", Trust::Servers { tls: Arc::new(tls), proxy_header }, [server]))
}

/// A reverse proxy with two listeners in clear and one with TLS.
pub struct Edge {
    pub http: SocketAddr,
    pub second: SocketAddr,
    pub https: SocketAddr,
    publisher: Publisher,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    bindings: Arc<Bindings>,
    generation: u64,
}

impl Edge {
    pub async fn start(setup: &Setup) -> Self {
        let (publisher, subscriber) = channel();
        let telemetry = Arc::new(Telemetry::start().unwrap());
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(roots.path(), Ca::new().root_pem()).unwrap();
        let plane = Arc::new(plane(1, setup.pool, roots.path().to_str().unwrap().to_owned(), telemetry.clone(), Patience::default()));
        let shutdown = CancellationToken::new();
        let bindings: Arc<Bindings> = Arc::default();
        let listeners = Listeners::new(plane, Workshop::new(telemetry), Arc::default(), bindings.clone());
        let running = tokio::spawn(listeners.run(subscriber, shutdown.clone(), Duration::from_secs(5)));
        let [http, second, https] = [(); 3].map(|()| free_port());
        let mut edge = Self { http, second, https, publisher, shutdown, running, bindings, generation: 0 };
        edge.publish(setup).await;
        edge
    }

    /// Serves another set-up, and waits until it does.
    pub async fn publish(&mut self, setup: &Setup) {
        let listener = |name: &str, address, tls| {
            let key = ListenerKey { sidecar: "ingress".into(), name: name.into() };
            let ingress = Ingress {
                tls,
                routing: setup.routing.clone(),
                clusters: vec![setup.cluster.clone()],
                providers: Arc::default(),
                client: Arc::new(setup.client.clone()),
                https_port: Some(8443),
                challenges: Arc::default(),
                sealing: Secret::new("sealing"),
            };
            let listener = Listener {
                key: key.clone(),
                service: ServiceName::local("ingress"),
                bind: Bind { address: Address::Tcp(address), mode: None },
                protocol: Protocol::Http,
                identity: None,
                tls: TlsBounds::default(),
                access_log: Arc::new(AccessLog::default()),
                tracing: None,
                role: Role::Ingress(Box::new(ingress)),
            };
            (key, Arc::new(listener))
        };
        let mut listeners = BTreeMap::from([listener("http", self.http, None), listener("second", self.second, None)]);
        listeners.extend(setup.tls.clone().map(|tls| listener("https", self.https, Some(tls))));
        self.generation += 1;
        let generation = self.generation;
        let mut applied = self.bindings.applied.subscribe();
        self.publisher.publish(Snapshot { generation, listeners, ..Snapshot::default() });
        applied.wait_for(|applied| *applied >= generation).await.unwrap();
        assert!(self.bindings.unbound.lock().is_empty(), "{:?}", self.bindings.unbound.lock());
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}
