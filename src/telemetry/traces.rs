//! Traces: which requests have spans, what is passed on of a trace, and where spans go.
//!
//! A request that is sampled carries a [`Trace`], which notes when each of its steps ended; its spans are made of those times once it is recorded, all at
//! once. A request that is not sampled costs the look at its headers. The data path hands spans over; a thread of its own sends them. When that thread
//! falls behind, spans are dropped and counted: a slow collector never slows a request.

mod exporter;
mod headers;
mod spans;
mod trace;

use std::{
    sync::{Arc, OnceLock, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use self::exporter::Message;
pub use self::{
    headers::trace_id,
    trace::{Step, Trace},
};
use super::record::Record;
use crate::model::tracing::Tracing;

/// How long [`Traces::flush`] waits before it asks a full queue again.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);

/// Where spans go, and as whose.
type Settings = Arc<Tracing>;

/// The front end of the sending thread, which starts with the first span and ends when this is dropped.
#[derive(Debug)]
pub struct Traces {
    queue: OnceLock<Sender<Message>>,
    dropped: IntCounter,
}

impl Traces {
    /// Spans that cannot be sent are counted in `dropped`.
    pub fn new(dropped: IntCounter) -> Self {
        Self { queue: OnceLock::new(), dropped }
    }

    /// Sends the spans of a request or connection, if it is sampled. Never waits.
    pub fn send(&self, record: &Record<'_>) {
        let Some(trace) = record.trace.filter(|trace| trace.is_sampled()) else { return };
        let spans = spans::of(trace, record);
        let lost = spans.len() as u64;
        let queue = self.queue.get_or_init(|| exporter::start(self.dropped.clone()));
        if queue.try_send(Message::Spans(trace.settings().clone(), spans)).is_err() {
            self.dropped.inc_by(lost);
        }
    }

    /// Waits, blocking the thread, until everything handed over before is sent; `false` when that takes longer than `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = self.queue.get() else { return true };
        let deadline = Instant::now() + limit;
        let (done, sent) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(refused) = queue.try_send(message) {
            let TrySendError::Full(again) = refused else { return false };
            if Instant::now() >= deadline {
                return false;
            }
            message = again;
            thread::sleep(FLUSH_PAUSE);
        }
        sent.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

#[cfg(test)]
mod tests;
