//! What one request carries through the nine steps.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderValue;
use pingora_http::RequestHeader;

use super::{
    balance::{hash::request_hash, sticky::Stuck},
    connection::Context,
    edits::Inputs,
    filter::{Filtered, client::Client, jwt::Verified},
    guard::{
        ActiveRequest, NotAdmitted, Outcome,
        breaker::{ConnectionSlot, RequestSlot, RetrySlot},
        retry::{self, Decision},
    },
    live::{Live, LiveCluster, Side},
    record::Notes,
    refusal::Refusal,
    upgrade::Upgrade,
    waiting::Waiting,
};
use crate::{
    model::{
        cluster::Endpoint,
        ingress::IngressRoute,
        intention::{Action, Denied, Verdict},
        listener::{Exposed, Inbound, Role},
        matching::RequestView,
        route::{Leg, Route},
    },
    telemetry::traces::Trace,
};

/// Most endpoints that one request is offered to when its route does not say.
const ATTEMPTS: usize = 5;

/// The endpoint that a request goes to.
#[derive(Clone)]
pub struct Chosen {
    /// Its cluster; `None` is the local app.
    pub cluster: Option<Arc<LiveCluster>>,
    /// Its place in the cluster.
    pub place: usize,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
}

/// The place of a route among those of a listener.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Its own, or on an ingress listener that of the host's path.
    pub route: usize,
    /// On an ingress listener its place among [`IngressRoute::routes`]; elsewhere 0.
    pub further: usize,
}

/// Where a request goes, decided once: places in the routes of the pinned listener.
#[derive(Clone, Copy, Debug, Default)]
struct Routed {
    place: Place,
    leg: usize,
    /// What policies that hash choose by.
    hash: Option<u64>,
    stuck: Stuck,
}

/// How a request goes on to its endpoint.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// Not yet.
    #[default]
    Not,
    /// As frames of HTTP/2.
    Framed,
    /// Through Pingora's pipe to a connection of HTTP/1.
    Piped,
    /// The answer has begun.
    Answered,
}

/// Whether a request, or a connection, could be tried once more.
#[derive(Clone, Copy, Default)]
pub struct Replay {
    /// It can be sent again: all of it is at hand, and nothing of an answer has left.
    pub possible: bool,
    /// Its method may be repeated without harm (RFC 9110, section 9.2.2).
    pub idempotent: bool,
    /// It went over a kept-alive connection, which may only have been stale: the endpoint gets a second chance then.
    pub reused: bool,
}

/// What a request occupies while a try is in flight; given back when it ends, however it ends.
#[derive(Default)]
struct Held {
    request: Option<RequestSlot>,
    connection: Option<ConnectionSlot>,
    active: Option<ActiveRequest>,
    retry: Option<RetrySlot>,
}

/// One request (or one opaque connection) on its way.
pub struct Exchange {
    /// When it began.
    pub begun: Instant,
    /// The same on the wall clock.
    pub wall: SystemTime,
    /// The connection it came on.
    pub context: Option<Arc<Context>>,
    /// The listener, pinned: one request never sees two snapshots.
    pub live: Option<Arc<Live>>,
    /// Who the client is, as the ingress role found it.
    pub client: Option<Client>,
    /// What the filters of the ingress role know of it.
    pub filtered: Filtered,
    /// The endpoint chosen last.
    pub chosen: Option<Chosen>,
    /// When the answer must be complete.
    pub deadline: Option<Instant>,
    /// When the request was handed to the endpoint.
    pub handed: Option<Instant>,
    /// From then to the head of the answer.
    pub upstream_time: Option<Duration>,
    /// Why it was not served, if it was not.
    pub refusal: Option<Refusal>,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u16>,
    /// The connection to the endpoint, where the request asks for a WebSocket.
    pub upgrade: Option<Arc<Upgrade>>,
    /// Interim answers so far.
    pub interim: u8,
    /// How far the present try is.
    pub forwarding: Forwarding,
    /// The wrapper around the client's stream, where there is one.
    pub waiting: Option<Arc<Waiting>>,
    /// Its part in a trace, if it takes one.
    pub trace: Option<Trace>,
    /// What else is for the record.
    pub notes: Notes,
    /// The tokens that it carries, on a listener whose intentions ask for some.
    pub tokens: Verified,
    routed: Option<Routed>,
    /// Cookies that the hash policies made for the caller.
    made_cookies: Vec<HeaderValue>,
    /// Tries so far.
    attempts: usize,
    /// Tries that the route's policy asked for.
    repeated: u32,
    tried: Vec<Arc<Endpoint>>,
    stale: Vec<Arc<Endpoint>>,
    pause: bool,
    held: Held,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            wall: SystemTime::now(),
            context: None,
            live: None,
            client: None,
            filtered: Filtered::default(),
            chosen: None,
            deadline: None,
            handed: None,
            upstream_time: None,
            refusal: None,
            grpc_status: None,
            upgrade: None,
            interim: 0,
            forwarding: Forwarding::Not,
            waiting: None,
            trace: None,
            notes: Notes::default(),
            tokens: Verified::default(),
            routed: None,
            made_cookies: Vec::new(),
            attempts: 0,
            repeated: 0,
            tried: Vec::new(),
            stale: Vec::new(),
            pause: false,
            held: Held::default(),
        }
    }
}

impl Exchange {
    /// Pins the listener that the connection belongs to.
    pub fn pin(&mut self, context: &Arc<Context>) -> Arc<Live> {
        let live = context.live.load_full();
        self.context = Some(context.clone());
        self.live = Some(live.clone());
        live
    }

    /// route: on the outbound side the first route that takes the request, and one of its legs by weight. An opaque connection has no
    /// `request` and takes the first route.
    ///
    /// # Errors
    /// [`Refusal::NoRoute`]; [`Refusal::NoHealthyEndpoint`] when nobody behind the leg is healthy.
    pub fn route(&mut self, live: &Live, request: Option<&RequestView<'_>>) -> Result<(), Refusal> {
        let Role::Upstream(upstream) = &live.listener.role else { return Ok(()) };
        let first = || upstream.routes.routes.first().map(|route| (0, route));
        let (place, route) = request.map_or_else(first, |request| upstream.routes.route(request)).ok_or(Refusal::NoRoute)?;
        self.take(live, Place { route: place, further: 0 }, route, request);
        self.has_endpoint(live)
    }

    /// Notes the route at `place`, draws one of its legs by weight, and finds what the request is hashed by and whom its sticky cookie names.
    pub fn take(&mut self, live: &Live, place: Place, route: &Route, request: Option<&RequestView<'_>>) {
        let mut routed = Routed { place, leg: route.leg(fastrand::u32(..)), ..Routed::default() };
        let leg = route.legs.get(routed.leg);
        if let Some(request) = request {
            if !route.hash.is_empty() {
                let client = match &self.client {
                    Some(client) => client.address,
                    None => self.context.as_ref().and_then(|c| c.remote).map(|remote| remote.ip()),
                };
                let made = request_hash(&route.hash, request, client, fastrand::u64(..));
                routed.hash = made.hash;
                self.made_cookies = made.set_cookies;
            }
            routed.stuck = live.clusters(leg).next().map(|cluster| cluster.stuck(request)).unwrap_or_default();
        }
        self.routed = Some(routed);
    }

    /// Whether anybody behind the leg that was taken is healthy.
    ///
    /// # Errors
    /// [`Refusal::NoHealthyEndpoint`].
    pub fn has_endpoint(&self, live: &Live) -> Result<(), Refusal> {
        let leg = self.taken(live).map(|(_, leg)| leg);
        if live.clusters(leg).any(|cluster| cluster.has_endpoint()) { Ok(()) } else { Err(Refusal::NoHealthyEndpoint) }
    }

    /// The route and the leg that were taken; `None` on the inbound side of the mesh.
    pub fn taken<'a>(&self, live: &'a Live) -> Option<(&'a Route, &'a Leg)> {
        let Routed { place: Place { route, further }, leg, .. } = self.routed?;
        let route = match &live.listener.role {
            Role::Upstream(upstream) => upstream.routes.routes.get(route)?,
            Role::Ingress(ingress) => ingress.routing.routes.get(route)?.routes().get(further)?,
            Role::Inbound(_) | Role::Exposed(_) => return None,
        };
        Some((route, route.legs.get(leg)?))
    }

    /// The route that was taken on an ingress listener.
    pub fn ingress_route<'a>(&self, live: &'a Live) -> Option<&'a IngressRoute> {
        let Role::Ingress(ingress) = &live.listener.role else { return None };
        ingress.routing.routes.get(self.routed?.place.route)
    }

    /// authorize: on the inbound side, whether the intentions let the peer (with this request) through; on the outbound side the far sidecar decides,
    /// and our part is to check its identity at *connect*.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn authorize(&mut self, context: &Context, live: &Live, request: Option<&RequestView<'_>>) -> Result<(), Refusal> {
        let (Role::Inbound(inbound), Side::App(app)) = (&live.listener.role, &live.side) else { return Ok(()) };
        if let Some(request) = request
            && !inbound.providers.is_empty()
        {
            self.tokens = app.tokens.verify(&inbound.providers, request, self.wall);
        }
        let outcome = match (context.judge(&inbound.intentions), request) {
            (Verdict::Permit(permit), _) => Ok(permit),
            (Verdict::Denied(denied), _) => Err(denied),
            (Verdict::PerRequest(conditions), Some(request)) => conditions.authorize(request, &self.tokens),
            (Verdict::PerRequest(conditions), None) => Err(Denied::NeedsRequest(conditions.intention().clone())),
        };
        match outcome {
            Ok(permit) => {
                live.metrics.allowed();
                app.hits.count(permit.decider().rule(), Action::Allow);
                Ok(())
            }
            Err(denied) => {
                let decider = denied.to_string();
                live.metrics.denied(denied.reason(), &decider);
                app.hits.count(denied.rule(), Action::Deny);
                let source = context.peer.as_ref().map(|p| p.id.to_string()).unwrap_or_default();
                let tokens = self.tokens.problems();
                tracing::info!(source, destination = %live.listener.service, reason = denied.reason(), tokens, "denied: {decider}");
                Err(Refusal::Denied(denied))
            }
        }
    }

    /// balance: the endpoint for the next try, admitted under its cluster's limits.
    ///
    /// # Errors
    /// [`Refusal::NoHealthyEndpoint`] when there is none, the last failure when all were tried; [`Refusal::Overflow`], and [`Refusal::Timeout`] for
    /// whoever waited for its turn until its deadline.
    pub async fn choose(&mut self, live: &Live) -> Result<Chosen, Refusal> {
        self.held = Held { retry: self.held.retry.take(), ..Held::default() };
        if std::mem::take(&mut self.pause) {
            let nth = u32::try_from(self.attempts).unwrap_or(u32::MAX);
            tokio::time::sleep(retry::backoff(nth, fastrand::f64())).await;
        }
        let chosen = match (&live.side, &live.listener.role) {
            (Side::App(_), Role::Inbound(Inbound { app, .. }) | Role::Exposed(Exposed { app, .. })) => {
                Some(Chosen { cluster: None, place: 0, endpoint: app.clone() })
            }
            (Side::Upstream(_) | Side::Ingress(_), _) => self.next(live),
            _ => None,
        };
        let chosen = chosen.ok_or_else(|| self.refusal.clone().unwrap_or(Refusal::NoHealthyEndpoint))?;
        if let Some(cluster) = &chosen.cluster {
            self.admit(cluster).await?;
            self.held.active = cluster.endpoints.get(chosen.place).cloned().map(ActiveRequest::new);
        }
        self.attempts += 1;
        self.handed = Some(Instant::now());
        self.chosen = Some(chosen.clone());
        Ok(chosen)
    }

    /// A place under the cluster's limits. An HTTP/1 request has a connection for itself and waits for one; HTTP/2 requests share theirs.
    async fn admit(&mut self, cluster: &LiveCluster) -> Result<(), Refusal> {
        let (breaker, limits, protocol) = (&cluster.state.breaker, &cluster.cluster.limits, cluster.cluster.protocol);
        if !protocol.is_http() {
            self.held.connection = Some(breaker.connection(limits).map_err(Refusal::Overflow)?);
        } else if protocol.is_http2() {
            self.held.request = Some(breaker.request(limits).map_err(Refusal::Overflow)?);
        } else {
            let slot = breaker.exclusive_request(limits, self.deadline.map(Into::into)).await;
            self.held.request = Some(slot.map_err(|refused| match refused {
                NotAdmitted::Overflow(overflow) => Refusal::Overflow(overflow),
                NotAdmitted::Deadline => Refusal::Timeout,
            })?);
        }
        Ok(())
    }

    fn next(&self, live: &Live) -> Option<Chosen> {
        let ((_, leg), routed) = (self.taken(live)?, self.routed?);
        live.clusters(Some(leg)).enumerate().find_map(|(at, cluster)| {
            // A sticky cookie speaks of the endpoints of the cluster that is meant to serve, not of those it fails over to.
            let stuck = if at == 0 { routed.stuck } else { Stuck { place: None, ..routed.stuck } };
            let place = cluster.pick(routed.hash, stuck, &self.tried)?;
            let endpoint = cluster.cluster.endpoints.get(place)?.clone();
            Some(Chosen { cluster: Some(cluster.clone()), place, endpoint })
        })
    }

    /// Notes how the last try ended, and tells whether another one is worth it. `why` is what the client is told if not.
    pub fn ended(&mut self, outcome: Outcome, why: Option<Refusal>, replay: Replay) -> bool {
        let (Some(live), Some(chosen)) = (self.live.clone(), self.chosen.clone()) else { return false };
        if let Some(cluster) = &chosen.cluster {
            cluster.report(chosen.place, outcome).into_iter().for_each(|cause| live.metrics.ejected(cause.as_str()));
        }
        if let Some(why) = why {
            self.refusal = Some(why);
        }
        let again = if replay.possible { self.again(&live, &chosen, outcome, replay) } else { Err("not_replayable") };
        let (endpoint, tries) = (&chosen.endpoint.address, self.attempts);
        match again {
            Ok(why) => tracing::debug!(%endpoint, tries, ?outcome, why, "the request is tried again"),
            Err("answered") => {}
            Err(why) => tracing::debug!(%endpoint, tries, ?outcome, why, "the failure stands"),
        }
        again.is_ok()
    }

    /// Prepares another try, or does not; why, in stable words for the log.
    fn again(&mut self, live: &Live, chosen: &Chosen, outcome: Outcome, replay: Replay) -> Result<&'static str, &'static str> {
        let policy = self.taken(live).and_then(|(route, _)| route.retry.as_ref());
        let (why, by_policy, budgeted, pause) = match retry::decide(policy, self.repeated, outcome, replay.idempotent) {
            Decision::Repeat { why, by_policy, budgeted, pause } => (why, by_policy, budgeted, pause),
            Decision::Stop(why) => return Err(why),
        };
        let second_chance = replay.reused && outcome == Outcome::Reset && !self.stale.iter().any(|s| Arc::ptr_eq(s, &chosen.endpoint));
        if second_chance {
            self.stale.push(chosen.endpoint.clone());
        } else {
            self.tried.push(chosen.endpoint.clone());
        }
        let more = match &live.side {
            // The app is the only endpoint of its side: a second try makes sense only if the connection was stale.
            Side::App(_) => second_chance,
            Side::Upstream(_) | Side::Ingress(_) => by_policy || (self.attempts < ATTEMPTS && self.next(live).is_some()),
        };
        if !more {
            return Err("no_other_endpoint");
        }
        if budgeted && let Some(cluster) = &chosen.cluster {
            self.held.retry = None;
            self.held.retry = cluster.state.breaker.retry(&cluster.cluster.limits);
            if self.held.retry.is_none() {
                return Err("retry_budget");
            }
        }
        if by_policy {
            self.repeated += 1;
            self.pause = pause;
            if self.next(live).is_none() {
                // The policy asks for tries, not for endpoints: whoever was tried may be asked again.
                self.tried.clear();
            }
        }
        Ok(why)
    }

    /// What header values are made of. `status` is the answer's; 0 is for the request.
    pub fn inputs<'a>(&'a self, request: &'a RequestHeader, route: &'a Route, status: u16) -> Inputs<'a> {
        let context = self.context.as_deref();
        let chosen = self.chosen.as_ref();
        Inputs {
            request,
            remote: context.and_then(|c| c.remote),
            local: context.and_then(|c| c.local),
            peer: context.and_then(|c| c.peer.as_ref()).map(|p| &p.id),
            server_name: context.and_then(|c| c.server_name.as_deref()),
            start: self.wall,
            route: Some(&route.name),
            cluster: chosen.and_then(|c| c.cluster.as_ref()).map(|c| &*c.cluster.target.0),
            upstream: chosen.filter(|_| status > 0).map(|c| &c.endpoint.address),
            status,
        }
    }

    /// Cookies that the answer has to carry, so that the caller's next request goes to the same endpoint.
    pub fn cookies(&mut self) -> Vec<HeaderValue> {
        let mut cookies = std::mem::take(&mut self.made_cookies);
        if let Some(Chosen { cluster: Some(cluster), place, .. }) = &self.chosen {
            let secure = self.client.as_ref().is_some_and(|client| client.https);
            cookies.extend(cluster.sticky_cookie(self.routed.map(|r| r.stuck).unwrap_or_default(), *place, secure));
        }
        cookies
    }

    /// How many endpoints it was offered to.
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.attempts).unwrap_or(u32::MAX)
    }

    /// How often it was offered again after a failure.
    pub fn retries(&self) -> usize {
        self.attempts.saturating_sub(1)
    }
}
