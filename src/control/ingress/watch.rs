//! Watches a set of files by their content.
//!
//! The kernel's events only say when to look; where it tells nothing, as on network file systems or after an overflow, a look every second finds
//! what changed. A look compares contents, so a touched file, a rewritten one with the same text and a log beside it are no change. What changed is
//! told once it rests, so that a burst ends with its last state, and never while a file is being written, nor at once when one is empty or gone.

mod hints;
mod look;

use std::{future, panic, path, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

pub use self::look::Place;
use self::{hints::Hints, look::Look};

/// How often to look where the kernel tells nothing.
const RESCAN: Duration = Duration::from_secs(1);

/// Files rest once two looks this far apart saw the same.
const QUIET: Duration = Duration::from_millis(100);

/// How long a file may be empty or gone before that is taken for what it is.
const MOMENT: Duration = Duration::from_millis(800);

/// Files that never rest are taken as they are after this long.
const RESTLESS: Duration = Duration::from_secs(3);

/// The least time between two looks, however much happens in the folders.
const BREATH: Duration = Duration::from_millis(20);

/// Watches the files of some places.
#[derive(Debug)]
pub struct Watch {
    places: Arc<[Place]>,
    /// What the owner knows.
    known: Arc<Look>,
    hints: Hints,
    /// Whether to listen to the kernel.
    kernel: bool,
}

fn absolute(places: impl IntoIterator<Item = Place>) -> Arc<[Place]> {
    let absolute = |path: path::PathBuf| path::absolute(&path).unwrap_or(path);
    let places = places.into_iter().map(|place| match place {
        Place::File(path) => Place::File(absolute(path)),
        Place::Folder { path, endings } => Place::Folder { path: absolute(path), endings },
    });
    places.collect()
}

impl Watch {
    /// Watches places; all that is there is new at first. Paths that are not absolute are relative to the working directory as it is now.
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        Self::with(places, true)
    }

    fn with(places: impl IntoIterator<Item = Place>, kernel: bool) -> Self {
        let places = absolute(places);
        Self { hints: Hints::new(places.clone(), kernel), places, known: Arc::default(), kernel }
    }

    /// Watches other places from now on, which the owner has just read: they are known as they are now. Files that were watched before are known as
    /// they were.
    pub async fn turn_to(&mut self, places: impl IntoIterator<Item = Place>) {
        self.places = absolute(places);
        self.hints = Hints::new(self.places.clone(), self.kernel);
        let look = self.look().await;
        self.known = Arc::new(look.but_for(&self.known));
    }

    /// Waits until the files hold something else than what the owner knows, and rest. May be dropped at any time: nothing is lost then.
    pub async fn changed(&mut self) {
        loop {
            let look = self.look().await;
            if self.settle(look).await {
                return;
            }
            tokio::select! {
                () = self.hints.stirred() => sleep(BREATH).await,
                () = sleep(RESCAN) => {}
            }
        }
    }

    /// Reads the files by `read`, aside from other tasks, and again if they changed meanwhile: what it gives stood there at one moment, complete.
    pub async fn read<T: Send + 'static>(&mut self, read: impl Fn() -> T + Send + Sync + 'static) -> T {
        let read = Arc::new(read);
        loop {
            let look = self.look().await;
            self.settle(look).await;
            let value = aside({
                let read = read.clone();
                move || read()
            });
            let value = value.await;
            if self.look().await == *self.known && !self.hints.is_being_written() {
                return value;
            }
        }
    }

    async fn look(&mut self) -> Look {
        self.hints.follow(&self.known);
        let (places, known) = (self.places.clone(), self.known.clone());
        aside(move || Look::at(&places, &known)).await
    }

    /// Waits until the files rest, from a first look on, and takes what they hold then for known. Whether that is something new.
    async fn settle(&mut self, mut look: Look) -> bool {
        let begun = Instant::now();
        while look != *self.known || self.hints.is_being_written() {
            sleep(if self.hints.is_complete() { QUIET } else { RESCAN }).await;
            let next = self.look().await;
            let restless = next != look && begun.elapsed() < RESTLESS;
            let lacking = next.lacks(&self.known) && begun.elapsed() < MOMENT;
            look = next;
            if !(restless || lacking || self.hints.is_being_written()) {
                break;
            }
        }
        let new = look != *self.known;
        // Also where nothing is new: the stamps are.
        self.known = Arc::new(look);
        new
    }
}

/// Runs what may wait for a disk, or compute for long, where nobody waits for it.
pub(in crate::control) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            // The runtime ends.
            Err(_) => future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
