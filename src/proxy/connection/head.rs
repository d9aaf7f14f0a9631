//! The head of an HTTP/1 request is taken in whole, and checked, before Pingora sees any of it. Its parser (0.9.1) bounds the time between two reads, not the
//! head's, takes heads of up to 1 MiB, and parses all of it again at each read.

use std::{io, time::Duration};

use bytes::Buf;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Connection, READ_BUFFER, Transport, framing::Framing, linger::LINGER};
use crate::proxy::{
    gate::head::{check, is_token_byte, shown},
    ingress::strict_transport,
    refusal::Refusal,
};

/// Longest head that is taken, bytes: Envoy's default.
const LONGEST: usize = 60 * 1024;
/// What became of a request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is there, and Pingora may read the request.
    Whole,
    /// The client left before.
    Gone,
    /// It is none that may be passed on.
    Refused(Refusal),
}

impl Connection {
    /// Takes in the head of the next request, at most for `limit`.
    pub async fn head(&mut self, limit: Duration) -> Head {
        // Where it ends is not known yet.
        self.framing = Framing::Open;
        let reading = async {
            let mut seen = 0;
            loop {
                // Empty lines before a request do not belong to it (RFC 9112, section 2.2).
                while self.ahead.starts_with(b"\r\n") {
                    self.ahead.advance(2);
                }
                match end_of(&self.ahead, seen) {
                    Some(end) if end <= LONGEST => return self.begin(end),
                    None if self.ahead.len() <= LONGEST => {}
                    _ => return Head::Refused(Refusal::HeadTooLong),
                }
                if !begins_request(&self.ahead) {
                    // It is told so at once.
                    return Head::Refused(Refusal::BadRequest("it is not valid HTTP"));
                }
                seen = self.ahead.len();
                if !matches!(self.fill().await, Ok(1..)) {
                    return Head::Gone;
                }
            }
        };
        timeout(limit, reading).await.unwrap_or(Head::Refused(Refusal::HeadTimeout))
    }

    /// A head of `length` bytes is there.
    fn begin(&mut self, length: usize) -> Head {
        match check(self.ahead.get(..length).unwrap_or_default()) {
            Ok(body) => {
                self.framing = Framing::of(length, body);
                Head::Whole
            }
            Err(refusal) => Head::Refused(refusal),
        }
    }

    /// Method and target of a refused head, for the log.
    pub fn shown_head(&self) -> (&str, &str) {
        shown(&self.ahead)
    }

    /// Reads once, behind what was read ahead already.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.ahead.reserve(READ_BUFFER);
        let read = match &mut self.transport {
            Transport::Plain(stream) => stream.read_buf(&mut self.ahead).await,
            Transport::Tls(stream) => stream.read_buf(&mut self.ahead).await,
        };
        self.ended |= !matches!(read, Ok(1..));
        read
    }

    /// Answers a refused head, unless it is none of HTTP, and ends the connection.
    pub async fn refuse(mut self, refusal: &Refusal) {
        if *refusal == Refusal::NotHttp {
            return self.leave().await;
        }
        let (status, text) = (refusal.status(), refusal.body());
        let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let length = text.len();
        let secure = self.context.as_ref().and_then(|context| strict_transport(&context.live.load()));
        let secure = secure.as_ref().and_then(|value| value.to_str().ok());
        let secure = secure.map(|value| format!("strict-transport-security: {value}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-length: {length}\r\ncontent-type: text/plain\r\n{secure}connection: close\r\n\r\n"
        );
        let answer = [head.as_bytes(), &text].concat();
        // A client that does not take its answer is gone all the same.
        let _ = timeout(LINGER, self.write_all(&answer)).await;
        self.leave().await;
    }
}

/// Where the empty line that ends a head ends, if it is there; the first `seen` bytes are known not to hold it. Bare line feeds end it too: it is refused
/// for them then.
fn end_of(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(2);
    let new = bytes.get(from..)?;
    let ends = new.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.filter_map(|next| match new.get(next..)? {
        [b'\n', ..] => Some(from + next + 1),
        [b'\r', b'\n', ..] => Some(from + next + 2),
        _ => None,
    })
    .next()
}

/// Whether bytes can begin a request: what stands before the first blank is part of a method (RFC 9110, section 5.6.2). A TLS client does not. A CR may
/// begin an empty line.
fn begins_request(bytes: &[u8]) -> bool {
    bytes == b"\r" || bytes.iter().take_while(|byte| **byte != b' ').all(|byte| is_token_byte(*byte))
}
