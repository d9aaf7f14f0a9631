//! A call of the local app: which route takes it, which legs and targets it may go to, and who would serve.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use super::words;
use crate::model::{
    cluster::{Cluster, Endpoint, Health},
    listener::{Protocol, Upstream},
    matching::RequestView,
    route::{Leg, Route},
};

/// What becomes of a call through one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outbound {
    /// The upstream's name among its sidecar's.
    pub upstream: String,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The routes before the one that takes the request; all of them if none does. Empty for protocol `tcp`.
    pub passed: Vec<Passed>,
    /// The route that takes it.
    pub taken: Option<Taken>,
}

/// A route that does not take the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// The route.
    pub route: Arc<str>,
    /// All of its tests.
    pub tests: String,
    /// The first of them that the request fails.
    pub failed: String,
}

/// The route that takes the request, and what it does with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The route.
    pub route: Arc<str>,
    /// Its tests, all of which hold; `None` where there is no request to test.
    pub tests: Option<String>,
    /// The new path, if it rewrites.
    pub rewritten: Option<String>,
    /// How long the request may take in all.
    pub timeout: Option<Duration>,
    /// How long it may stand still.
    pub idle_timeout: Option<Duration>,
    /// When it is tried again, if its policy says more than what is always safe.
    pub retry: Option<String>,
    /// What the route does to headers.
    pub headers: Vec<String>,
    /// What the request is hashed by.
    pub hash: Vec<String>,
    /// Where it may go.
    pub legs: Vec<LegView>,
}

/// One leg of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LegView {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight among the legs of the route, in units of 0.01 %.
    pub weight: u32,
    /// What the leg does to headers, before the route.
    pub headers: Vec<String>,
    /// Its targets, in failover order.
    pub targets: Vec<TargetView>,
}

/// One target of a leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetView {
    /// Its id in the discovery chain.
    pub id: String,
    /// How its endpoints are chosen among.
    pub policy: String,
    /// The filter of its subset; empty is none.
    pub filter: Arc<str>,
    /// Whether only instances with all checks passing are chosen.
    pub only_passing: bool,
    /// Whether a request of its leg goes here now: the first target with an endpoint that may be chosen.
    pub serves: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointView {
    /// Its id, `<node>/<service id>`.
    pub id: Arc<str>,
    /// Where it listens.
    pub address: String,
    /// Its share.
    pub weight: u32,
    /// The worst of its checks.
    pub health: Health,
    /// Why it is never chosen, or with a weight that surprises.
    pub note: Option<&'static str>,
}

impl Outbound {
    /// Explains a request on an upstream; a connection takes the first route and has no `request`.
    pub fn new(name: &str, protocol: Protocol, upstream: &Upstream, request: Option<&RequestView<'_>>) -> Self {
        let routes = &upstream.routes.routes;
        let found = match request {
            Some(request) => upstream.routes.route(request),
            None => routes.first().map(|route| (0, route)),
        };
        let before = routes.iter().take(found.map_or(routes.len(), |(place, _)| place));
        let passed = before.filter_map(|route| {
            let failed = route.matches.mismatch(request?)?.to_string();
            Some(Passed { route: route.name.clone(), tests: route.matches.to_string(), failed })
        });
        Self {
            upstream: name.to_owned(),
            protocol,
            passed: passed.collect(),
            taken: found.map(|(_, route)| Taken::new(route, upstream, request)),
        }
    }

    /// Whether the request would reach somebody whichever leg is drawn.
    pub fn is_served(&self) -> bool {
        let drawn = |taken: &Taken| taken.legs.iter().filter(|leg| leg.weight > 0).all(LegView::is_served);
        self.taken.as_ref().is_some_and(drawn)
    }
}

impl Taken {
    fn new(route: &Route, upstream: &Upstream, request: Option<&RequestView<'_>>) -> Self {
        Self {
            route: route.name.clone(),
            tests: request.map(|_| route.matches.to_string()),
            rewritten: request.and_then(|request| route.rewritten(request.path)),
            timeout: route.timeout,
            idle_timeout: route.idle_timeout,
            retry: route.retry.as_ref().map(words::retry),
            headers: words::edits(&route.headers),
            hash: route.hash.iter().map(words::hash).collect(),
            legs: route.legs.iter().map(|leg| LegView::new(leg, upstream)).collect(),
        }
    }
}

impl LegView {
    fn new(leg: &Leg, upstream: &Upstream) -> Self {
        let clusters = || leg.clusters.iter().filter_map(|place| upstream.clusters.get(*place));
        let serving = clusters().position(|cluster| cluster.is_healthy());
        Self {
            name: leg.name.clone(),
            weight: leg.weight,
            headers: words::edits(&leg.headers),
            targets: clusters().enumerate().map(|(at, cluster)| TargetView::new(cluster, serving == Some(at))).collect(),
        }
    }

    /// Whether one of its targets serves.
    pub fn is_served(&self) -> bool {
        self.targets.iter().any(|target| target.serves)
    }
}

impl TargetView {
    fn new(cluster: &Cluster, serves: bool) -> Self {
        Self {
            id: cluster.target.to_string(),
            policy: words::policy(&cluster.balance.policy),
            filter: cluster.subset.filter.clone(),
            only_passing: cluster.subset.only_passing,
            serves,
            endpoints: cluster.endpoints.iter().map(|endpoint| EndpointView::new(endpoint, cluster.subset.only_passing)).collect(),
        }
    }
}

impl EndpointView {
    fn new(endpoint: &Endpoint, only_passing: bool) -> Self {
        let note = match endpoint.health {
            Health::Critical if only_passing => Some("never chosen: a check does not pass, and the subset takes passing instances only"),
            Health::Critical => Some("never chosen: a check is critical"),
            Health::Warning if endpoint.weight == 0 => Some("never chosen: a check warns, and its warning weight is 0"),
            Health::Warning => Some("a check warns: its warning weight holds"),
            Health::Passing if endpoint.weight == 0 => Some("never chosen: its weight is 0"),
            Health::Passing => None,
        };
        Self { id: endpoint.id.clone(), address: endpoint.address.to_string(), weight: endpoint.weight, health: endpoint.health, note }
    }
}

impl fmt::Display for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upstream {} ({})", self.upstream, self.protocol.as_str())?;
        for Passed { route, tests, failed } in &self.passed {
            write!(f, "\n  {route} ({tests}): no match ({failed})")?;
        }
        match &self.taken {
            Some(taken) => taken.fmt(f),
            None => f.write_str("\n  no route takes the request: 404"),
        }
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tests) = &self.tests {
            write!(f, "\n  {} ({tests}): match", self.route)?;
            if let Some(path) = &self.rewritten {
                write!(f, "\n    path rewritten to {path}")?;
            }
            write!(f, "\n    timeout {}, idle timeout {}", words::limit(self.timeout), words::limit(self.idle_timeout))?;
            write!(f, "\n    retries: {}", self.retry.as_deref().unwrap_or("only what is safe to repeat"))?;
            for edit in &self.headers {
                write!(f, "\n    {edit}")?;
            }
            if !self.hash.is_empty() {
                write!(f, "\n    hashed by {}", self.hash.join(", then "))?;
            }
        }
        let whole: u32 = self.legs.iter().map(|leg| leg.weight).sum();
        for leg in &self.legs {
            if self.legs.len() > 1 {
                let share = f64::from(leg.weight) * 100.0 / f64::from(whole.max(1));
                write!(f, "\n  leg {}: {}% of the requests", leg.name, (share * 100.0).round() / 100.0)?;
            }
            leg.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for LegView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for edit in &self.headers {
            write!(f, "\n    {edit}")?;
        }
        for (at, target) in self.targets.iter().enumerate() {
            write!(f, "\n    {} {target}", if at == 0 { "target" } else { "failover" })?;
        }
        if !self.is_served() {
            f.write_str("\n    no healthy upstream: 503")?;
        }
        Ok(())
    }
}

impl fmt::Display for TargetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.id, self.policy)?;
        if !self.filter.is_empty() {
            write!(f, ", subset filter {:?}", self.filter)?;
        }
        write!(f, "{})", if self.only_passing { ", passing instances only" } else { "" })?;
        f.write_str(if self.serves { ": serves now" } else { "" })?;
        if self.endpoints.is_empty() {
            f.write_str("\n      no instances")?;
        }
        for EndpointView { id, address, weight, health, note } in &self.endpoints {
            write!(f, "\n      {id} {address} weight {weight} {}", words::health(*health))?;
            note.iter().try_for_each(|note| write!(f, "; {note}"))?;
        }
        Ok(())
    }
}
