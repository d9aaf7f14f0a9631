//! The strict gate against a corpus: requests that two servers could read in two ways never reach a backend, clean ones all do, and evil answers never reach
//! the next client.

mod answers;
mod backend;
mod bodies;
mod frames;
mod http1;
mod http2;
mod local;
mod log;

use std::time::Duration;

use aralez_integration::net::{Address, Stream};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::backend::{Backend, unsafe_bytes};
use crate::ingress::Edge;
use crate::support::ca::Leaf;
use crate::support::tls::Client;
use crate::support::wire::Wire;

/// Longest wait for an answer or an end.
const LIMIT: Duration = Duration::from_secs(10);

/// What becomes of the bytes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// An answer of 400 or above and the end of the connection; nothing reaches the backend but, at most, clean parts of requests.
    Refused,
    /// So many answers of 200.
    Served(usize),
}

/// Bytes that a client sends, and what becomes of them.
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

impl Case {
    pub fn refused(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Case {
        Case { name: name.into(), bytes: bytes.into(), expect: Expect::Refused }
    }

    pub fn served(name: impl Into<String>, bytes: impl Into<Vec<u8>>, answers: usize) -> Case {
        Case { name: name.into(), bytes: bytes.into(), expect: Expect::Served(answers) }
    }
}

/// A listener under test, and how to speak to it.
pub enum Entry<'a> {
    /// In clear.
    Plain(&'a Address),
    /// Over mTLS, as this peer.
    Mutual(&'a Address, &'a Leaf),
}

impl Entry<'_> {
    pub async fn connect(&self) -> Stream {
        match self {
            Entry::Plain(address) => address.connect().await.unwrap(),
            Entry::Mutual(address, leaf) => Box::new(Client::with(leaf).connect(address).await.unwrap()),
        }
    }
}

/// What a corpus came to.
#[derive(Debug, Default)]
pub struct Figures {
    pub cases: usize,
    pub refused: usize,
    pub served: usize,
    /// One line for each case that did not end as it must.
    pub wrong: Vec<String>,
}

/// Sends each case on a connection of its own; `backend` stands behind the listener.
pub async fn run(entry: &Entry<'_>, backend: &Backend, cases: &[Case]) -> Figures {
    let mut figures = Figures { cases: cases.len(), ..Figures::default() };
    for case in cases {
        backend.clear();
        let outcome = match case.expect {
            Expect::Refused => refused(entry, &case.bytes).await.map(|()| figures.refused += 1),
            Expect::Served(answers) => served(entry, &case.bytes, answers).await.map(|()| figures.served += 1),
        };
        let (seen, most) = (backend.seen(), if let Expect::Served(answers) = case.expect { answers } else { 1 });
        let outcome = outcome.and_then(|()| unsafe_bytes(&seen, most).map_or(Ok(()), |why| Err(format!("UNSAFE: {why}"))));
        if let Err(why) = outcome {
            figures.wrong.push(format!("{}: {why}", case.name));
        }
    }
    figures
}

async fn refused(entry: &Entry<'_>, bytes: &[u8]) -> Result<(), String> {
    let mut stream = entry.connect().await;
    let mut received = Vec::new();
    let exchange = async {
        // A refusal may come before all is sent.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {}
    };
    let closed = timeout(LIMIT, exchange).await.is_ok();
    let text = String::from_utf8_lossy(&received);
    let statuses = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse::<u16>().ok());
    let last = statuses.last();
    match last {
        _ if !closed => Err(format!("the connection stayed open after {text:?}")),
        Some(400..) => Ok(()),
        _ => Err(format!("answered {text:?}")),
    }
}

async fn served(entry: &Entry<'_>, bytes: &[u8], answers: usize) -> Result<(), String> {
    let mut stream = entry.connect().await;
    let mut received = Vec::new();
    let complete = |received: &[u8]| {
        let text = String::from_utf8_lossy(received);
        text.matches(" 200 OK\r\n").count() == answers && text.matches("\r\n\r\n").count() >= answers
    };
    let exchange = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        while !complete(&received) && stream.read_buf(&mut received).await? > 0 {}
        std::io::Result::Ok(())
    };
    let ended = timeout(LIMIT, exchange).await;
    match complete(&received) {
        true => Ok(()),
        false => Err(format!("{ended:?} after {:?}", String::from_utf8_lossy(&received))),
    }
}

/// The three kinds of HTTP listeners, each before the same backend: that of a service, that of its caller, and that of the reverse proxy.
pub struct Scene {
    pub backend: Backend,
    pub wire: Wire,
    pub edge: Edge,
}

impl Scene {
    pub async fn start() -> Scene {
        let backend = Backend::start().await;
        let (wire, edge) = Scene::before(backend.port).await;
        Scene { backend, wire, edge }
    }

    /// The listeners before another backend.
    pub async fn before(port: u16) -> (Wire, Edge) {
        let wire = Wire::before(port, "http", json!({})).await;
        let upstreams =
            format!("provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: ['127.0.0.1:{port}'], healthcheck: false}}\n");
        (wire, Edge::start(&upstreams).await)
    }
}

/// The listeners, by name.
pub fn entries<'a>(wire: &'a Wire, edge: &'a Edge) -> [(&'static str, Entry<'a>); 3] {
    [("public", Entry::Mutual(&wire.public, &wire.peer)), ("upstream", Entry::Plain(&wire.entry)), ("ingress", Entry::Plain(&edge.http))]
}

/// Runs a corpus against each kind of listener, prints the figures, and fails if any case ended wrongly.
pub async fn on_all_listeners(what: &str, least: usize, cases: &[Case]) {
    assert!(cases.len() >= least, "{} {what} cases", cases.len());
    let scene = Scene::start().await;
    let mut wrong = Vec::new();
    for (side, entry) in entries(&scene.wire, &scene.edge) {
        let figures = run(&entry, &scene.backend, cases).await;
        let bad = figures.wrong.len();
        println!("{what}, {side} listener: {} cases, {} refused, {} served, {bad} wrong", figures.cases, figures.refused, figures.served);
        wrong.extend(figures.wrong.into_iter().map(|line| format!("{side}: {line}")));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
