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

use super::{
    edge::{self, Edge, Setup},
    *,
};
use crate::model::{
    ingress::{
        Action, ClientAddress, Filters, Hosts, IngressRoute, Networks, Paths, Routing,
        filters::{LimitKey, RateLimit},
        pool::{Scheme, ServerTls},
    },
    matching::{PathMatch, TextMatch},
    route::{Edits, HeaderEdits, Leg, Route},
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

/// These routes of the app's; everybody is a trusted proxy.
fn setup(app: &App, rules: &[Rule]) -> Setup {
    let net::Address::Tcp(app) = app.address else { panic!("the app is on TCP") };
    let (mut paths, mut routes) = (Paths::default(), Vec::new());
    for Rule { prefix, filters, action, rewrite, headers } in rules.iter().cloned() {
        paths.insert(prefix, routes.len());
        let leg = Leg { name: "app".into(), weight: 1, headers: HeaderEdits::default(), clusters: vec![0] };
        let mut route = Route { name: prefix.into(), rewrite: rewrite.map(Into::into), headers, ..Route::to(vec![leg]) };
        route.matches.path = Some(PathMatch { text: TextMatch::Prefix(prefix.into()), ignore_case: false });
        routes.push(IngressRoute { route, further: Vec::new(), action, filters: Arc::new(filters) });
    }
    let mut hosts = Hosts::default();
    hosts.insert("DEFAULT", paths);
    let trusted = Networks(vec!["127.0.0.0/8".parse().unwrap()]);
    Setup {
        routing: Arc::new(Routing { hosts, routes, pools: Vec::new() }),
        cluster: edge::servers(edge::server(app, "app", Scheme::Http), ServerTls::default(), None),
        client: ClientAddress { trusted, ..ClientAddress::default() },
        tls: None,
        pool: POOL,
    }
}

/// An edge before an app.
struct Shop {
    app: App,
    edge: Edge,
    address: net::Address,
}

impl Shop {
    async fn start(rules: &[Rule]) -> Self {
        let app = http_echo("app").await.unwrap();
        let edge = Edge::start(&setup(&app, rules)).await;
        Self { address: net::Address::Tcp(edge.http), app, edge }
    }

    /// Serves other routes from now on.
    async fn publish(&mut self, rules: &[Rule]) {
        self.edge.publish(&setup(&self.app, rules)).await;
    }

    /// A request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
        clients::once(&self.address, asked(method, path, fields, body)).await.unwrap()
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.ask("GET", path, fields, "").await
    }

    async fn stop(self) {
        self.edge.stop().await;
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
