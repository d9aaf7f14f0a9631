//! Apps that answer in bytes written by the test, behind two sidecars.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ca::Leaf;
use super::fake_agent::{FakeAgent, Sidecar, upstream};
use super::mesh::{announce, web};
use super::sidecar::{Aralez, Launch};

/// What a [`WireApp`] does after a request's head.
pub enum Reply {
    /// Answers in these bytes and takes the next request.
    Stay(Vec<u8>),
    /// Answers and closes.
    Close(Vec<u8>),
    /// Answers, and closes once the connection has been idle for so long.
    CloseAfter(Vec<u8>, Duration),
    /// Says nothing and keeps the connection.
    Silence,
}

/// An HTTP/1.1 app whose answers follow from the request's head alone; bodies are read over.
pub struct WireApp {
    /// Where it listens.
    pub port: u16,
    requests: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl WireApp {
    /// Listens on a free port.
    pub async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> WireApp {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, answer) = (Arc::new(AtomicU64::new(0)), Arc::new(answer));
        let count = Arc::clone(&requests);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (count, answer) = (Arc::clone(&count), Arc::clone(&answer));
                serving.spawn(async move { drop(converse(stream, &count, &*answer).await) });
            }
        });
        WireApp { port, requests, _accepting: accepting }
    }

    /// Heads received so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn converse(mut stream: TcpStream, count: &AtomicU64, answer: &(dyn Fn(&str) -> Reply + Send + Sync)) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = received.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = received.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while received.len() < length {
            if stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        received.drain(..length);
        count.fetch_add(1, Ordering::SeqCst);
        match answer(&head) {
            Reply::Stay(bytes) => stream.write_all(&bytes).await?,
            Reply::Close(bytes) => return stream.write_all(&bytes).await,
            Reply::CloseAfter(bytes, idle) => {
                stream.write_all(&bytes).await?;
                match tokio::time::timeout(idle, stream.read_buf(&mut received)).await {
                    Ok(read) => drop(read?),
                    Err(_) => return Ok(()),
                }
            }
            Reply::Silence => while stream.read_buf(&mut received).await? > 0 {},
        }
    }
}

/// Two sidecars before an app that is only a port.
pub struct Wire {
    /// The agent of both.
    pub agent: FakeAgent,
    /// `web`'s listener for `api`.
    pub entry: Address,
    /// `api`'s public listener.
    pub public: Address,
    /// A peer that may call `api`.
    pub peer: Leaf,
    /// The sidecar that listens for the client.
    pub web: Aralez,
    _api: Aralez,
}

impl Wire {
    /// `settings` are added to the `Config` of the registration of `api`.
    pub async fn before(app_port: u16, protocol: &'static str, settings: Value) -> Wire {
        let agent = FakeAgent::start().await;
        let api_sidecar = Sidecar {
            service: "api".to_owned(),
            service_id: "api-1".to_owned(),
            public_port: free_port().unwrap(),
            app_port,
            protocol,
            upstreams: Vec::new(),
        };
        announce(&agent, &api_sidecar);
        agent.edit_registration(&api_sidecar.proxy_id(), |service| {
            let config = service["Proxy"]["Config"].as_object_mut().unwrap();
            config.extend(settings.as_object().cloned().unwrap_or_default());
        });
        let entry = free_port().unwrap();
        agent.register(&web(vec![upstream("api", entry, protocol)]));
        let peer = agent.reissue_leaf("probe");
        let _api = Launch::sidecar_for(&agent, "api-1").start().await;
        let web = Launch::sidecar_for(&agent, "web-1").arg("-log-level").arg("debug").start().await;
        let public = Address::port(api_sidecar.public_port);
        Wire { agent, entry: Address::port(entry), public, peer, web, _api }
    }
}
