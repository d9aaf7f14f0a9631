//! Where the request in flight ends.
//!
//! Pingora (0.9.1) is shown one HTTP/1 request at a time, to its last byte: what follows waits here until it is read as the next request, by us. So a
//! request that hides in the body of another, or behind an upgrade that was not made, is never taken for anything else, and clients may pipeline.

use crate::proxy::gate::{chunks::Chunks, head::Body};

/// The bytes of a request that are still to be handed on.
#[derive(Debug, Default)]
pub(super) enum Framing {
    /// Everything is: HTTP/2, opaque bytes, a tunnel.
    #[default]
    Open,
    /// So many of a head, then a body.
    Head(usize, Body),
    /// So many of a body.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// None.
    Ended,
}

impl Framing {
    /// A checked head of `length` bytes with its body.
    pub fn of(length: usize, body: Body) -> Self {
        Self::Head(length, body)
    }

    /// Whether the whole request was handed on.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// How many of the next `bytes` belong to the request; at least one, if there are any and it has not ended.
    ///
    /// # Errors
    /// What is wrong with its chunks.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let (used, next) = match self {
            Self::Open => (bytes.len(), None),
            Self::Ended => (0, None),
            Self::Head(left, body) => {
                let used = bytes.len().min(*left);
                *left -= used;
                let body = match body {
                    Body::None => Self::Ended,
                    Body::Length(length) => Self::Length(*length),
                    Body::Chunked => Self::Chunked(Chunks::default()),
                };
                (used, (*left == 0).then_some(body))
            }
            Self::Length(left) => {
                let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= used as u64;
                (used, (*left == 0).then_some(Self::Ended))
            }
            Self::Chunked(chunks) => {
                let used = chunks.advance(bytes)?;
                (used, chunks.is_done().then_some(Self::Ended))
            }
        };
        if let Some(next) = next {
            *self = next;
        }
        Ok(used)
    }
}
