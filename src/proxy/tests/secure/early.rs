//! Answers that come while the request is still being sent: they arrive whole, and are followed by an end, not by a reset.

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

const CLIENTS: usize = 200;
/// How many of them are there at once.
const AT_ONCE: usize = 40;
/// How much is sent after the answer has begun; it fits into the sockets' buffers.
const LATE: usize = 32 * 1024;
/// What clients are told when the app hangs up.
const HUNG_UP: &str = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";

/// An app that hangs up on whoever asks.
async fn rude_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.read_u8().await;
        }
    });
    address
}

/// What a client gets that goes on sending its body when the answer has begun, and reads that only then.
async fn upload<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<String> {
    let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: {}\r\n\r\nbody", LATE * 4);
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = vec![stream.read_u8().await?];
    stream.write_all(&[b'x'; LATE]).await?;
    stream.flush().await?;
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

/// All of many such clients are told `status`, with `body`.
async fn all_are_told<S: AsyncRead + AsyncWrite + Unpin>(status: u16, body: &str, connect: impl AsyncFn() -> S) {
    let whole = |text: &String| {
        text.starts_with(&format!("HTTP/1.1 {status} "))
            && text.to_lowercase().contains("\r\nconnection: close\r\n")
            && text.ends_with(&format!("\r\n\r\n{body}"))
    };
    let mut wrong = Vec::new();
    for _ in 0..CLIENTS / AT_ONCE {
        // All are connected first: the making of a certificate would hold up those that are answered already.
        let mut clients = Vec::new();
        for _ in 0..AT_ONCE {
            clients.push(connect().await);
        }
        let answers = join_all(clients.into_iter().map(upload)).await;
        wrong.extend(answers.into_iter().filter(|answer| !answer.as_ref().is_ok_and(whole)));
    }
    assert!(wrong.is_empty(), "{} of {CLIENTS}, such as {:?}", wrong.len(), wrong[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_answers_whole() {
    let ca = WebCa::new();
    let setup = secured(rude_app().await, TlsGrade::High, vec![pair(&ca, "a", &["a.test"])]);
    let mut edge = Edge::start(&setup).await;
    for (limit, status, body) in [(None, 503, HUNG_UP), (Some(10), 413, "request body too large\n")] {
        edge.publish(&limited(setup.clone(), limit)).await;
        all_are_told(status, body, async || TcpStream::connect(edge.http).await.unwrap()).await;
        all_are_told(status, body, async || edge.connect("a.test", None).await).await;
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_listener_answers_whole() {
    let mut mesh = Mesh::start(Protocol::Http, rude_app().await).await;
    let caller = id("web").to_string();
    for (policy, status, body) in [(DefaultPolicy::Allow, 503, HUNG_UP), (DefaultPolicy::Deny, 403, "RBAC: access denied")] {
        mesh.policy = policy;
        mesh.publish();
        while !mesh.get().await.starts_with(&format!("HTTP/1.1 {status} ")) {}
        all_are_told(status, body, async || peer(&mesh, &mesh.ca, &[&caller]).await.unwrap()).await;
    }
    mesh.stop().await;
}
