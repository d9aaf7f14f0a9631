//! What Pingora reads: the request in flight, and ahead of it while a write is stuck.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context as Poller, Poll},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::sleep_until,
};

use super::{Connection, READ_AHEAD, Transport, framing::Framing};

/// How much of the next requests is taken in while one is in flight, bytes: enough to see a client leave that pipelines a few.
const NEXT: usize = 64 * 1024;

impl Connection {
    /// From now on takes the client's bytes in while a write to it is stuck.
    ///
    /// Pingora's HTTP/1 loop (0.9.1) reads no answer while a write of the request is stuck, nor a request while a write of the answer is. Two of
    /// them in a row, as two sidecars are, come to a stop for ever when an app answers at length while the request still comes in.
    pub fn read_ahead(&mut self) {
        self.reads_ahead = true;
    }

    /// Whether the last request was taken to its end.
    pub fn is_at_end(&self) -> bool {
        self.framing.is_ended() && self.last.is_none()
    }

    fn poll_transport(&mut self, cx: &mut Poller<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = buf.remaining();
        let done = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        self.ended |= match &done {
            Poll::Ready(Ok(())) => left > 0 && buf.remaining() == left,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        done
    }

    /// Reads what there is, up to `most` in all; leaves the task to be woken when more comes.
    pub(super) fn poll_ahead(&mut self, cx: &mut Poller<'_>, most: usize) {
        let mut bytes = [const { MaybeUninit::<u8>::uninit() }; 16 * 1024];
        while !self.ended && self.ahead.len() < most {
            let mut buf = ReadBuf::uninit(&mut bytes);
            if self.poll_transport(cx, &mut buf).is_pending() {
                return;
            }
            self.ahead.extend_from_slice(buf.filled());
        }
    }

    pub(super) fn poll_ahead_of_write(&mut self, cx: &mut Poller<'_>) {
        if self.reads_ahead {
            self.poll_ahead(cx, READ_AHEAD);
        }
    }

    /// Whether the exchange in flight is overdue; leaves the task to be woken when it is.
    fn poll_overdue(&mut self, cx: &mut Poller<'_>) -> bool {
        let Some(at) = self.context.as_ref().and_then(|context| *context.overdue.lock()) else { return false };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        alarm.as_mut().poll(cx).is_ready()
    }

    /// How many of these bytes are the request's. An error is remembered, since Pingora's error does not tell it from a client that left.
    fn advance(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.framing.advance(bytes).map_err(|why| {
            if let Some(context) = &self.context {
                let _ = context.malformed.set(why);
            }
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    /// Keeps the last byte of a request back where the pieces before it could fill Pingora's pipe: of chunks it is not known how many pieces they make.
    fn keep_last(&mut self, buf: &mut ReadBuf<'_>, chunked: bool) {
        let full = self.context.as_ref().is_some_and(|context| chunked || context.upload.is_full());
        if let (true, [before @ .., last]) = (full, buf.filled()) {
            let left = before.len();
            self.last = Some(*last);
            buf.set_filled(left);
        }
    }

    /// Hands the last byte of a request on as soon as there is room. Only that the client leaves ends the wait before.
    fn poll_last(&mut self, last: u8, cx: &mut Poller<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.context.as_ref().is_some_and(|context| context.upload.poll_room(cx).is_pending()) {
            self.poll_ahead(cx, NEXT);
            return if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        buf.put_slice(&[last]);
        self.last = None;
        Poll::Ready(Ok(()))
    }

    /// The request has ended: what comes now is the next one, unless it is a tunnel. Only that the client leaves is of interest.
    fn poll_end(&mut self, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        self.poll_ahead(cx, NEXT);
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.poll_overdue(cx) { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }

    fn poll_request(&mut self, cx: &mut Poller<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let mut ahead = std::mem::take(&mut self.ahead);
            let used = self.advance(ahead.get(..buf.remaining()).unwrap_or(&ahead))?;
            buf.put_slice(&ahead.split_to(used));
            // An empty buffer gives its memory back.
            self.ahead = if ahead.is_empty() { BytesMut::new() } else { ahead };
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let done = self.poll_transport(cx, buf);
        if done.is_pending() && self.poll_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        let used = self.advance(new)?;
        self.ahead.extend_from_slice(new.get(used..).unwrap_or_default());
        buf.set_filled(before + used);
        done
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Poller<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(last) = this.last {
            return this.poll_last(last, cx, buf);
        }
        if this.framing.is_ended() {
            if !this.context.as_ref().is_some_and(|context| context.tunnel.has_begun()) {
                return this.poll_end(cx);
            }
            this.framing = Framing::Open;
        }
        let before = buf.filled().len();
        let chunked = matches!(this.framing, Framing::Chunked(_));
        let done = this.poll_request(cx, buf);
        let new = buf.filled().len() - before;
        this.moved(&this.received, new);
        if new > 0 && this.framing.is_ended() {
            this.keep_last(buf, chunked);
            if let (1, Some(last)) = (new, this.last) {
                return this.poll_last(last, cx, buf);
            }
        }
        done
    }
}
