//! A stream of HTTP/2 while its request goes on to the endpoint and no answer has begun.
//!
//! Until then Pingora's loops (0.9.1) only look out for more of the request and for a reset: they see neither that the answer is overdue nor that a pipe
//! to an endpoint of HTTP/1 fills up with the end of a body (see [`Upload`]). On a connection of HTTP/1 its reader tells them; the streams of HTTP/2 share
//! their connection, so one that needs it is wrapped into a session of our own for that time.

use std::{
    future::{pending, poll_fn},
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora_core::{
    Error, ErrorType, Result,
    protocols::{
        Digest,
        http::{
            HttpTask, ServerSession,
            custom::{CustomMessageWrite, server::Session},
        },
        l4::socket::SocketAddr,
    },
};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::sleep_until;

use super::connection::Upload;

#[cfg(test)]
mod tests;

/// The request of a stream that is wrapped.
#[derive(Default)]
pub struct Waiting {
    /// How much of its body waits to be written.
    pub upload: Arc<Upload>,
    overdue: OnceLock<Instant>,
    /// Whether the wrapper holds the end of the body back.
    holds: AtomicBool,
    /// Here the wrapper leaves the stream when it ends.
    given_back: Mutex<Option<ServerSession>>,
}

/// The stream in its wrapper.
struct Watched {
    stream: ServerSession,
    waiting: Arc<Waiting>,
    /// The last piece of the body, until there is room for it.
    last: Option<Option<Bytes>>,
}

/// Stands where a session is moved away.
fn nobody() -> ServerSession {
    ServerSession::Custom(Box::new(()))
}

impl Waiting {
    /// Wraps a client's stream; anything but a stream of HTTP/2 stays what it is.
    pub fn begin(session: &mut ServerSession) -> Option<Arc<Self>> {
        if !session.is_http2() {
            return None;
        }
        let waiting = Arc::<Self>::default();
        let stream = mem::replace(session, nobody());
        *session = ServerSession::Custom(Box::new(Watched { stream, waiting: waiting.clone(), last: None }));
        Some(waiting)
    }

    /// From then on the exchange ends as if the client had left.
    pub fn overdue_at(&self, at: Instant) {
        // The end of a request comes once.
        let _ = self.overdue.set(at);
    }

    /// Unwraps the stream once its answer begins, unless the end of the body would be lost with the wrapper.
    pub fn answered(self: Arc<Self>, session: &mut ServerSession) -> Option<Arc<Self>> {
        if self.holds.load(Ordering::Relaxed) {
            return Some(self);
        }
        self.end(session);
        None
    }

    /// Unwraps the stream.
    pub fn end(&self, session: &mut ServerSession) {
        // The wrapper goes, and gives back what it wrapped.
        *session = nobody();
        if let Some(stream) = self.given_back.lock().take() {
            *session = stream;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        *self.waiting.given_back.lock() = Some(mem::replace(&mut self.stream, nobody()));
    }
}

impl Watched {
    /// More of the body, whose end waits for room; then the end of the stream.
    async fn next(&mut self, no_more: bool) -> Result<Option<Bytes>> {
        if self.last.is_none() {
            let piece = self.stream.read_body_or_idle(no_more).await?;
            if !self.stream.is_body_done() || !self.waiting.upload.is_full() {
                return Ok(piece);
            }
            self.last = Some(piece);
            self.waiting.holds.store(true, Ordering::Relaxed);
        }
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.waiting.upload.poll_room(cx)) => {
                self.waiting.holds.store(false, Ordering::Relaxed);
                Ok(self.last.take().flatten())
            }
            left = self.stream.read_body_or_idle(true) => left,
        }
    }
}

#[async_trait]
impl Session for Watched {
    /// Safe to be given up at any time, as Pingora does in each turn of its loops.
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let waiting = self.waiting.clone();
        let overdue = async {
            match waiting.overdue.get() {
                Some(at) => sleep_until((*at).into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            read = self.next(no_body_expected) => read,
            () = overdue => Error::e_explain(ErrorType::ReadTimedout, "the answer is overdue").map_err(Error::into_down),
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.last.is_none() && self.stream.is_body_done()
    }

    fn req_header(&self) -> &RequestHeader {
        self.stream.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.stream.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.stream.read_request_body().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.stream.drain_request_body().await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.stream.write_response_header(head).await?;
        if end { self.stream.finish_body().await } else { Ok(()) }
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(head.clone()), end).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.stream.write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.stream.write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.stream.response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.stream.get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.stream.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.stream.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.stream.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.stream.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.stream.shutdown().await;
    }

    async fn finish(&mut self) -> Result<()> {
        self.stream.finish_body().await
    }

    fn is_body_empty(&mut self) -> bool {
        self.stream.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.stream.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.stream.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.stream.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stream.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stream.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stream.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.stream.to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {
        self.stream.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.stream.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.stream.get_retry_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
