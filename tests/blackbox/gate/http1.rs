//! HTTP/1 heads (F1–F4, F6, F8–F12 of the threat list): 250 refused and more, and the odd but legal ones that pass.

use super::{Case, on_all_listeners};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Lengths that are none.
const LENGTHS: [&str; 24] = [
    "+5",
    "-1",
    "0x5",
    "0_5",
    "5_0",
    "5,5",
    "5, 5",
    "5,6",
    "5 5",
    "5.0",
    "5e0",
    "",
    "18446744073709551621",
    "99999999999999999999",
    "\u{665}",
    "5;",
    "\"5\"",
    "5\0",
    "\x0b5",
    "5\x0c",
    "NaN",
    "-0",
    "+0",
    "5\t5",
];

/// Codings that are not the one.
const CODINGS: [&str; 26] = [
    "xchunked",
    "chunkedx",
    "chunked, identity",
    "identity, chunked",
    "chunked,",
    ",chunked",
    "chunked, chunked",
    "gzip, chunked",
    "chunked, gzip",
    "gzip",
    "identity",
    "",
    "cow",
    "\"chunked\"",
    "'chunked'",
    "chunked;q=1",
    "chunked;",
    "\x0bchunked",
    "chunked\x0c",
    "chunked\0",
    "chunked chunked",
    "chun\tked",
    "chunked\u{a0}",
    "x, chunked",
    "trailers",
    "*",
];

const HOSTS: [&str; 20] = [
    "t@evil", "t/evil", "t:1:2", "t:x", "t:123456", "t:-1", "t:+80", "a b", "a\tb", "a?b", "a#b", "[::1", "::1]", "[::1]x", "[g]", "a\\b",
    "a<b>", "http://a", "a\"b", "a^b",
];

/// First lines that are none.
const LINES: [&str; 44] = [
    "GET",
    "GET /",
    "GET / ",
    " GET / HTTP/1.1",
    "\tGET / HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET / HTTP/1.1 ",
    "GET\t/ HTTP/1.1",
    "GET /\tHTTP/1.1",
    "GET /x y HTTP/1.1",
    "GET /x\ty HTTP/1.1",
    "GET /\0 HTTP/1.1",
    "GET /\x01 HTTP/1.1",
    "GET /\x1b[0m HTTP/1.1",
    "GET /\r/ HTTP/1.1",
    "GET /\x7f HTTP/1.1",
    "GET /p#frag HTTP/1.1",
    "GET /# HTTP/1.1",
    "G(T / HTTP/1.1",
    "G\"T / HTTP/1.1",
    "G/T / HTTP/1.1",
    "G\u{e4}T / HTTP/1.1",
    "G\0T / HTTP/1.1",
    "GET * HTTP/1.1",
    "OPTIONS *x HTTP/1.1",
    "OPTIONS ** HTTP/1.1",
    "GET a:80 HTTP/1.1",
    "GET admin HTTP/1.1",
    "GET ?x HTTP/1.1",
    "GET ./x HTTP/1.1",
    "GET \\x HTTP/1.1",
    "GET ftp://a/ HTTP/1.1",
    "GET http:/a/ HTTP/1.1",
    "GET http:///x HTTP/1.1",
    "GET http://b/ HTTP/1.1",
    "GET http://u@a/ HTTP/1.1",
    "GET http://a#/ HTTP/1.1",
    "GET / http/1.1",
    "GET / HTTP/1.32",
    "GET / HTTP/01.1",
    "GET / HTTP/1.",
    "GET / HTTP",
    "GET / XTTP/1.1",
];

/// Versions and methods that are not served here.
const ELSEWHERE: [&str; 8] = [
    "GET / HTTP/1.2",
    "GET / HTTP/2.0",
    "GET / HTTP/0.9",
    "GET / HTTP/3.0",
    "PRI * HTTP/2.0",
    "CONNECT / HTTP/1.1",
    "CONNECT a:80 HTTP/1.1",
    "CONNECT http://a/ HTTP/1.1",
];

/// Field lines that are none; each with its end.
const FIELDS: [&str; 40] = [
    "X : 1\r\n",
    "X\t: 1\r\n",
    " X: 1\r\n",
    "\tX: 1\r\n",
    "X: 1\r\n 2\r\n",
    "X: 1\r\n\t2\r\n",
    "X: 1\r\n \r\n",
    ": 1\r\n",
    " : 1\r\n",
    "X\r\n",
    "X 1\r\n",
    "X: a\0b\r\n",
    "X: \0\r\n",
    "X: a\x01b\r\n",
    "X: a\x1b[31mb\r\n",
    "X: a\x7fb\r\n",
    "X: a\rb\r\n",
    "X: a\r\r\n",
    "X: a\n",
    "X: a\nY: b\r\n",
    "\nX: a\r\n",
    "\rX: a\r\n",
    "X\u{e4}: 1\r\n",
    "X\0: 1\r\n",
    "X(: 1\r\n",
    "X,Y: 1\r\n",
    "X\": 1\r\n",
    "X/: 1\r\n",
    "X[0]: 1\r\n",
    "X@: 1\r\n",
    "X\r: 1\r\n",
    "X=1\r\n",
    "Content-Length : 5\r\n",
    "Content-Length\t: 5\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding\t: chunked\r\n",
    "Transfer-Encoding\0: chunked\r\n",
    "\u{feff}X: 1\r\n",
    "X: \x08\r\n",
    "X\x0b: 1\r\n",
];

const EXPECTATIONS: [&str; 8] =
    ["x", "", "y 100-continue", "100-continue, 100-continue", "100-continue;a", "200-ok", "100-contin\u{fc}e", "continue-100"];

/// Whom a `Connection` may not name.
const NOMINATED: [&str; 6] = ["host", "Host, close", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "close, :path"];

fn refused() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, head: String, body: &str| cases.push(Case::refused(name, format!("{head}{body}{SMUGGLED}")));
    for line in LINES.iter().chain(&ELSEWHERE) {
        add(format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n"), "");
    }
    for field in FIELDS {
        add(format!("field {field:?}"), format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n"), "");
        add(format!("first field {field:?}"), format!("GET / HTTP/1.1\r\n{field}Host: a\r\n\r\n"), "");
    }
    for length in LENGTHS {
        add(format!("length {length:?}"), format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"), "hello");
        add(
            format!("length 5 and {length:?}"),
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: {length}\r\n\r\n"),
            "hello",
        );
    }
    for (first, second) in [("5", "5"), ("5", "6"), ("0", "5"), ("5", "0")] {
        add(
            format!("lengths {first}, {second}"),
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {first}\r\ncontent-length: {second}\r\n\r\n"),
            "hello",
        );
    }
    for coding in CODINGS {
        add(format!("coding {coding:?}"), format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n"), "0\r\n\r\n");
        add(
            format!("coding chunked and {coding:?}"),
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: {coding}\r\n\r\n"),
            "0\r\n\r\n",
        );
        add(
            format!("length and coding {coding:?}"),
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: {coding}\r\n\r\n"),
            "0\r\n\r\n",
        );
    }
    for method in ["GET", "POST"] {
        for (first, second) in [("Content-Length: 5", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 5")] {
            add(
                format!("{method} {first}, {second}"),
                format!("{method} / HTTP/1.1\r\nHost: a\r\n{first}\r\n{second}\r\n\r\n"),
                "0\r\n\r\n",
            );
            add(
                format!("{method} {first}, X, {second}"),
                format!("{method} / HTTP/1.1\r\n{first}\r\nHost: a\r\n{second}\r\n\r\n"),
                "0\r\n\r\n",
            );
        }
        add(
            format!("{method} CL 0 and TE"),
            format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "0\r\n\r\n",
        );
        add(format!("{method} 1.0 with TE"), format!("{method} / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), "0\r\n\r\n");
        let both = "Transfer-Encoding: chunked\r\nContent-Length: 5";
        add(
            format!("{method} 1.0 with both"),
            format!("{method} / HTTP/1.0\r\nHost: a\r\n{both}\r\nConnection: keep-alive\r\n\r\n"),
            "0\r\n\r\n",
        );
    }
    add("1.0 POST without length".to_owned(), "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".to_owned(), "");
    for host in HOSTS {
        add(format!("Host {host:?}"), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), "");
    }
    for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost:\r\n", "Host:\r\nHost: a\r\n"] {
        add(format!("Hosts {hosts:?}"), format!("GET / HTTP/1.1\r\n{hosts}X: 1\r\n\r\n"), "");
    }
    for expectation in EXPECTATIONS {
        add(
            format!("Expect {expectation:?}"),
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: {expectation}\r\n\r\n"),
            "hello",
        );
    }
    for nominated in NOMINATED {
        add(format!("Connection {nominated:?}"), format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {nominated}\r\n\r\n"), "");
    }
    add("many fields".to_owned(), format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(300)), "");
    add("bare LFs".to_owned(), "GET / HTTP/1.1\nHost: a\n\n".to_owned(), "");
    add("a bare LF at the end".to_owned(), "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), "");
    add("a bare LF before".to_owned(), "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "");
    add("a bare CR before".to_owned(), "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "");
    add("HTTP/0.9".to_owned(), "GET /\r\n\r\n".to_owned(), "");
    cases.push(Case::refused("a byte above ASCII in the line", b"GET / HTTP/1.1\xff\r\nHost: a\r\n\r\n".to_vec()));
    cases.push(Case::refused("a byte above ASCII in Host", b"GET / HTTP/1.1\r\nHost: a\xe4\r\n\r\n".to_vec()));
    cases.push(Case::refused("a byte above ASCII in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\xe4: 1\r\n\r\n".to_vec()));
    cases
}

/// Odd, and legal.
fn clean() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, bytes: &str, answers| cases.push(Case::served(name, bytes, answers));
    for method in ["GET", "get", "HEAD", "DELETE", "OPTIONS", "PATCH", "PUT", "POST", "TRACE", "PROPFIND", "M-SEARCH", "X!#$%&'*+-.^_`|~"] {
        add(method, &format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"), 1);
    }
    for target in [
        "/?",
        "/a//b",
        "/a/../b",
        "/%2e%2e/",
        "/;x=y",
        "/a:b@c",
        "/?q=http://x/?y",
        "/$&'()*+,=",
        "/~a_-.",
        "/%zz",
        "http://a",
        "http://a/",
        "HTTP://a/x?y",
        "https://a/",
        "/a|b",
        "/a\"b",
        "/{a}",
        "/a^b",
        "/\\a",
        "/????",
        "/&",
    ] {
        add(target, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), 1);
    }
    for host in ["a", "A.EXAMPLE", "a.", "a:80", "a:", "10.0.0.1:65535", "[::1]", "[::1]:80", "a_b", "xn--4ca.example", "-"] {
        add(host, &format!("GET / HTTP/1.1\r\nHost:{host}\r\n\r\n"), 1);
        add(host, &format!("GET / HTTP/1.1\r\nhOsT: \t{host}\t \r\n\r\n"), 1);
    }
    for field in [
        "X:",
        "X: ",
        "X:\t",
        "X:1",
        "X: a\tb",
        "X: \u{e4}\u{f6}",
        "X: \"a, b\"",
        "X: a,,b",
        "X: (c)",
        "X: :",
        "X_Y: 1",
        "x.y: 1",
        "X!#$%&'*+-.^_`|~: 1",
        "1: 1",
        "X: 1\r\nX: 2",
        "Cookie: a=b; c=d",
        "Cookie: a=\"b c\"",
        "Accept: */*;q=0.1",
        "If-None-Match: W/\"a\"",
        "Range: bytes=0-1",
        "TE: trailers",
        "Trailer: X",
        "Transfer_Encoding: gzip",
        "Content_Length: 7",
        "Connection: keep-alive, X-A\r\nX-A: 1",
        "Connection: te\r\nTE: gzip",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Via: 1.1 x",
        "X-Forwarded-For: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings",
        "Upgrade: foo\r\nConnection: Upgrade",
        "Upgrade: TLS/1.0, HTTP/1.1\r\nConnection: upgrade",
        "Upgrade: websocket\r\nConnection: Upgrade",
        "Content-Type: text/plain",
        "User-Agent: curl/8 (x; y)",
        "Content-Length: 0",
        "Connection: authorization\r\nAuthorization: Basic YTpi",
        "Max-Forwards: 0",
        "Date: now",
    ] {
        add(field, &format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n"), 1);
    }
    for length in ["5", "05", "000000000000000005"] {
        add(length, &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nhello"), 1);
    }
    add("a body of GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 1);
    add("nominated length", "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello", 1);
    add("POST without body", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", 1);
    add("Expect", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello", 1);
    add("Expect of 1.0", "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", 1);
    add("1.0", "GET / HTTP/1.0\r\n\r\n", 1);
    add("1.0 with Host", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", 1);
    add("1.0 kept", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 1);
    add("empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1);
    add("two in a row", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", 2);
    add("an empty line between", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", 2);
    add("a body between", "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", 2);
    add(
        "chunks between",
        "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        2,
    );
    add("twenty in a row", &"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20), 20);
    add(
        "a request hidden in a body is a body",
        &format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        1,
    );
    add(
        "no upgrade, and another request",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        2,
    );
    add("many fields", &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(200)), 1);
    add("a long field", &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(50_000)), 1);
    add("a long target", &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8_000)), 1);
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_http1_heads_reach_nobody() {
    on_all_listeners("ambiguous HTTP/1 heads", 250, &refused()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_http1_requests_are_served() {
    on_all_listeners("clean HTTP/1 requests", 100, &clean()).await;
}
