//! The head of an HTTP/1 request, byte for byte, before a lenient parser sees it (RFC 9112).
//!
//! Pingora 0.9.1 takes line feeds without carriage return, blanks in targets, folded fields, two `Host` lines, any list of transfer codings that ends in
//! `chunked`, and drops a `Content-Length` beside it before anybody can look. Each of them means different things to different servers.

use crate::proxy::refusal::Refusal;

use super::is_authority;

/// Most field lines of a head; Pingora's parser has no room for more.
const FIELDS: usize = 256;

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It has none.
    None,
    /// By `Content-Length`, bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Checks a whole head, up to and with its empty line.
///
/// # Errors
/// [`Refusal::Malformed`] with 400, 405 (`CONNECT`), 417 (`Expect`), 501 (`Transfer-Encoding`) or 505 (the version); [`Refusal::HeadTooLong`] for more
/// than 256 field lines.
pub fn check(head: &[u8]) -> Result<Body, Refusal> {
    let (line, mut rest) = split_line(head)?;
    let line = RequestLine::parse(line)?;
    let mut fields = Fields::default();
    let mut count = 0;
    loop {
        let (field, next) = split_line(rest)?;
        if field.is_empty() {
            return fields.framing(&line);
        }
        count += 1;
        if count > FIELDS {
            return Err(Refusal::HeadTooLong);
        }
        fields.take(field)?;
        rest = next;
    }
}

/// Method and target of a head as far as they can be told, for the log.
pub fn shown(head: &[u8]) -> (&str, &str) {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').map(|word| std::str::from_utf8(word).unwrap_or_default());
    let method = words.next().filter(|word| is_token(word.as_bytes())).unwrap_or("-");
    (method, words.next().unwrap_or_default())
}

struct RequestLine<'a> {
    method: &'a [u8],
    /// Of a target in absolute form.
    authority: Option<&'a [u8]>,
    is_http10: bool,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
            return bad("its first line is not a method, a target and a version");
        };
        if !is_token(method) {
            return bad("its method is no token (RFC 9110, section 9.1)");
        }
        if !version.starts_with(b"HTTP/") && !target.starts_with(b"/") {
            // Such as the preface of an HTTP/2 client that gets it wrong, which takes words of HTTP/1 for a frame.
            return Err(Refusal::NotHttp);
        }
        let is_http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return malformed(505, "its version is not HTTP/1.0 or HTTP/1.1");
            }
            _ => return bad("its version is none"),
        };
        if method == b"CONNECT" {
            return malformed(405, "this is no proxy for CONNECT");
        }
        let authority = match target {
            [b'/', ..] => None,
            b"*" if method == b"OPTIONS" => None,
            _ => match absolute(target) {
                Some(authority) if !authority.is_empty() && is_authority(authority) => Some(authority),
                _ => return bad("its target is no path (RFC 9112, section 3.2)"),
            },
        };
        if target.iter().any(|byte| *byte <= b' ' || matches!(byte, b'#' | 0x7f)) {
            return bad("a control character or a fragment in its target (RFC 9112, section 3.2)");
        }
        Ok(Self { method, authority, is_http10 })
    }
}

/// The authority of an `http` or `https` URI.
fn absolute(target: &[u8]) -> Option<&[u8]> {
    let rest = [&b"http://"[..], b"https://"]
        .iter()
        .find_map(|scheme| target.split_at_checked(scheme.len()).filter(|(start, _)| start.eq_ignore_ascii_case(scheme)))?;
    rest.1.split(|byte| matches!(byte, b'/' | b'?')).next()
}

/// The fields that say where a request ends and whom it is for.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    expect: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, field: &'a [u8]) -> Result<(), Refusal> {
        let Some((name, value)) = field.iter().position(|byte| *byte == b':').and_then(|colon| field.split_at_checked(colon)) else {
            return bad("a field line without colon");
        };
        if !is_token(name) {
            return bad("a field name that is no token (RFC 9112, section 5)");
        }
        let value = value.get(1..).unwrap_or_default();
        if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return bad("a control character in a field (RFC 9110, section 5.5)");
        }
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        match name.len() {
            4 if is("host") => self.host(trim(value)),
            6 if is("expect") => self.expect(trim(value)),
            14 if is("content-length") => self.length(trim(value)),
            17 if is("transfer-encoding") => self.coding(trim(value)),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        if self.host.replace(value).is_some() {
            return bad("more than one Host (RFC 9112, section 3.2)");
        }
        if is_authority(value) { Ok(()) } else { bad("Host is not a host with an optional port") }
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let known = value.eq_ignore_ascii_case(b"100-continue") && !self.expect;
        self.expect = true;
        if known { Ok(()) } else { malformed(417, "an expectation other than 100-continue") }
    }

    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        // 19 digits are less than 2^64.
        let digits = Some(value).filter(|value| (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit));
        let Some(digits) = digits else { return bad("a Content-Length that is not a plain number") };
        let length = digits.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
        if self.length.replace(length).is_some() { bad("more than one Content-Length") } else { Ok(()) }
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.chunked, true) {
            return bad("more than one Transfer-Encoding");
        }
        if value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { malformed(501, "a Transfer-Encoding other than chunked") }
    }

    /// What the fields say together.
    fn framing(&self, line: &RequestLine<'_>) -> Result<Body, Refusal> {
        match (line.authority, self.host) {
            (_, None) if !line.is_http10 => return bad("HTTP/1.1 without Host (RFC 9112, section 3.2)"),
            (Some(asked), Some(host)) if asked != host => return bad("its target and Host name two hosts"),
            _ => {}
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => bad("both Content-Length and Transfer-Encoding (RFC 9112, section 6.3)"),
            (true, None) if line.is_http10 => bad("HTTP/1.0 with Transfer-Encoding (RFC 9112, section 6.1)"),
            (true, None) => Ok(Body::Chunked),
            (false, Some(0)) => Ok(Body::None),
            (false, Some(length)) => Ok(Body::Length(length)),
            (false, None) if line.is_http10 && line.method == b"POST" => {
                bad("an HTTP/1.0 POST without Content-Length (RFC 1945, section 8.3)")
            }
            (false, None) => Ok(Body::None),
        }
    }
}

/// The first line without its end, and what follows it.
fn split_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let line = bytes.iter().position(|byte| *byte == b'\n').and_then(|end| bytes.split_at_checked(end + 1));
    let Some((line, rest)) = line else { return bad("its head has no end") };
    match line {
        [line @ .., b'\r', b'\n'] => Ok((line, rest)),
        _ => bad("a line that ends without CR (RFC 9112, section 2.2)"),
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110, section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a byte may stand in a method or a field name.
pub fn is_token_byte(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = matches!(byte as u8, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
            byte += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

fn bad<T>(why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::BadRequest(why))
}

fn malformed<T>(status: u16, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Malformed { status, why })
}

#[cfg(test)]
mod tests;
