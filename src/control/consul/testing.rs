//! An agent for the tests of this room: it answers what a closure says, and holds what the closure holds.

use std::{collections::HashMap, convert::Infallible, path::Path, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};

use crate::config::agent::AgentConfig;

/// A question as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method and path, for example `GET /v1/agent/services`.
    pub line: String,
    /// Query parameters.
    pub params: HashMap<String, String>,
    /// `X-Consul-Token`.
    pub token: Option<String>,
    /// The body.
    pub body: String,
}

/// What becomes of a question.
pub enum Reply {
    /// Answered: status, headers, body.
    Now(u16, Vec<(&'static str, String)>, String),
    /// Held until [`Agent::change`], then asked again.
    Held,
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A running agent; it ends when it is dropped.
pub struct Agent {
    /// As `CONSUL_HTTP_ADDR` has it.
    pub address: String,
    changes: watch::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Agent {
    /// On a free port of loopback.
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let listener = Arc::new(listener);
        Self::serve(address, handler, move || {
            let listener = listener.clone();
            async move { listener.accept().await.unwrap().0 }
        })
    }

    /// On a Unix socket.
    pub fn start_unix(path: &Path, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let listener = Arc::new(listener);
        Self::serve(format!("unix://{}", path.display()), handler, move || {
            let listener = listener.clone();
            async move { listener.accept().await.unwrap().0 }
        })
    }

    fn serve<I, A>(
        address: String,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        accept: impl Fn() -> A + Send + 'static,
    ) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Future<Output = I> + Send,
    {
        let (changes, mut tasks) = (watch::Sender::new(()), JoinSet::new());
        let (handler, changed): (Handler, _) = (Arc::new(handler), changes.subscribe());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                connections.spawn(connection(accept().await, handler.clone(), changed.clone()));
            }
        });
        Self { address, changes, _tasks: tasks }
    }

    /// Asks the closure again about everything that is held.
    pub fn change(&self) {
        self.changes.send_replace(());
    }
}

/// A configuration with this address.
pub fn config(address: &str) -> AgentConfig {
    AgentConfig { address: address.to_owned(), ssl_verify: true, ..AgentConfig::default() }
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin, handler: Handler, changed: watch::Receiver<()>) {
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, mut changed) = (handler.clone(), changed.clone());
        async move {
            let seen = read(request).await;
            loop {
                changed.mark_unchanged();
                match handler(&seen) {
                    Reply::Held => changed.changed().await.unwrap(),
                    Reply::Now(status, headers, body) => {
                        let mut response = Response::builder().status(status);
                        for (name, value) in headers {
                            response = response.header(name, value);
                        }
                        return Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap());
                    }
                }
            }
        }
    });
    // A client that goes away is the end of a connection, not an error of the test.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

async fn read(request: Request<Incoming>) -> Seen {
    let url = reqwest::Url::parse(&format!("http://agent{}", request.uri())).unwrap();
    let line = format!("{} {}", request.method(), url.path());
    let params = url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
    let token = request.headers().get("x-consul-token").map(|token| token.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Seen { line, params, token, body: String::from_utf8(body.to_vec()).unwrap() }
}
