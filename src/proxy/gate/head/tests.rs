//! Heads that pass, and heads that two servers could read in two ways.

use super::*;

fn status(head: &str) -> Result<Body, u16> {
    check(head.as_bytes()).map_err(|refusal| refusal.status())
}

/// A request for `/` at `a` with these fields.
fn with(fields: &str) -> Result<Body, u16> {
    status(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

#[test]
fn ordinary_heads_pass() {
    for line in [
        "GET / HTTP/1.1",
        "get /?a=b HTTP/1.1",
        "M-SEARCH!#$%&'*+-.^_`|~ /a;b,c@d:e$f[g]{h}|i\"j\\k<l>m^n`o HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a HTTP/1.1",
        "GET HTTP://a/b?c HTTP/1.1",
        "GET https://a?c HTTP/1.1",
        "GET /\u{e4} HTTP/1.1",
        "GET // HTTP/1.1",
    ] {
        assert_eq!(status(&format!("{line}\r\nHost: a\r\n\r\n")), Ok(Body::None), "{line}");
    }
    for (fields, body) in [
        ("", Body::None),
        ("content-length:5\r\n", Body::Length(5)),
        ("Content-Length: \t 0005 \t\r\n", Body::Length(5)),
        ("Content-Length: 0\r\n", Body::None),
        ("Content-Length: 9999999999999999999\r\n", Body::Length(9_999_999_999_999_999_999)),
        ("Transfer-Encoding: chunked\r\n", Body::Chunked),
        ("TRANSFER-ENCODING:CHUNKED\r\n", Body::Chunked),
        ("Expect: 100-Continue\r\n", Body::None),
        ("X:\r\nY: \r\nZ: a\tb\u{e4}\r\nZ: c\r\n", Body::None),
        ("Transfer_Encoding: gzip\r\n", Body::None),
    ] {
        assert_eq!(with(fields), Ok(body), "{fields:?}");
    }
    for host in ["", "a.", "A:80", "[::1]", "[::1]:80", "10.0.0.1:65535", "a_b"] {
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost:{host}\r\n\r\n")), Ok(Body::None), "{host}");
    }
    assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), Ok(Body::None));
    assert_eq!(status("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n"), Ok(Body::Length(3)));
}

#[test]
fn first_lines_are_as_the_grammar_says() {
    for (line, refused) in [
        ("", 400),
        ("GET", 400),
        ("GET /", 400),
        ("GET / ", 400),
        (" GET / HTTP/1.1", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /  HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET\t/ HTTP/1.1", 400),
        ("GET /\tx HTTP/1.1", 400),
        ("GET /x y HTTP/1.1", 400),
        ("GET /\0 HTTP/1.1", 400),
        ("GET /\r/ HTTP/1.1", 400),
        ("GET /\x7f HTTP/1.1", 400),
        ("GET /p#frag HTTP/1.1", 400),
        ("G(T / HTTP/1.1", 400),
        ("G\u{e4}T / HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("OPTIONS *x HTTP/1.1", 400),
        ("GET a:80 HTTP/1.1", 400),
        ("GET admin HTTP/1.1", 400),
        ("GET ?x HTTP/1.1", 400),
        ("GET http:/// HTTP/1.1", 400),
        ("GET http://b/ HTTP/1.1", 400),
        ("GET http://A/ HTTP/1.1", 400),
        ("GET http://a@a/ HTTP/1.1", 400),
        ("GET http://a#b/ HTTP/1.1", 400),
        ("GET ftp://a/ HTTP/1.1", 400),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1.32", 400),
        ("GET / HTTP/01.1", 400),
        ("GET / HTTP/1,1", 400),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("CONNECT / HTTP/1.1", 405),
        ("CONNECT a:80 HTTP/1.1", 405),
    ] {
        assert_eq!(status(&format!("{line}\r\nHost: a\r\n\r\n")), Err(refused), "{line:?}");
    }
}

#[test]
fn fields_are_as_the_grammar_says() {
    for fields in [
        "X : 1\r\n",
        "X\t: 1\r\n",
        " X: 1\r\n",
        "X: 1\r\n 2\r\n",
        "X: 1\r\n\t2\r\n",
        ": 1\r\n",
        "X\r\n",
        "X: a\0b\r\n",
        "X: a\x1bb\r\n",
        "X: a\x7fb\r\n",
        "X: a\rb\r\n",
        "X: a\r\r\n",
        "X: a\n",
        "\rX: a\r\n",
        "X\u{e4}: 1\r\n",
        "X\0: 1\r\n",
        "X(: 1\r\n",
        "X\r: 1\r\n",
        "Host: a\r\n",
        "Host: b\r\n",
        "hOST:\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 0_5\r\n",
        "Content-Length: 5,5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: \u{665}\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ] {
        assert_eq!(with(fields), Err(400), "{fields:?}");
    }
    for coding in [
        "xchunked",
        "chunked, identity",
        "identity, chunked",
        "chunked,",
        ",chunked",
        "chunked, chunked",
        "gzip",
        "identity",
        "",
        "\"chunked\"",
        "chunked;q=1",
    ] {
        assert_eq!(with(&format!("Transfer-Encoding: {coding}\r\n")), Err(501), "{coding:?}");
    }
    for expect in ["x", "", "100-continue, 100-continue", "y 100-continue", "100-continue;a", "200-ok"] {
        assert_eq!(with(&format!("Expect: {expect}\r\n")), Err(417), "{expect:?}");
    }
    assert_eq!(with("Expect: 100-continue\r\nExpect: 100-continue\r\n"), Err(417));
    assert_eq!(with(&"X: 1\r\n".repeat(FIELDS - 1)), Ok(Body::None));
    assert_eq!(with(&"X: 1\r\n".repeat(FIELDS)), Err(431));
    for host in ["t@evil", "t/evil", "t:1:2", "t:x", "t:123456", "a b", "a?b", "a#b", "[::1", "::1]", "[::1]x", "a\\b", "a<b"] {
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Err(400), "{host}");
    }
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), Err(400));
}

#[test]
fn words_that_are_no_http_get_no_answer() {
    assert_eq!(check(b"INVALID CONNECTION PREFACE\r\n\r\n"), Err(Refusal::NotHttp));
    assert_eq!(status("GET / PREFACE\r\n\r\n"), Err(400));
}

#[test]
fn http10_has_no_codings_and_posts_with_a_length() {
    for head in [
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ] {
        assert_eq!(status(head), Err(400), "{head:?}");
    }
}

#[test]
fn what_can_be_told_of_a_refused_head_is_shown() {
    assert_eq!(shown(b"GET /a b HTTP/1.1\r\n"), ("GET", "/a"));
    assert_eq!(shown(b"\x16\x03\x01"), ("-", ""));
    assert_eq!(shown(b""), ("-", ""));
    assert_eq!(shown(b"GET /\xff HTTP/1.1\r\n"), ("GET", ""));
}
