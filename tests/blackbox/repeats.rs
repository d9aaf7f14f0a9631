//! Which failed tries are repeated: whatever was certainly not processed, for every method; and what is not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aralez_integration::clients::{self, GrpcCall, HttpClient};
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use openssl::ssl::Ssl;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_openssl::SslStream;

use crate::support::ca::{Leaf, LeafRequest};
use crate::support::fake_agent::Instance;
use crate::support::mesh::{EFFECT, Mesh};
use crate::support::tls::listen;
use crate::support::wire::{Reply, Wire, WireApp};

/// What an [`Odd`] server sends when a request's head has come.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// RST_STREAM with REFUSED_STREAM (RFC 9113, section 8.7).
    Refused,
    /// GOAWAY without error, whose last stream is none (section 6.8).
    Leaving,
    /// DATA on stream 0, which is a connection error (section 6.1).
    Nonsense,
    /// RST_STREAM with INTERNAL_ERROR: it may have been processed.
    Broken,
}

impl Answer {
    fn frame(self, stream: [u8; 4]) -> Vec<u8> {
        let frame = |kind: u8, stream: [u8; 4], payload: &[u8]| {
            [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, 0][..], &stream, payload].concat()
        };
        match self {
            Answer::Refused => frame(3, stream, &7u32.to_be_bytes()),
            Answer::Broken => frame(3, stream, &2u32.to_be_bytes()),
            Answer::Leaving => frame(7, [0; 4], &[0; 8]),
            Answer::Nonsense => frame(0, [0; 4], b"x"),
        }
    }
}

/// An HTTP/2 server by hand with a valid leaf, which serves nobody.
struct Odd {
    port: u16,
    requests: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl Odd {
    async fn start(leaf: &Leaf, answer: Answer) -> Odd {
        let (listener, acceptor) = listen(leaf, b"\x02h2").await;
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&requests);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
                let count = Arc::clone(&count);
                serving.spawn(async move {
                    if Pin::new(&mut stream).accept().await.is_ok() {
                        drop(serve(stream, answer, &count).await);
                    }
                });
            }
        });
        Odd { port, requests, _accepting: accepting }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: SslStream<tokio::net::TcpStream>, answer: Answer, count: &AtomicU64) -> std::io::Result<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ACKNOWLEDGED: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&SETTINGS).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tokio::io::copy(&mut (&mut stream).take(length.into()), &mut tokio::io::sink()).await?;
        match (head[3], head[4] & 1) {
            (4, 0) => stream.write_all(&ACKNOWLEDGED).await?,
            (1, _) => {
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(&answer.frame([head[5], head[6], head[7], head[8]])).await?;
            }
            _ => {}
        }
        stream.flush().await?;
    }
}

/// A mesh whose `api` has two instances: an odd one and the echo.
async fn beside(answer: Answer, protocol: &'static str) -> (Mesh, Odd) {
    let mesh = Mesh::start(protocol).await;
    let signer = mesh.agent.signer();
    let odd = Odd::start(&signer.issue(&LeafRequest::new(signer.service_uri("api"), 900), ""), answer).await;
    mesh.agent.set_instances("api", vec![mesh.instance(), Instance::new("odd", odd.port)]);
    (mesh, odd)
}

/// Posts until the odd instance was asked, and then a few times more; the statuses.
async fn posts(mesh: &Mesh, odd: &Odd) -> Vec<u16> {
    let mut client = HttpClient::http2(&mesh.entry).await.unwrap();
    let begun = std::time::Instant::now();
    let (mut statuses, mut after) = (Vec::new(), 0);
    while after < 6 {
        assert!(begun.elapsed() < EFFECT * 5, "the odd instance was not asked");
        statuses.push(client.post("/echo", "body").await.unwrap().status.as_u16());
        after += usize::from(odd.requests() > 0);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_was_refused_unprocessed_goes_to_the_next_endpoint() {
    for answer in [Answer::Refused, Answer::Leaving] {
        let (mesh, odd) = beside(answer, "http2").await;
        let statuses = posts(&mesh, &odd).await;
        assert!(statuses.iter().all(|status| *status == 200), "{answer:?}: {statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_that_was_refused_unprocessed_goes_to_the_next_endpoint() {
    let (mesh, odd) = beside(Answer::Refused, "grpc").await;
    let begun = std::time::Instant::now();
    while odd.requests() < 2 {
        assert!(begun.elapsed() < EFFECT * 5, "the odd instance was not asked");
        let call = GrpcCall::open(&mesh.entry, "/echo.Echo/Unary").await.unwrap();
        call.send(b"one").await.unwrap();
        let (messages, trailers) = call.finish().await.unwrap();
        assert_eq!((messages.len(), trailers["grpc-status"].to_str().unwrap()), (1, "0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_may_have_been_processed_is_not_repeated() {
    for answer in [Answer::Nonsense, Answer::Broken] {
        let (mesh, odd) = beside(answer, "http2").await;
        let statuses = posts(&mesh, &odd).await;
        let failed = statuses.iter().filter(|status| [502, 503].contains(*status)).count() as u64;
        let served = statuses.iter().filter(|status| **status == 200).count() as u64;
        assert_eq!(failed, odd.requests(), "{answer:?}: each of its requests failed, {statuses:?}");
        assert_eq!(served, mesh.app.requests(), "{answer:?}: and went to nobody else, {statuses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_served_after_the_app_closed_its_idle_connection() {
    let idle = Duration::from_millis(50);
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let app = WireApp::start(move |_| Reply::CloseAfter(ok.to_vec(), idle)).await;
    let wire = Wire::before(app.port, "http", json!({})).await;
    let mut client = HttpClient::http1(&wire.entry).await.unwrap();
    for round in 0..5 {
        assert_eq!(client.post("/", "body").await.unwrap().status, 200, "round {round}");
        tokio::time::sleep(idle * 6).await;
    }
    assert_eq!(app.requests(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_a_try_was_repeated_or_not() {
    let app = WireApp::start(|_| Reply::Close(Vec::new())).await;
    let wire = Wire::before(app.port, "http", json!({})).await;
    wire.agent.set_instances("api", vec![Instance::new("dead", free_port().unwrap())]);
    let dead = eventually("a dead endpoint", EFFECT, async || {
        let answer = clients::get(&wire.entry, "/").await?;
        anyhow::ensure!(answer.text().ends_with("remote connection failure"), "{}", answer.text());
        Ok(())
    });
    dead.await.unwrap();
    wire.web.logged("no_other_endpoint", EFFECT).await;
}
