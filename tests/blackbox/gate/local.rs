//! Bodies that nobody reads, since we answer ourselves (F7), and answers that come before the body (F8): no request that hides in one is ever taken for one.

use anyhow::ensure;
use aralez_integration::wait::eventually;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::backend::{Backend, unsafe_bytes};
use super::{Entry, LIMIT};
use crate::support::fake_agent::intention;
use crate::support::mesh::EFFECT;
use crate::support::tls::Client;
use crate::support::wire::Wire;

const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Requests whose body hides another, none of it to be read for an answer.
fn requests(line: &str) -> Vec<String> {
    let (length, more) = (HIDDEN.len(), HIDDEN.len() * 1000);
    let head = |fields: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    vec![
        head(&format!("Content-Length: {length}\r\n")) + HIDDEN,
        head(&format!("Content-Length: {more}\r\n")) + &HIDDEN.repeat(1000),
        head(&format!("Content-Length: {length}\r\nExpect: 100-continue\r\n")) + HIDDEN,
        head("Transfer-Encoding: chunked\r\n") + &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        head("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n") + &format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
        head(&format!("Content-Length: {length}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")) + HIDDEN,
    ]
}

/// Sends a request and nothing more; final answers until the other side closes, or has said nothing for a while.
async fn answers(entry: &Entry<'_>, request: &str) -> Vec<u16> {
    let mut stream = entry.connect().await;
    let mut received = Vec::new();
    let exchange = async {
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.flush().await;
        while timeout(std::time::Duration::from_millis(300), stream.read_buf(&mut received))
            .await
            .is_ok_and(|read| read.is_ok_and(|count| count > 0))
        {}
    };
    timeout(LIMIT, exchange).await.expect("an end");
    let text = String::from_utf8_lossy(&received).into_owned();
    let statuses = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    statuses.filter(|status| *status >= 200).collect()
}

/// Each request gets one answer, `status`, and no byte reaches the backend.
async fn hides_nothing(entry: &Entry<'_>, backend: &Backend, line: &str, status: u16) {
    for request in requests(line) {
        backend.clear();
        assert_eq!(answers(entry, &request).await, [status], "{:.120}", request);
        assert!(backend.seen().is_empty(), "{:.120} reached the backend", request);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_is_no_request() {
    let backend = Backend::start().await;
    let wire = Wire::before(backend.port, "http", json!({})).await;
    hides_nothing(&Entry::Plain(&wire.entry), &backend, "OPTIONS *", 404).await;
    hides_nothing(&Entry::Mutual(&wire.public, &wire.peer), &backend, "OPTIONS *", 404).await;
    hides_nothing(&Entry::Plain(&wire.entry), &backend, "POST x", 400).await;
    hides_nothing(&Entry::Plain(&wire.entry), &backend, "CONNECT /", 405).await;

    wire.agent.set_intentions("api", vec![intention("probe", "api", "deny")]);
    let denied = eventually("the deny", EFFECT, async || {
        ensure!(Client::with(&wire.peer).status(&wire.public).await? == Some(403));
        Ok(())
    });
    denied.await.unwrap();
    hides_nothing(&Entry::Mutual(&wire.public, &wire.peer), &backend, "POST /", 403).await;

    wire.agent.set_instances("api", Vec::new());
    let gone = eventually("no instance", EFFECT, async || {
        ensure!(answers(&Entry::Plain(&wire.entry), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await == [503]);
        Ok(())
    });
    gone.await.unwrap();
    hides_nothing(&Entry::Plain(&wire.entry), &backend, "POST /", 503).await;
}

/// A backend that answers at the head: the body that follows is still a body.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_leaves_no_body_behind() {
    let backend = Backend::start().await;
    let wire = Wire::before(backend.port, "http", json!({})).await;
    for entry in [Entry::Mutual(&wire.public, &wire.peer), Entry::Plain(&wire.entry)] {
        for request in requests("POST /") {
            backend.clear();
            let statuses = answers(&entry, &request).await;
            assert_eq!(statuses, [200], "{:.120}", request);
            assert_eq!(unsafe_bytes(&backend.seen(), 1), None, "{:.120}", request);
        }
    }
}
