//! HTTP/2 requests (H6, H7 of the threat list) on their way to an HTTP/1 backend.

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::backend::unsafe_bytes;
use super::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PADDED, PRIORITY, block, frame, outcome, preface};
use super::{LIMIT, Scene, entries};

type Field = (&'static str, &'static str);

const BASE: [Field; 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// A request in frames.
struct Case {
    name: String,
    bytes: Vec<u8>,
}

fn case(name: impl Into<String>, frames: &[Vec<u8>]) -> Case {
    Case { name: name.into(), bytes: frames.concat() }
}

/// A request in one frame.
fn bare(name: impl Into<String>, fields: &[Field]) -> Case {
    case(name, &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))])
}

/// The plain request with one of its fields changed.
fn changed(name: &'static str, value: &'static str) -> Case {
    let fields = BASE.map(|(field, usual)| (field, if field == name { value } else { usual }));
    bare(format!("{name} = {value:?}"), &fields)
}

/// The plain request with more fields.
fn with(more: &[Field]) -> Case {
    bare(format!("{more:?}"), &[&BASE[..], more].concat())
}

/// A POST with these fields and these pieces of a body.
fn post(more: &[Field], pieces: &[&str]) -> Case {
    let fields = [&[(":method", "POST")], &BASE[1..], more].concat();
    let mut frames = vec![frame(HEADERS, END_HEADERS, 1, &block(&fields))];
    for (at, piece) in pieces.iter().enumerate() {
        frames.push(frame(DATA, if at + 1 == pieces.len() { END_STREAM } else { 0 }, 1, piece.as_bytes()));
    }
    case(format!("{more:?} with {pieces:?}"), &frames)
}

fn refused() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in [
        "",
        "x",
        "svc.S/M",
        "/a b",
        "/a\r\nX: 1",
        "/a\nb",
        "/\0",
        "/\x01",
        "/\x7f",
        "*",
        "?x",
        " /",
        "/ HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled",
    ] {
        cases.push(changed(":path", path));
    }
    for method in ["", "GET /smuggled HTTP/1.1", "G T", "GET\r\n", "G\0", "G\"T", "G:T", "CONNECT"] {
        cases.push(changed(":method", method));
    }
    for scheme in ["", "http://x/?", "ht tp", "http\r\n", "1"] {
        cases.push(changed(":scheme", scheme));
    }
    for authority in ["u@a", "a/b", "a b", "a:1:2", "a\r\nX: 1", "a#b", "a?b", "a\0", "[::1"] {
        cases.push(changed(":authority", authority));
    }
    for value in ["a\r\nX: 1", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7fb", "\r\n", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"] {
        cases.push(with(&[("x", value)]));
    }
    for name in ["X", "Content-Length", "x y", "x:y", "x:", "", "x\0", "x\r\n", "x(", "x\u{e4}", ":x", ":status", ":protocol"] {
        cases.push(with(&[(name, "1")]));
    }
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-forwarded-for"),
        ("keep-alive", "timeout=1"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
        ("host", "b"),
        ("host", "u@a"),
        ("host", "a b"),
    ] {
        cases.push(with(&[(name, value)]));
    }
    cases.push(with(&[("host", "a"), ("host", "a")]));
    for (missing, pseudo) in BASE.iter().copied().enumerate().take(4) {
        let fields: Vec<Field> = BASE.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, field)| *field).collect();
        cases.push(bare(format!("no {}", pseudo.0), &fields));
        cases.push(with(&[pseudo]));
        let late = [&fields[..], &[("x", "1"), pseudo]].concat();
        cases.push(bare(format!("{} after a field", pseudo.0), &late));
    }
    for length in ["5", "+0", "-1", "x", "0,0", "18446744073709551621"] {
        cases.push(with(&[("content-length", length)]));
    }
    cases.push(with(&[("content-length", "0"), ("content-length", "5")]));
    for (length, pieces) in [
        ("5", &["abc"][..]),
        ("5", &["abcdef"]),
        ("5", &["abc", ""]),
        ("0", &["a"]),
        ("5", &["abc", "def"]),
        ("+5", &["abcde"]),
        ("5,5", &["abcde"]),
    ] {
        cases.push(post(&[("content-length", length)], pieces));
    }
    let begin = |fields: &[Field]| frame(HEADERS, END_HEADERS, 1, &block(fields));
    cases.push(case("trailers that do not end", &[begin(&BASE), frame(DATA, 0, 1, b"a"), begin(&[("x", "1")])]));
    cases.push(case("DATA before HEADERS", &[frame(DATA, END_STREAM, 1, b"a")]));
    cases.push(case("HEADERS on stream 0", &[frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(&BASE))]));
    cases.push(case(
        "padding longer than the frame",
        &[frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[255][..], &block(&BASE)].concat())],
    ));
    cases.push(case("a block cut short", &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&BASE)[..20])]));
    cases.push(case("an index that is none", &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&block(&BASE)[..], &[0xff, 0x7f]].concat())]));
    cases
}

fn clean() -> Vec<Case> {
    let mut cases = vec![bare("plain", &BASE)];
    for path in ["/?", "//a", "/a/../b", "/%2e%2e/", "/;x=y", "/?q=http://x/"] {
        cases.push(changed(":path", path));
    }
    for method in ["get", "DELETE", "PROPFIND", "X!#$%&'*+-.^_`|~"] {
        cases.push(changed(":method", method));
    }
    for authority in ["A.EXAMPLE:80", "[::1]:80", "a_b"] {
        cases.push(changed(":authority", authority));
    }
    cases.push(changed(":scheme", "https"));
    for (name, value) in [
        ("x", ""),
        ("x", "a\tb"),
        ("x", "\u{e4}"),
        ("x_y", "1"),
        ("x.y", "1"),
        ("te", "trailers"),
        ("host", "a"),
        ("cookie", "a=b"),
        ("content-length", "0"),
        ("expect", "100-continue"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
    ] {
        cases.push(with(&[(name, value)]));
    }
    cases.push(with(&[("cookie", "a=1"), ("cookie", "b=2")]));
    cases.push(bare("Host alone", &[BASE[0], BASE[1], BASE[2], ("host", "a")]));
    cases.push(post(&[("content-length", "5")], &["hello"]));
    cases.push(post(&[("content-length", "5")], &["he", "llo", ""]));
    cases.push(post(&[], &["hello"]));
    cases.push(post(&[], &["", "hello", ""]));
    cases.push(post(&[], &["GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"]));
    cases.push(post(&[], &["0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"]));
    let fields = block(&BASE);
    cases.push(case("continued", &[frame(HEADERS, END_STREAM, 1, &fields[..10]), frame(CONTINUATION, END_HEADERS, 1, &fields[10..])]));
    cases.push(case("padded", &[frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[3][..], &fields, &[0; 3]].concat())]));
    cases.push(case(
        "with a priority",
        &[frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY, 1, &[&[0, 0, 0, 0, 15][..], &fields].concat())],
    ));
    let dropped = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/smuggled")]));
    cases.push(case(
        "a pseudo header among trailers, dropped",
        &[frame(HEADERS, END_HEADERS, 1, &fields), frame(DATA, 0, 1, b"a"), dropped],
    ));
    cases.push(case(
        "trailers",
        &[
            frame(HEADERS, END_HEADERS, 1, &block(&BASE)),
            frame(DATA, 0, 1, b"hello"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "1"), ("content-length", "7")])),
        ],
    ));
    cases
}

async fn on_all_listeners(what: &str, least: usize, cases: &[Case], wanted: fn(Outcome) -> bool, most: usize) {
    assert!(cases.len() >= least, "{} {what} cases", cases.len());
    let Scene { backend, wire, edge } = Scene::start().await;
    let mut wrong = Vec::new();
    for (side, entry) in entries(&wire, &edge) {
        let before = wrong.len();
        for case in cases {
            backend.clear();
            let mut stream = entry.connect().await;
            let exchange = async {
                let _ = stream.write_all(&[preface(), case.bytes.clone()].concat()).await;
                let _ = stream.flush().await;
                outcome(&mut stream).await
            };
            let ended = timeout(LIMIT, exchange).await;
            if !ended.as_ref().is_ok_and(|ended| wanted(*ended)) {
                wrong.push(format!("{side}: {}: {ended:?}", case.name));
            }
            if let Some(why) = unsafe_bytes(&backend.seen(), most) {
                wrong.push(format!("{side}: {}: UNSAFE: {why}", case.name));
            }
        }
        println!("{what}, {side} listener: {} cases, {} wrong", cases.len(), wrong.len() - before);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_http2_requests_reach_nobody() {
    on_all_listeners("malformed HTTP/2 requests", 60, &refused(), |ended| ended != Outcome::Served, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_http2_requests_are_served() {
    on_all_listeners("clean HTTP/2 requests", 30, &clean(), |ended| ended == Outcome::Served, 1).await;
}
