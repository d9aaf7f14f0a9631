//! The ingress role: routes made by hand, a real app, real clients.

mod files;
mod filters;

use std::time::Instant;

use aralez_integration::{
    apps::{App, http_echo},
    clients::{self, Response},
    net,
};
use bytes::Bytes;
use http::{Method, Request};

use super::*;
use crate::model::{
    cluster::Dial,
    ingress::{
        Action, ClientAddress, Filters, Hosts, Ingress, IngressRoute, Networks, Paths, Routing,
        filters::{LimitKey, RateLimit},
        pool::{Scheme, ServerTls},
    },
    matching::{PathMatch, TextMatch},
    route::{Edits, HeaderEdits, Leg, Route},
    secret::Secret,
};

/// The host of all routes.
const HOST: &str = "shop.test";

/// A route of [`HOST`].
#[derive(Clone)]
struct Rule {
    prefix: &'static str,
    filters: Filters,
    action: Action,
    rewrite: Option<&'static str>,
    headers: HeaderEdits,
}

/// A route that hands on what it takes.
fn rule(prefix: &'static str) -> Rule {
    Rule { prefix, filters: Filters::default(), action: Action::Forward, rewrite: None, headers: HeaderEdits::default() }
}

fn filtered(prefix: &'static str, filters: Filters) -> Rule {
    Rule { filters, ..rule(prefix) }
}

fn limit(scope: &str, rate: u32) -> RateLimit {
    RateLimit { scope: scope.into(), rate, burst: rate, key: LimitKey::Client }
}

/// A reverse proxy in this process, with two listeners and one app.
struct Edge {
    app: App,
    address: net::Address,
    second: net::Address,
    publisher: Publisher,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    generation: u64,
}

impl Edge {
    /// Serves these routes; everybody is a trusted proxy.
    async fn start(rules: &[Rule]) -> Self {
        let (publisher, subscriber) = channel();
        let telemetry = Arc::new(Telemetry::start().unwrap());
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(roots.path(), Ca::new().root_pem()).unwrap();
        let plane = Arc::new(plane(1, POOL, roots.path().to_str().unwrap().to_owned(), telemetry.clone(), Patience::default()));
        let shutdown = CancellationToken::new();
        let listeners = Listeners::new(plane, Workshop::new(telemetry), Arc::default(), Arc::default());
        let running = tokio::spawn(listeners.run(subscriber, shutdown.clone(), Duration::from_secs(5)));
        let [address, second] = [free_port(), free_port()].map(net::Address::Tcp);
        let app = http_echo("app").await.unwrap();
        let mut edge = Self { app, address, second, publisher, shutdown, running, generation: 0 };
        edge.publish(rules);
        for address in [&edge.address, &edge.second] {
            while address.connect().await.is_err() {
                tokio::task::yield_now().await;
            }
        }
        edge
    }

    /// Serves other routes from now on.
    fn publish(&mut self, rules: &[Rule]) {
        let net::Address::Tcp(app) = self.app.address else { panic!("the app is on TCP") };
        let dial = Some(Dial { name: "app".into(), scheme: Scheme::Http });
        let server = Arc::new(Endpoint { dial, ..(*endpoint(app)).clone() });
        let cluster = Arc::new(Cluster {
            target: TargetId("app".into()),
            service: ServiceName::local("app"),
            datacenter: "".into(),
            trust: Trust::Servers { tls: Arc::new(ServerTls::default()), proxy_header: None },
            subset: Subset::default(),
            protocol: Protocol::Http,
            connect_timeout: Duration::from_secs(5),
            balance: Balance::default(),
            limits: Limits::default(),
            passive: PassiveHealth::default(),
            endpoints: Arc::new([server]),
        });
        let (mut paths, mut routes) = (Paths::default(), Vec::new());
        for Rule { prefix, filters, action, rewrite, headers } in rules.iter().cloned() {
            paths.insert(prefix, routes.len());
            let leg = Leg { name: "app".into(), weight: 1, headers: HeaderEdits::default(), clusters: vec![0] };
            let mut route = Route { name: prefix.into(), rewrite: rewrite.map(Into::into), headers, ..Route::to(vec![leg]) };
            route.matches.path = Some(PathMatch { text: TextMatch::Prefix(prefix.into()), ignore_case: false });
            routes.push(IngressRoute { route, action, filters: Arc::new(filters) });
        }
        let mut hosts = Hosts::default();
        hosts.insert("DEFAULT", paths);
        let trusted = Networks(vec!["127.0.0.0/8".parse().unwrap()]);
        let ingress = Ingress {
            tls: None,
            routing: Arc::new(Routing { hosts, routes, pools: Vec::new() }),
            clusters: vec![cluster],
            providers: Arc::default(),
            client: Arc::new(ClientAddress { trusted, ..ClientAddress::default() }),
            https_port: Some(8443),
            challenges: Arc::default(),
            sealing: Secret::new("sealing"),
        };
        let listener = |name: &str, address: &net::Address| {
            let net::Address::Tcp(address) = *address else { panic!("listeners are on TCP") };
            let key = ListenerKey { sidecar: "ingress".into(), name: name.into() };
            let listener = Listener {
                key: key.clone(),
                service: ServiceName::local("ingress"),
                bind: Bind { address: Address::Tcp(address), mode: None },
                protocol: Protocol::Http,
                identity: None,
                tls: TlsBounds::default(),
                access_log: Arc::new(AccessLog::default()),
                role: Role::Ingress(Box::new(ingress.clone())),
            };
            (key, Arc::new(listener))
        };
        self.generation += 1;
        let listeners = BTreeMap::from([listener("http", &self.address), listener("second", &self.second)]);
        self.publisher.publish(Snapshot { generation: self.generation, listeners, ..Snapshot::default() });
    }

    /// A request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
        clients::once(&self.address, asked(method, path, fields, body)).await.unwrap()
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.ask("GET", path, fields, "").await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

fn asked(method: &str, path: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Bytes> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(format!("http://{HOST}{path}"));
    if !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", HOST);
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

/// All values of a field of an answer, joined.
fn field(answer: &Response, name: &str) -> String {
    let lines: Vec<&str> = answer.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
    lines.join(" | ")
}

/// Header edits that set one field of the answer.
fn sets(name: &str, value: &str) -> HeaderEdits {
    let set = vec![(name.into(), crate::model::format::Format::text(value))];
    HeaderEdits { response: Edits { set, ..Edits::default() }, ..HeaderEdits::default() }
}
