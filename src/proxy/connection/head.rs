//! The head of an HTTP/1 request is taken in whole before Pingora sees any of it. Its parser (0.9.1) bounds the time between two reads, not the
//! head's, takes heads of up to 1 MiB, and parses all of it again at each read.

use std::{io, time::Duration};

use bytes::Buf;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Connection, READ_BUFFER, Transport};
use crate::proxy::ingress::strict_transport;

/// Longest head that is taken, bytes: Envoy's default.
const LONGEST: usize = 60 * 1024;
/// How long the rest of what a refused client sends is read over, so that it sees our answer before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// What became of a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is there.
    Whole,
    /// The client left before.
    Gone,
    /// It did not come in time.
    Slow,
    /// It is longer than 60 KiB.
    Long,
}

impl Head {
    /// Status line and text for the client, in Envoy's words; `None` when there is nothing to say.
    fn refusal(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Whole | Self::Gone => None,
            Self::Slow => Some(("408 Request Timeout", "request header timeout")),
            Self::Long => Some(("431 Request Header Fields Too Large", "Request Header Fields Too Large")),
        }
    }
}

impl Connection {
    /// Takes in the head of the next request, at most for `limit`.
    pub async fn head(&mut self, limit: Duration) -> Head {
        let reading = async {
            let mut seen = 0;
            loop {
                // Empty lines before a request do not belong to it (RFC 9112, section 2.2).
                let blank = self.ahead.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                self.ahead.advance(blank);
                match end_of(&self.ahead, seen) {
                    Some(end) if end <= LONGEST => return Head::Whole,
                    None if self.ahead.len() <= LONGEST => {}
                    _ => return Head::Long,
                }
                if !begins_request(&self.ahead) {
                    // The parser has a word for it at once.
                    return Head::Whole;
                }
                seen = self.ahead.len();
                if !matches!(self.fill().await, Ok(1..)) {
                    return Head::Gone;
                }
            }
        };
        timeout(limit, reading).await.unwrap_or(Head::Slow)
    }

    /// Reads once, behind what was read ahead already.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.ahead.reserve(READ_BUFFER);
        match &mut self.transport {
            Transport::Plain(stream) => stream.read_buf(&mut self.ahead).await,
            Transport::Tls(stream) => stream.read_buf(&mut self.ahead).await,
        }
    }

    /// Ends the connection, with an answer if the head asks for one.
    pub async fn end(mut self, head: Head) {
        if let Some((status, text)) = head.refusal() {
            let length = text.len();
            let secure = self.context.as_ref().and_then(|context| strict_transport(&context.live.load()));
            let secure = secure.as_ref().and_then(|value| value.to_str().ok());
            let secure = secure.map(|value| format!("strict-transport-security: {value}\r\n")).unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\ncontent-type: text/plain\r\n{secure}connection: close\r\n\r\n{text}"
            );
            let answered = async {
                self.write_all(answer.as_bytes()).await?;
                AsyncWriteExt::shutdown(&mut self).await?;
                while self.fill().await? > 0 {
                    self.ahead.clear();
                }
                io::Result::Ok(())
            };
            // A client that does not take its answer is gone all the same.
            let _ = timeout(LINGER, answered).await;
        } else {
            let _ = AsyncWriteExt::shutdown(&mut self).await;
        }
    }
}

/// Where the empty line that ends a head ends, if it is there; the first `seen` bytes are known not to hold it. Pingora's parser takes bare line feeds
/// too.
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

/// Whether bytes can begin a request: what stands before the first blank is part of a method (RFC 9110, section 5.6.2). A TLS client does not.
fn begins_request(bytes: &[u8]) -> bool {
    bytes.iter().take_while(|byte| **byte != b' ').all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
