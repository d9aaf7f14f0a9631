//! What the kernel tells of the folders that files lie in: a reason to look, never more.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::info;

use super::look::{Look, Place};

/// A file that is open for writing, but in which nothing was written for this long, counts as complete.
const WRITER: Duration = Duration::from_secs(2);

/// Watches folders by inotify, if there is such a thing.
#[derive(Debug)]
pub(super) struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// The folders that are watched, each by its device and inode: a folder that is made anew must be watched anew.
    watched: HashMap<PathBuf, (u64, u64)>,
    heard: Arc<Heard>,
}

/// What was heard.
#[derive(Debug)]
struct Heard {
    places: Arc<[Place]>,
    /// Files that links among the places lead to.
    targets: Mutex<HashSet<PathBuf>>,
    /// Files that are being written: written to, and not closed since.
    writers: Mutex<HashMap<PathBuf, Instant>>,
    stirred: Notify,
}

impl Hints {
    /// Nothing is watched before the first [`Hints::follow`]; nothing ever is without the `kernel`.
    pub(super) fn new(places: Arc<[Place]>, kernel: bool) -> Self {
        let heard = Arc::new(Heard { places, targets: Mutex::default(), writers: Mutex::default(), stirred: Notify::new() });
        let ear = heard.clone();
        let watcher = kernel.then(|| notify::recommended_watcher(move |event| ear.hear(event)));
        let watcher = watcher.and_then(|made| made.inspect_err(|why| info!(%why, "files are looked at every second only")).ok());
        Self { watcher, watched: HashMap::new(), heard }
    }

    /// Watches the folders of the places, and those of the files that links lead to, as they are now.
    pub(super) fn follow(&mut self, look: &Look) {
        let Some(watcher) = &mut self.watcher else { return };
        let places = self.heard.places.iter().map(Place::folder);
        // A folder that is yet to come is announced by the one above it.
        let above =
            self.heard.places.iter().filter(|place| matches!(place, Place::Folder { .. })).filter_map(|place| place.folder().parent());
        let folders: HashSet<&Path> = places.chain(above).chain(look.targets.iter().filter_map(|target| target.parent())).collect();
        self.watched.retain(|folder, id| {
            let stays = folders.contains(&**folder) && identity(folder) == Some(*id);
            if !stays {
                // It may be gone, and the watch with it.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        for folder in folders {
            if let Some(id) = identity(folder)
                && !self.watched.contains_key(folder)
                && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(folder.to_owned(), id);
            }
        }
        self.heard.targets.lock().clone_from(&look.targets);
    }

    /// Whether the kernel tells of every folder that exists.
    pub(super) fn is_complete(&self) -> bool {
        self.watcher.is_some()
            && self.heard.places.iter().map(Place::folder).all(|folder| self.watched.contains_key(folder) || !folder.exists())
    }

    /// Waits for something to happen in the folders.
    pub(super) async fn stirred(&self) {
        self.heard.stirred.notified().await;
    }

    /// Whether somebody is in the middle of writing one of the files.
    pub(super) fn is_being_written(&self) -> bool {
        let mut writers = self.heard.writers.lock();
        writers.retain(|_, last| last.elapsed() < WRITER);
        !writers.is_empty()
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|found| (found.dev(), found.ino()))
}

impl Heard {
    fn hear(&self, event: notify::Result<Event>) {
        // After an overflow or an error anything may have happened.
        let Ok(event) = event else { return self.stirred.notify_one() };
        let concerns = || event.paths.iter().any(|path| self.concerns(path));
        let stirs = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.closed(&event.paths);
                concerns()
            }
            // Our own reading is among these.
            EventKind::Access(_) => false,
            EventKind::Modify(ModifyKind::Data(_)) => {
                let written: Vec<_> = event.paths.iter().filter(|path| self.concerns(path)).cloned().collect();
                let stirs = !written.is_empty();
                self.writers.lock().extend(written.into_iter().map(|path| (path, Instant::now())));
                stirs
            }
            EventKind::Modify(ModifyKind::Metadata(_)) => concerns(),
            // Names come and go: links may be among them.
            _ => {
                self.closed(&event.paths);
                true
            }
        };
        if stirs {
            self.stirred.notify_one();
        }
    }

    /// What was known of writers of these paths holds no more.
    fn closed(&self, paths: &[PathBuf]) {
        let mut writers = self.writers.lock();
        for path in paths {
            writers.remove(path);
        }
    }

    /// Whether what is written to this file is written to one of ours. Others that lie beside them, logs perhaps, are none of our business.
    fn concerns(&self, path: &Path) -> bool {
        self.places.iter().any(|place| place.covers(path)) || self.targets.lock().contains(path)
    }
}
