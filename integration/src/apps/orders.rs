//! What an HTTP app was told to answer.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use tokio::sync::watch;

/// Stands in place of a status: the connection is closed without an answer.
pub const HANG_UP: u16 = 0;

/// The statuses and the text of the answers to come, and whether they are held back.
#[derive(Debug)]
pub(super) struct Orders {
    next: Mutex<VecDeque<u16>>,
    usual: watch::Sender<u16>,
    held: watch::Sender<bool>,
    text: Mutex<Option<String>>,
}

impl Default for Orders {
    fn default() -> Self {
        let usual = watch::Sender::new(StatusCode::OK.as_u16());
        Self { next: Mutex::default(), usual, held: watch::Sender::new(false), text: Mutex::default() }
    }
}

impl Orders {
    pub(super) fn queue(&self, statuses: impl IntoIterator<Item = u16>) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).extend(statuses);
    }

    pub(super) fn usual(&self, status: u16) {
        self.usual.send_replace(status);
    }

    pub(super) fn tell(&self, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// The body of the answers, if not the request's own.
    pub(super) fn text(&self) -> Option<String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// The status of the next answer, when it may be given; `None` is for hanging up.
    pub(super) async fn next(&self) -> Option<StatusCode> {
        let queued = self.next.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        // The sender is ours: waiting cannot fail.
        drop(self.held.subscribe().wait_for(|held| !held).await);
        StatusCode::from_u16(queued.unwrap_or_else(|| *self.usual.borrow())).ok()
    }
}
