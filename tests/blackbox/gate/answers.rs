//! Evil backends (F13): what they answer never reaches another client, and their connections are not used again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aralez_integration::net::Stream;
use openssl::ssl::Ssl;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::{Entry, Scene, entries};
use crate::ingress::Setup;
use crate::support::wire::Wire;
use aralez_integration::web_pki::{Pair, WebCa, acceptor};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(4);

/// What the client of a case gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// 502 or 503.
    Refused,
    /// The head, and then the connection breaks before the body is complete.
    Broken,
    /// A complete answer of this status with this body.
    Clean(u16, &'static str),
}

/// A backend's answer to one request.
struct Case {
    name: String,
    method: &'static str,
    answer: Vec<u8>,
    /// Whether it closes after it.
    closes: bool,
    expect: Expect,
}

use Expect::{Broken, Clean, Refused};

fn case(name: impl Into<String>, answer: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name: name.into(), method: "GET", answer: answer.into(), closes: false, expect }
}

fn closing(name: &str, answer: &str, expect: Expect) -> Case {
    Case { closes: true, ..case(name, answer, expect) }
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in ["+5", "-1", "0x5", "0_5", "5,5", "5, 5", "5,6", "5 5", "5.0", "", "18446744073709551621", "five", "5\u{665}"] {
        cases.push(case(format!("length {length:?}"), format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello"), Refused));
    }
    for (first, second) in [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0"), ("5", "+5")] {
        cases.push(case(
            format!("lengths {first} and {second}"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: {first}\r\nContent-Length: {second}\r\n\r\nhello"),
            Refused,
        ));
    }
    for coding in [
        "gzip",
        "xchunked",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "chunked, chunked",
        "chunked,",
        "",
        "\"chunked\"",
        "chunked;a",
    ] {
        cases.push(case(format!("coding {coding:?}"), format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"), Refused));
    }
    for second in ["chunked", "identity", "gzip"] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: {second}\r\n\r\n0\r\n\r\n");
        cases.push(case(format!("codings chunked and {second}"), answer, Refused));
    }
    cases.push(case("HTTP/1.0 in chunks", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused));
    for line in [
        "",
        "HTTP/1.1",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 abc OK",
        "HTTP/2.0 200 OK",
        "HTTP/0.9 200 OK",
        "ICY 200 OK",
        "hello",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 -20 OK",
    ] {
        cases.push(closing(&format!("line {line:?}"), &format!("{line}\r\nContent-Length: 0\r\n\r\n"), Refused));
    }
    for field in ["X", ": 1", "X: a\0b", "X: a\x01b", "X: a\x7fb", "X\0: 1", "X(: 1", "X\u{e4}: 1"] {
        cases.push(case(format!("field {field:?}"), format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 5\r\n\r\nhello"), Refused));
    }
    cases.push(case("a folded field, unfolded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", Clean(200, "hello")));
    cases.push(case("a long head", format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(100_000)), Refused));
    cases.push(case("a head without end", format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2 << 20)), Refused));
    cases.push(case("many fields", format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: 1\r\n".repeat(10_000)), Refused));
    cases.push(case("interim answers without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1_000), Refused));
    cases.push(case(
        "interim answers, and an answer",
        format!("{}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3)),
        Clean(200, "hello"),
    ));
    cases.push(case(
        "a 101 that nobody asked for",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        Refused,
    ));
    cases.push(case(
        "such a 101 with a tail",
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n{POISON}"),
        Refused,
    ));
    for body in [
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "g\r\n",
        "5\r\nhelloX",
        "5\r\nhello\n",
        "5\nhello\r\n",
        "-1\r\n",
        "10000000000000000005\r\nhello\r\n",
        "5\r\nhello\r\n\r\n",
        "0\r\n\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        cases.push(closing(&format!("chunks {body:?}"), &answer, Broken));
    }
    cases.push(closing("a body shorter than its length", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", Broken));
    cases.push(closing("chunks without end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Broken));
    cases.push(closing("nothing", "", Refused));
    cases.push(closing("half a head", "HTTP/1.1 200 OK\r\nX: ", Refused));
    let tails = [POISON, "garbage", "\r\n", "HTTP/1.1 500 Oops\r\n\r\n"];
    for tail in tails {
        let more = |head: &str| format!("{head}\r\n\r\n{tail}");
        cases.push(case(format!("length, then {tail:?}"), more("HTTP/1.1 200 OK\r\nContent-Length: 0"), Clean(200, "")));
        cases.push(case(
            format!("chunks, then {tail:?}"),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{tail}"),
            Clean(200, "hello"),
        ));
        cases.push(case(format!("204, then {tail:?}"), more("HTTP/1.1 204 No Content"), Clean(204, "")));
        cases.push(case(
            format!("204 with a length, then {tail:?}"),
            more("HTTP/1.1 204 No Content\r\nContent-Length: 500"),
            Clean(204, ""),
        ));
        cases.push(case(
            format!("204 in chunks, then {tail:?}"),
            more("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked"),
            Clean(204, ""),
        ));
        cases.push(case(format!("304, then {tail:?}"), more("HTTP/1.1 304 Not Modified"), Clean(304, "")));
        let head_only =
            Case { method: "HEAD", ..case(format!("HEAD, then {tail:?}"), more("HTTP/1.1 200 OK\r\nContent-Length: 500"), Clean(200, "")) };
        cases.push(head_only);
    }
    // RFC 9112, section 6.3: the coding counts, and the length is dropped before anybody sees it. The client gets one clean answer.
    for both in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"] {
        cases.push(case(both, format!("HTTP/1.1 200 OK\r\n{both}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), Clean(200, "abc")));
        cases.push(case(format!("{both}, then more"), format!("HTTP/1.1 200 OK\r\n{both}\r\n\r\n0\r\n\r\n{POISON}"), Clean(200, "")));
    }
    cases
}

/// A backend that answers `/evil/N` as case N says, and anything else with its own path; over TLS with this certificate.
async fn evil(cases: Arc<Vec<Case>>, pair: Option<&Pair>) -> (u16, JoinSet<()>) {
    let acceptor = pair.map(acceptor);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (cases, acceptor) = (cases.clone(), acceptor.clone());
            serving.spawn(async move {
                let stream: Stream = match acceptor {
                    None => Box::new(stream),
                    Some(acceptor) => {
                        let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
                        if Pin::new(&mut stream).accept().await.is_err() {
                            return;
                        }
                        Box::new(stream)
                    }
                };
                drop(converse(stream, &cases).await);
            });
        }
    });
    (port, accepting)
}

async fn converse(mut stream: Stream, cases: &[Case]) -> std::io::Result<()> {
    let (mut pending, mut spoilt) = (Vec::new(), false);
    loop {
        let end = loop {
            if let Some(at) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut pending).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8(pending.drain(..end).collect()).unwrap();
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path.strip_prefix("/evil/").map(|number| &cases[number.parse::<usize>().unwrap()]) {
            Some(case) => {
                spoilt = !matches!(case.expect, Clean(..)) || case.answer.ends_with(POISON.as_bytes());
                stream.write_all(&case.answer).await?;
                stream.flush().await?;
                if case.closes {
                    return Ok(());
                }
            }
            None => {
                let body = if spoilt { "a spoilt connection was used again" } else { path };
                stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
                stream.flush().await?;
            }
        }
    }
}

/// An answer as a client sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    body: String,
    complete: bool,
}

/// Reads one answer.
async fn read(stream: &mut Stream, head_only: bool) -> Option<Seen> {
    let mut received = Vec::new();
    let answer = async {
        loop {
            if let Some(seen) = parse(&received, head_only).filter(|seen| seen.complete) {
                return Some(seen);
            }
            if !stream.read_buf(&mut received).await.is_ok_and(|read| read > 0) {
                return parse(&received, head_only);
            }
        }
    };
    timeout(LIMIT, answer).await.unwrap_or(Some(Seen { status: 0, body: "neither an answer nor the end".to_owned(), complete: false }))
}

fn parse(received: &[u8], head_only: bool) -> Option<Seen> {
    let text = String::from_utf8_lossy(received);
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status: u16 = head.get(9..12)?.parse().ok()?;
    if status / 100 == 1 {
        return parse(rest.as_bytes(), head_only);
    }
    let field =
        |name: &str| head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(|value| value.trim().to_owned()));
    let (body, complete) = if head_only || matches!(status, 204 | 304) {
        (String::new(), true)
    } else if let Some(length) = field("content-length:").map(|length| length.parse::<usize>().unwrap()) {
        (rest.get(..length).unwrap_or(rest).to_owned(), rest.len() >= length)
    } else {
        let mut body = String::new();
        let mut left = rest;
        loop {
            let Some((size, after)) = left.split_once("\r\n") else { break (body, false) };
            let Some(data) = usize::from_str_radix(size, 16).ok().and_then(|size| after.get(..size)) else { break (body, false) };
            if data.is_empty() {
                break (body, after.starts_with("\r\n"));
            }
            body += data;
            let Some(next) = after.get(data.len() + 2..) else { break (body, false) };
            left = next;
        }
    };
    Some(Seen { status, body, complete })
}

fn request(method: &str, path: &str, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{close}\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn evil_answers_reach_no_other_client() {
    let cases = Arc::new(cases());
    assert!(cases.len() >= 60, "{}", cases.len());
    let (port, _backend) = evil(cases.clone(), None).await;
    let (wire, edge) = Scene::before(port).await;
    let ca = WebCa::new();
    let (secure_port, _secure_backend) = evil(cases.clone(), Some(&ca.issue(&["127.0.0.1"]))).await;
    let upstreams = format!(
        "upstreams: {{DEFAULT: {{paths: {{/: {{servers: ['https://127.0.0.1:{secure_port}'], tls_ca: root.pem, healthcheck: false}}}}}}}}\n"
    );
    let over_tls = Setup::new(&upstreams).file("root.pem", ca.root_pem()).start().await;
    let mut wrong = Vec::new();
    for (side, entry) in entries(&wire, &edge).into_iter().chain([("ingress, TLS to servers", Entry::Plain(&over_tls.http))]) {
        let before = wrong.len();
        for (number, case) in cases.iter().enumerate() {
            let mut stream = entry.connect().await;
            stream.write_all(&request(case.method, &format!("/evil/{number}"), false)).await.unwrap();
            stream.flush().await.unwrap();
            let seen = read(&mut stream, case.method == "HEAD").await;
            let right = match (case.expect, &seen) {
                (Refused, Some(seen)) => matches!(seen.status, 502 | 503),
                (Broken, Some(seen)) => seen.status == 200 && !seen.complete || matches!(seen.status, 502 | 503),
                (Clean(status, body), Some(seen)) => seen.complete && seen.status == status && seen.body == body,
                (Broken, None) => true,
                _ => false,
            };
            if !right {
                wrong.push(format!("{side}: {}: {:?} instead of {:?}", case.name, seen, case.expect));
            }
            // The next two clients get their own answers.
            for next in 0..2 {
                let path = format!("/next/{number}/{next}");
                let mut stream = entry.connect().await;
                stream.write_all(&request("GET", &path, true)).await.unwrap();
                stream.flush().await.unwrap();
                let seen = read(&mut stream, false).await;
                if seen.as_ref().is_none_or(|seen| seen.status != 200 || seen.body != path) {
                    wrong.push(format!("{side}: after {}: UNSAFE: {seen:?}", case.name));
                }
            }
        }
        println!("evil answers, {side} listener: {} cases, {} wrong", cases.len(), wrong.len() - before);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A backend that says something more once its answer was taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_kept_connection_says_unasked_is_nobodys_answer() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _backend = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await? == 0 {
                        return Ok(());
                    }
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown").await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
                stream.write_all(POISON.as_bytes()).await?;
                stream.read_buf(&mut head).await.map(drop)
            });
        }
    });
    let wire = Wire::before(port, "http", json!({})).await;
    for round in 0..50 {
        let mut stream = Entry::Mutual(&wire.public, &wire.peer).connect().await;
        stream.write_all(&request("GET", "/", true)).await.unwrap();
        stream.flush().await.unwrap();
        let seen = read(&mut stream, false).await.expect("an answer");
        assert!(seen.body == "own" || seen.status == 503, "round {round}: {seen:?}");
        // Long enough for what is unasked to arrive.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}
