//! What one request carries through the nine steps.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderMap;

use super::{
    connection::Context,
    live::{Live, LiveCluster, Side},
    refusal::Refusal,
};
use crate::{
    model::{
        cluster::Endpoint,
        intention::{Action, Permit},
        listener::Role,
    },
    telemetry::metrics::ActiveRequest,
};

/// Most endpoints that one request is offered to.
pub const ATTEMPTS: usize = 5;

/// The endpoint that a request goes to.
#[derive(Clone)]
pub struct Chosen {
    /// Its cluster; `None` is the local app.
    pub cluster: Option<Arc<LiveCluster>>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
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
    /// The answer's trailers, if the access log wants them.
    pub trailers: Option<HeaderMap>,
    /// From the beginning to the end of the request.
    pub request_time: Option<Duration>,
    /// From the beginning to the head of the answer.
    pub response_time: Option<Duration>,
    /// Counts it as active, for HTTP.
    pub active: Option<ActiveRequest>,
    attempts: usize,
    tried: Vec<Arc<Endpoint>>,
    stale: Vec<Arc<Endpoint>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            wall: SystemTime::now(),
            context: None,
            live: None,
            chosen: None,
            deadline: None,
            handed: None,
            upstream_time: None,
            refusal: None,
            grpc_status: None,
            trailers: None,
            request_time: None,
            response_time: None,
            active: None,
            attempts: 0,
            tried: Vec::new(),
            stale: Vec::new(),
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

    /// authorize: on the inbound side, whether the intentions let the peer through; on the outbound side the far sidecar decides,
    /// and our part is to check its identity at *connect*.
    ///
    /// # Errors
    /// [`Refusal::Denied`].
    pub fn authorize(context: &Context, live: &Live) -> Result<Option<Permit>, Refusal> {
        let Role::Inbound(inbound) = &live.listener.role else { return Ok(None) };
        let verdict = context.authorize(&inbound.intentions);
        match &verdict {
            Ok(_) => live.metrics.decision(Action::Allow, "allowed"),
            Err(denied) => {
                live.metrics.decision(Action::Deny, denied.reason());
                let source = context.peer.as_ref().map(|p| p.id.to_string()).unwrap_or_default();
                tracing::info!(source, destination = %live.listener.service, reason = denied.reason(), "denied: {denied}");
            }
        }
        verdict.map(Some).map_err(Refusal::Denied)
    }

    /// balance: the endpoint for the next attempt.
    ///
    /// # Errors
    /// [`Refusal::NoHealthyEndpoint`] at once when there is none; the last failure when all were tried.
    pub fn choose(&mut self, live: &Live) -> Result<Chosen, Refusal> {
        let found = match (&live.side, &live.listener.role) {
            (Side::Inbound(_), Role::Inbound(inbound)) => Some(Chosen { cluster: None, endpoint: inbound.app.clone() }),
            (Side::Upstream(clusters), _) => self.next(clusters),
            _ => None,
        };
        let chosen = found.ok_or_else(|| self.refusal.clone().unwrap_or(Refusal::NoHealthyEndpoint))?;
        self.attempts += 1;
        self.handed = Some(Instant::now());
        self.chosen = Some(chosen.clone());
        Ok(chosen)
    }

    fn next(&self, clusters: &[Arc<LiveCluster>]) -> Option<Chosen> {
        clusters.iter().find_map(|cluster| {
            let endpoint = cluster.pick(&self.tried)?.clone();
            Some(Chosen { cluster: Some(cluster.clone()), endpoint })
        })
    }

    /// Notes that nothing reached the endpoint chosen last, and tells whether another one is worth a try.
    pub fn unreachable(&mut self, why: Refusal) -> bool {
        if let Some(chosen) = &self.chosen {
            self.tried.push(chosen.endpoint.clone());
        }
        self.refusal = Some(why);
        self.another()
    }

    /// Notes that the endpoint chosen last broke off before it answered. A kept-alive connection may only have been stale: the endpoint
    /// gets a second try then.
    pub fn broke_off(&mut self, reused: bool, why: Refusal) -> bool {
        if let Some(Chosen { endpoint, .. }) = &self.chosen {
            if reused && !self.stale.iter().any(|s| Arc::ptr_eq(s, endpoint)) {
                self.stale.push(endpoint.clone());
            } else {
                self.tried.push(endpoint.clone());
            }
        }
        self.refusal = Some(why);
        self.another()
    }

    fn another(&self) -> bool {
        let there = match self.live.as_ref().map(|l| &l.side) {
            Some(Side::Upstream(clusters)) => self.next(clusters).is_some(),
            Some(Side::Inbound(_)) => self.tried.is_empty(),
            None => false,
        };
        there && self.attempts < ATTEMPTS
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
