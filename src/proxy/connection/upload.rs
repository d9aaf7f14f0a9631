//! How much of a request's body waits to be written to the endpoint.
//!
//! Pingora's HTTP/1 loop (0.9.1) hands the pieces of a body to the endpoint's side through a pipe of four. If that is full when the body ends, the loop
//! does not look at the client again before the endpoint answers: that the client left, or that the answer is overdue, is never seen. So the end of a
//! body waits until there is room for it and one more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Poller, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// How many pieces may wait when the end is handed on: with it one place of the pipe stays free.
const WAITING: usize = 2;

/// The body of the request in flight on a connection of HTTP/1.
#[derive(Default)]
pub struct Upload {
    waiting: AtomicUsize,
    reader: AtomicWaker,
}

/// A piece of a body, known to wait until it is dropped.
struct Piece {
    bytes: Bytes,
    upload: Arc<Upload>,
}

impl Upload {
    /// The same bytes, counted until they are written, or given up.
    pub fn piece(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Piece { bytes, upload: self.clone() })
    }

    /// Whether the end of the body would fill the pipe.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > WAITING
    }

    /// Waits until it would not.
    pub fn poll_room(&self, cx: &Poller<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        if self.is_full() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.upload.waiting.fetch_sub(1, Ordering::AcqRel);
        if !self.upload.is_full() {
            self.upload.reader.wake();
        }
    }
}
