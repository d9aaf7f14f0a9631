//! Asks the agent one question at a time, over TCP, TLS or a Unix socket.
//!
//! # Connections
//! An agent allows 200 connections per client address (`limits.http_max_conns_per_client`), shared by all sidecars of a
//! host; over plain HTTP/1.1 every held query takes one. A sidecar therefore holds 4 (registration, leaf, roots,
//! intentions), 1 for the token issuers if an intention asks for tokens, 1 for each upstream's chain and 1 for each distinct set of instances, and uses one or two more in passing:
//! 6 + 2 for each target of its upstreams at most. What changes rarely is polled instead ([`super::mesh`],
//! [`super::default_policy`]). Over HTTPS all share one HTTP/2 connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

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

/// A client of one agent; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    http: reqwest::Client,
    base: String,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    auth: Option<Secret>,
    tenancy: Tenancy,
    wait: Duration,
    outage: Mutex<Outage>,
    recoveries: watch::Sender<u64>,
}

/// Whether the agent was silent since it was last told to be back, and when that was.
#[derive(Debug, Default)]
struct Outage {
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
        let shared = Shared {
            http,
            base: target.base,
            token: config.token,
            token_file: config.token_file,
            auth: config.auth,
            tenancy,
            wait: config.wait.unwrap_or(WAIT),
            outage: Mutex::default(),
            recoveries: watch::Sender::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Namespace and partition of the service, as configured.
    pub fn tenancy(&self) -> &Tenancy {
        &self.shared.tenancy
    }

    /// Changes when the agent answers again after a silence or a broken connection: it may have been restarted.
    pub fn recoveries(&self) -> watch::Receiver<u64> {
        self.shared.recoveries.subscribe()
    }

    /// Ends once the token file holds another token than now; never without one. What was refused is then worth asking again.
    pub async fn token_changed(&self) {
        if self.shared.token_file.is_none() {
            return std::future::pending().await;
        }
        let before = self.token().await.ok();
        while self.token().await.ok() == before {
            sleep(TOKEN_LOOK).await;
        }
    }

    /// Asks a question; held by the agent if `at` names a position.
    ///
    /// # Errors
    /// [`Error`]. A hung agent is a [`Error::Timeout`] once the hold, the sixteenth that Consul adds to it, and 15 s are over.
    pub async fn send<Q: Query>(&self, query: &Q, at: &At) -> Result<Answer<Q::Reply>, Error> {
        let answer = self.ask(query, at).await;
        match &answer {
            Err(Error::Connect(_) | Error::Broken(_) | Error::Timeout(_)) => self.shared.outage.lock().lost = true,
            Ok(_) => self.recovered(),
            Err(_) => {}
        }
        answer
    }

    /// Tells of the agent's return. Not twice in quick succession: if only some connections break, again and again, those
    /// who are woken must not keep waking each other.
    fn recovered(&self) {
        let mut outage = self.shared.outage.lock();
        if outage.lost && outage.told.is_none_or(|told| told.elapsed() >= BETWEEN_RECOVERIES) {
            *outage = Outage { lost: false, told: Some(Instant::now()) };
            self.shared.recoveries.send_modify(|count| *count += 1);
        }
    }

    async fn ask<Q: Query>(&self, query: &Q, at: &At) -> Result<Answer<Q::Reply>, Error> {
        let wait = self.shared.wait;
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
        let mut url = reqwest::Url::parse(&format!("{}{}", self.shared.base, query.path())).map_err(|e| Error::Connect(e.to_string()))?;
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
        let mut request = self.shared.http.request(method, url);
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose()).map_err(|_| self.bad_token("it holds a character that no token has"))?;
            value.set_sensitive(true);
            request = request.header("x-consul-token", value);
        }
        if let Some(auth) = &self.shared.auth {
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
        let Some(path) = &self.shared.token_file else { return Ok(self.shared.token.clone()) };
        let text = tokio::fs::read_to_string(path).await.map_err(|e| self.bad_token(e))?;
        match text.trim() {
            "" => Err(self.bad_token("it is empty")),
            token => Ok(Some(Secret::new(token))),
        }
    }

    fn bad_token(&self, why: impl ToString) -> Error {
        let path = self.shared.token_file.as_ref().map_or_else(|| "(none)".to_owned(), |path| path.display().to_string());
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
mod tests {

    use consul_api_types::{AgentServiceById, Authorize, ConfigEntry, IntentionMatch, Mesh, Roots};
    use tokio::sync::Notify;

    use super::{
        super::testing::{Agent, Reply, config},
        *,
    };

    fn plain(status: u16, text: &str) -> Reply {
        Reply::Now(status, vec![("content-type", "text/plain".to_owned())], text.to_owned())
    }

    async fn answering(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> (Agent, Client) {
        let agent = Agent::start(move |_| {
            let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            Reply::Now(status, headers, body.to_owned())
        });
        let agent = agent.await;
        let client = Client::new(AgentConfig { token: Some(Secret::new("s3cret")), ..config(&agent.address) }).unwrap();
        (agent, client)
    }

    fn web() -> AgentServiceById {
        AgentServiceById { id: "web/1".to_owned(), ..AgentServiceById::default() }
    }

    #[tokio::test]
    async fn a_question_is_sent_with_its_position_token_and_body() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        let agent = Agent::start(move |question| {
            notes.lock().push(question.clone());
            plain(500, "")
        });
        let agent = agent.await;
        let address = format!("http://{}/behind/", agent.address);
        let client = AgentConfig { token: Some(Secret::new("s3cret")), wait: Some(Duration::from_secs(90)), ..config(&address) };
        let client = Client::new(client).unwrap();
        let authorize = Authorize { target: "web".into(), client_cert_uri: "spiffe://x".into(), client_cert_serial: String::new() };
        let _ = client.send(&web(), &At::Hash("a b".to_owned())).await;
        let _ = client.send(&IntentionMatch::default(), &At::Index(7)).await;
        let _ = client.send(&authorize, &At::Now).await;
        let seen = seen.lock();
        assert_eq!(seen[0].line, "GET /behind/v1/agent/service/web%2F1");
        assert_eq!((seen[0].params["hash"].as_str(), seen[0].params["wait"].as_str()), ("a b", "90000ms"));
        assert_eq!((seen[1].params["index"].as_str(), seen[1].params["by"].as_str()), ("7", "destination"));
        assert!(seen[2].line.starts_with("POST ") && seen[2].body.contains("spiffe://x"));
        assert!(seen[2].params.keys().eq(["consistent"]) && !seen[1].params.contains_key("consistent"));
        assert!(seen.iter().all(|question| question.token.as_deref() == Some("s3cret")));
    }

    #[tokio::test]
    async fn an_answer_comes_with_its_headers() {
        let (_agent, client) = answering(200, &[("X-Consul-Index", "42")], r#"{"TrustDomain": "td.consul"}"#).await;
        let answer = client.send(&Roots, &At::Now).await.unwrap();
        assert_eq!((answer.meta.index, answer.value.unwrap().trust_domain.as_str()), (Some(42), "td.consul"));
    }

    #[tokio::test]
    async fn an_error_is_told_in_short_and_without_the_token() {
        let (_agent, client) = answering(403, &[], "Permission denied:\n token s3cret lacks service:read").await;
        let error = client.send(&Roots, &At::Now).await.unwrap_err();
        assert_eq!(error.to_string(), "the agent answered 403: Permission denied: token <redacted> lacks service:read");
        assert!(!format!("{client:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn a_404_is_absence_only_where_the_agent_says_so() {
        let mesh = ConfigEntry::<Mesh>::new("mesh", Tenancy::default());
        let (_agent, client) = answering(404, &[("X-Consul-Index", "3")], "Config entry not found").await;
        assert_eq!(client.send(&mesh, &At::Now).await.unwrap().value, None);
        assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::Status { status: 404, .. })));
        let (_agent, client) = answering(404, &[], "404 page not found").await;
        assert!(matches!(client.send(&mesh, &At::Now).await, Err(Error::Status { status: 404, .. })));
        assert!(matches!(client.send(&web(), &At::Now).await, Err(Error::Status { status: 404, .. })));
        let (_agent, client) = answering(404, &[], "unknown service ID: web/1. Ensure that the service ID is passed").await;
        assert_eq!(client.send(&web(), &At::Now).await.unwrap().value, None);
    }

    #[tokio::test]
    async fn an_unreadable_answer_and_a_redirect_are_errors() {
        let (_agent, client) = answering(200, &[], "<html>").await;
        let Err(Error::Decode(why)) = client.send(&Roots, &At::Now).await else { panic!("it was read") };
        assert!(why.contains("/v1/agent/connect/ca/roots"), "{why}");
        let (_agent, client) = answering(301, &[("Location", "http://192.0.2.1/")], "").await;
        assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::Status { status: 301, .. })));
    }

    #[tokio::test]
    async fn a_hung_agent_is_noticed() {
        let asked = Arc::new(Notify::new());
        let notify = asked.clone();
        let agent = Agent::start(move |_| {
            notify.notify_one();
            Reply::Held
        });
        let agent = agent.await;
        let client = Client::new(config(&agent.address)).unwrap();
        let question = tokio::spawn(async move { client.send(&Roots, &At::Index(7)).await });
        asked.notified().await;
        tokio::time::pause();
        let limit = WAIT + WAIT / 16 + MARGIN;
        assert_eq!(question.await.unwrap().unwrap_err(), Error::Timeout(limit));
    }

    #[tokio::test]
    async fn the_token_file_wins_and_is_read_again() {
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let notes = tokens.clone();
        let agent = Agent::start(move |question| {
            notes.lock().push(question.token.clone().unwrap_or_default());
            plain(200, "{}")
        });
        let agent = agent.await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let client = AgentConfig { token: Some(Secret::new("other")), token_file: Some(file.path().to_owned()), ..config(&agent.address) };
        let client = Client::new(client).unwrap();
        for token in ["first\n", "second"] {
            std::fs::write(file.path(), token).unwrap();
            client.send(&Roots, &At::Now).await.unwrap();
        }
        for unusable in ["", "to\u{7f}ken"] {
            std::fs::write(file.path(), unusable).unwrap();
            assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::TokenFile { .. })));
        }
        let waiting = tokio::spawn(async move { client.token_changed().await });
        while !waiting.is_finished() {
            std::fs::write(file.path(), format!("third-{}", fastrand::u64(..))).unwrap();
            tokio::time::sleep(TOKEN_LOOK).await;
        }
        assert_eq!(*tokens.lock(), ["first", "second"]);
    }

    #[tokio::test]
    async fn a_unix_socket_is_dialled_and_the_agents_return_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("consul.sock");
        let client = Client::new(config(&format!("unix://{}", socket.display()))).unwrap();
        let recoveries = client.recoveries();
        assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::Connect(_))));
        let _agent = Agent::start_unix(&socket, |_| plain(200, "{}"));
        assert!(!recoveries.has_changed().unwrap());
        client.send(&Roots, &At::Now).await.unwrap();
        assert!(recoveries.has_changed().unwrap());
    }
}
