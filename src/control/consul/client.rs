//! Asks the agent one question at a time, over TCP, TLS or a Unix socket.
//!
//! # Connections
//! An agent allows 200 connections per client address (`limits.http_max_conns_per_client`), shared by all sidecars of a
//! host; over plain HTTP/1.1 every held query takes one. A sidecar therefore holds 4 (registration, leaf, roots,
//! intentions), 1 for the token issuers if an intention asks for tokens, 1 for each upstream's chain and 1 for each distinct set of instances, and uses one or two more in passing:
//! 6 + 2 for each target of its upstreams at most. What changes rarely is polled instead ([`super::mesh`],
//! [`super::default_policy`]). Over HTTPS all share one HTTP/2 connection.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use consul_api_types::{Blocking, Meta, Method, Query, Tenancy};
use parking_lot::Mutex;
use reqwest::{
    RequestBuilder, Response,
    header::{HeaderMap, HeaderValue},
    redirect,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    address::{self, ConfigProblem},
    error::{BODY_LIMIT, Error, chain, excerpt, transport},
};
use crate::{config::agent::AgentConfig, model::secret::Secret};

/// How long the agent may hold a query unless configured otherwise: Consul's own default.
const WAIT: Duration = Duration::from_secs(300);

/// How long an answer may take beside the time it is held; signing a first leaf is the slowest.
const MARGIN: Duration = Duration::from_secs(15);

/// How often the token file is looked at by a question that the agent refused.
const TOKEN_LOOK: Duration = Duration::from_millis(500);

/// The shortest time between two returns of the agent.
const BETWEEN_RECOVERIES: Duration = Duration::from_secs(5);

/// From where on a query asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// What is there now, without waiting; `consistent`, see `caught_up.rs`.
    #[default]
    Now,
    /// Held until the index is past this one.
    Index(u64),
    /// Held until the content's hash differs from this one.
    Hash(String),
}

/// An answer of the agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What its headers say.
    pub meta: Meta,
    /// What it holds; `None` when the agent says that there is no such thing.
    pub value: Option<T>,
}

/// A client of one agent, or of several that know the same: the next is asked when one does not answer, as if the one had been restarted. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Client {
    first: Arc<Agent>,
    others: Arc<[Arc<Agent>]>,
    shared: Arc<Shared>,
}

/// How an agent is asked.
#[derive(Debug)]
struct Agent {
    http: reqwest::Client,
    base: String,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    auth: Option<Secret>,
    tenancy: Tenancy,
    wait: Duration,
    advice: Option<String>,
}

/// What is known of the agents that are asked.
#[derive(Debug, Default)]
struct Shared {
    /// The place of the agent that is asked: 0 is the first.
    asked: AtomicUsize,
    /// Agents in a row that did not answer.
    silent: watch::Sender<usize>,
    outage: Mutex<Outage>,
    recoveries: watch::Sender<u64>,
}

/// Whether the agent ever answered, whether it was silent since it was last told to be back, and when that was.
#[derive(Debug, Default)]
struct Outage {
    answered: bool,
    lost: bool,
    told: Option<Instant>,
}

impl Client {
    /// A client for the configured agent; nothing is asked yet.
    ///
    /// Neither proxies of the environment nor redirects are followed: they would carry the token elsewhere.
    ///
    /// # Errors
    /// [`ConfigProblem`] when an address, certificate or key cannot be used.
    pub fn new(config: AgentConfig) -> Result<Self, ConfigProblem> {
        let target = address::target(&config)?;
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(2)
            .tcp_keepalive(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(MARGIN)
            .user_agent(concat!("aralez/", env!("CARGO_PKG_VERSION")));
        let http = address::configure(&config, &target, builder)?.build();
        let http = http.map_err(|e| ConfigProblem { setting: "CONSUL_HTTP_ADDR", why: chain(&e) })?;
        let tenancy = Tenancy { namespace: config.namespace.unwrap_or_default(), partition: config.partition.unwrap_or_default() };
        let agent = Agent {
            http,
            base: target.base,
            token: config.token,
            token_file: config.token_file,
            auth: config.auth,
            tenancy,
            wait: config.wait.unwrap_or(WAIT),
            advice: config.advice,
        };
        Ok(Self { first: Arc::new(agent), others: Arc::default(), shared: Arc::default() })
    }

    /// A client of all these agents; none without any.
    pub fn of_any(clients: &[Self]) -> Option<Self> {
        let (first, others) = clients.split_first()?;
        let others = others.iter().map(|client| client.first.clone()).collect();
        Some(Self { first: first.first.clone(), others, shared: Arc::default() })
    }

    /// The agent at a place.
    fn agent(&self, place: usize) -> &Agent {
        place.checked_sub(1).and_then(|other| self.others.get(other)).unwrap_or(&self.first)
    }

    /// Waits until every agent was asked in vain since one answered last.
    pub async fn silent(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.shared.silent.subscribe().wait_for(|silent| *silent > self.others.len()).await;
    }

    /// Namespace and partition of the service, as configured.
    pub fn tenancy(&self) -> &Tenancy {
        &self.first.tenancy
    }

    /// Changes when the agent answers again after a silence or a broken connection: it may have been restarted.
    pub fn recoveries(&self) -> watch::Receiver<u64> {
        self.shared.recoveries.subscribe()
    }

    /// Ends once the token file holds another token than now; never without one. What was refused is then worth asking again.
    pub async fn token_changed(&self) {
        let agent = self.agent(self.shared.asked.load(Relaxed));
        if agent.token_file.is_none() {
            return std::future::pending().await;
        }
        let before = agent.token().await.ok();
        while agent.token().await.ok() == before {
            sleep(TOKEN_LOOK).await;
        }
    }

    /// Asks a question; held by the agent if `at` names a position.
    ///
    /// # Errors
    /// [`Error`]. A hung agent is a [`Error::Timeout`] once the hold, the sixteenth that Consul adds to it, and 15 s are over.
    pub async fn send<Q: Query>(&self, query: &Q, at: &At) -> Result<Answer<Q::Reply>, Error> {
        let place = self.shared.asked.load(Relaxed);
        let agent = self.agent(place);
        let mut answer = agent.ask(query, at).await;
        match &mut answer {
            Err(Error::Connect(why)) => {
                let answered = self.lost(place);
                // A connection that there never was may be for want of an address.
                if let Some(advice) = agent.advice.as_ref().filter(|_| !answered) {
                    *why = format!("{why}; {advice}");
                }
            }
            Err(Error::Broken(_) | Error::Timeout(_)) => drop(self.lost(place)),
            Ok(_) => self.recovered(),
            Err(_) => {}
        }
        answer
    }

    /// Notes that the agent at a place did not answer, and turns to the next, unless another question did so meanwhile. Gives whether one ever answered.
    fn lost(&self, place: usize) -> bool {
        let next = (place + 1) % (self.others.len() + 1);
        if self.shared.asked.compare_exchange(place, next, Relaxed, Relaxed).is_ok() {
            self.shared.silent.send_modify(|silent| *silent += 1);
        }
        let mut outage = self.shared.outage.lock();
        outage.lost = true;
        outage.answered
    }

    /// Tells of the agent's return. Not twice in quick succession: if only some connections break, again and again, those
    /// who are woken must not keep waking each other.
    fn recovered(&self) {
        self.shared.silent.send_if_modified(|silent| std::mem::take(silent) > 0);
        let mut outage = self.shared.outage.lock();
        outage.answered = true;
        if outage.lost && outage.told.is_none_or(|told| told.elapsed() >= BETWEEN_RECOVERIES) {
            (outage.lost, outage.told) = (false, Some(Instant::now()));
            self.shared.recoveries.send_modify(|count| *count += 1);
        }
    }
}

impl Agent {
    async fn ask<Q: Query>(&self, query: &Q, at: &At) -> Result<Answer<Q::Reply>, Error> {
        let wait = self.wait;
        let (position, limit) = match at {
            At::Now => (("consistent", String::new()), MARGIN),
            At::Index(index) => (("index", index.to_string()), wait + wait / 16 + MARGIN),
            At::Hash(hash) => (("hash", hash.clone()), wait + wait / 16 + MARGIN),
        };
        let mut params = query.params();
        params.push(position);
        if *at != At::Now {
            params.push(("wait", format!("{}ms", wait.as_millis())));
        }
        let token = self.token().await?;
        let request = self.request(query, &params, token.as_ref())?;
        let response = request.timeout(limit).send().await.map_err(|e| transport(&e, limit))?;
        let status = response.status().as_u16();
        let meta = meta(response.headers());
        let body = body(response, limit).await?;
        if status == 200 {
            let value = query.decode(&body).map_err(|e| Error::Decode(format!("{}: {e}", query.path())))?;
            return Ok(Answer { meta, value: Some(value) });
        }
        let text = excerpt(&body, token.as_ref());
        if status == 404 && is_absence(query, &meta, &text) {
            return Ok(Answer { meta, value: None });
        }
        Err(Error::Status { status, text })
    }

    fn request<Q: Query>(&self, query: &Q, params: &[(&str, String)], token: Option<&Secret>) -> Result<RequestBuilder, Error> {
        let method = match query.method() {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
        };
        let mut url = reqwest::Url::parse(&format!("{}{}", self.base, query.path())).map_err(|e| Error::Connect(e.to_string()))?;
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        let mut request = self.http.request(method, url);
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose()).map_err(|_| self.bad_token("it holds a character that no token has"))?;
            value.set_sensitive(true);
            request = request.header("x-consul-token", value);
        }
        if let Some(auth) = &self.auth {
            let (user, password) = auth.expose().split_once(':').unwrap_or((auth.expose(), ""));
            request = request.basic_auth(user, Some(password));
        }
        if let Some(body) = query.body() {
            request = request.json(&body);
        }
        Ok(request)
    }

    /// The token to send. Its file is read for every question: a few bytes, and no rotation is ever missed.
    async fn token(&self) -> Result<Option<Secret>, Error> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let text = tokio::fs::read_to_string(path).await.map_err(|e| self.bad_token(e))?;
        match text.trim() {
            "" => Err(self.bad_token("it is empty")),
            token => Ok(Some(Secret::new(token))),
        }
    }

    fn bad_token(&self, why: impl ToString) -> Error {
        let path = self.token_file.as_ref().map_or_else(|| "(none)".to_owned(), |path| path.display().to_string());
        Error::TokenFile { path, why: why.to_string() }
    }
}

/// Whether a 404 says that there is no such thing, rather than that nobody knows the path (a wrong address prefix, say).
fn is_absence<Q: Query>(query: &Q, meta: &Meta, text: &str) -> bool {
    match query.blocking() {
        Blocking::Index => query.absent_is_value() && meta.index.is_some(),
        Blocking::None => query.absent_is_value(),
        // `unknown service ID: …`, the agent's answer for a registration that it does not have (any more).
        Blocking::Hash => text.to_ascii_lowercase().contains("unknown service id"),
    }
}

fn meta(headers: &HeaderMap) -> Meta {
    Meta::read(|name| headers.get(name)?.to_str().ok())
}

async fn body(mut response: Response, limit: Duration) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| transport(&e, limit))? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(Error::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
