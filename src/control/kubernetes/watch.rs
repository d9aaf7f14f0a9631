//! One watch: list, then follow from its version; again from there when the server ends it, from a new list when that version is too old for the server.
//!
//! Whatever fails, what was known before stays: only a whole list replaces it.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Error, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::watch::Sender,
    time::{Instant, sleep, timeout},
};

use super::objects::{Kind, Objects};
use crate::control::{consul::error::chain, watches::Watch};

/// Objects of a list that come in one answer.
const PAGE: u32 = 500;
/// How long a page of a list may take.
const LIST: Duration = Duration::from_secs(30);
/// How long the server may hold a watch, seconds.
const HELD: u32 = 290;
/// How long a watch may be silent. Servers send a bookmark a minute, and end the watch after [`HELD`].
const SILENCE: Duration = Duration::from_secs(300);
/// The pause after a failure; doubled with each one in a row …
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A watch that ends sooner, with nothing heard, counts as a failure.
const BRIEF: Duration = Duration::from_secs(1);

/// `410 Gone`: the version is older than what the server remembers.
const GONE: u16 = 410;
/// `403 Forbidden`.
const FORBIDDEN: u16 = 403;

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The version is too old.
    #[error("the version that was followed is too old for the server")]
    Gone,
    /// The account lacks a right, which the server names.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Failed(String),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the server ends the watch at once")]
    Brief,
    #[error("the list has no resourceVersion")]
    Unversioned,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(status) => Self::of_status(status.code, &status.message),
            other => Self::Failed(chain(&other)),
        }
    }
}

impl Failure {
    fn of_status(code: u16, message: &str) -> Self {
        match code {
            GONE => Self::Gone,
            FORBIDDEN => Self::Forbidden(format!("{code}: {message}")),
            _ => Self::Failed(format!("{code}: {message}")),
        }
    }
}

/// Keeps the objects of a kind fresh until it is dropped.
pub async fn follow<K: Kind>(api: Api<K>, namespace: Option<Arc<str>>, objects: Arc<Sender<Objects>>, watch: Watch) {
    let mut following = Following { api, namespace, objects, watch, version: None };
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let outcome = if following.version.is_none() { following.list().await } else { following.changes().await };
        match outcome {
            Ok(()) => pause = FIRST_PAUSE,
            Err(why) => {
                match &why {
                    Failure::Gone => following.version = None,
                    Failure::Forbidden(why) => following.forbidden(why),
                    _ => {}
                }
                if began.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                let delay = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                following.watch.failed(&why.to_string(), delay);
                sleep(delay).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

struct Following<K> {
    api: Api<K>,
    namespace: Option<Arc<str>>,
    objects: Arc<Sender<Objects>>,
    watch: Watch,
    /// From which on changes are asked for; none before a list was read.
    version: Option<String>,
}

impl<K: Kind> Following<K> {
    /// Reads all objects.
    async fn list(&mut self) -> Result<(), Failure> {
        let mut list = Vec::new();
        let mut asked = ListParams { limit: Some(PAGE), field_selector: K::FIELDS.map(ToOwned::to_owned), ..ListParams::default() };
        let version = loop {
            let page = timeout(LIST, self.api.list(&asked)).await.map_err(|_| Failure::Silent(LIST))??;
            list.extend(page.items);
            asked.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if asked.continue_token.is_none() {
                break page.metadata.resource_version;
            }
        };
        self.version = Some(version.ok_or(Failure::Unversioned)?);
        list.iter_mut().for_each(trim);
        self.objects.send_modify(|objects| {
            K::store(objects).replace(&self.namespace, list);
            objects.routes_version += 1;
        });
        self.watch.succeeded();
        Ok(())
    }

    /// Says so to whoever awaits the first list.
    fn forbidden(&self, why: &str) {
        self.objects.send_if_modified(|objects| {
            let news = K::store(objects).refused(&self.namespace, why);
            objects.routes_version += u64::from(news);
            news
        });
    }

    /// Follows changes until the server ends the watch.
    async fn changes(&mut self) -> Result<(), Failure> {
        let asked = WatchParams { timeout: Some(HELD), field_selector: K::FIELDS.map(ToOwned::to_owned), ..WatchParams::default() };
        let (began, mut heard) = (Instant::now(), false);
        let version = self.version.clone().unwrap_or_default();
        let events = timeout(LIST, self.api.watch(&asked, &version)).await.map_err(|_| Failure::Silent(LIST))??;
        self.watch.succeeded();
        let mut events = pin!(events);
        while let Some(event) = timeout(SILENCE, events.next()).await.map_err(|_| Failure::Silent(SILENCE))? {
            self.event(event?)?;
            self.watch.succeeded();
            heard = true;
        }
        if heard || began.elapsed() >= BRIEF { Ok(()) } else { Err(Failure::Brief) }
    }

    fn event(&mut self, event: WatchEvent<K>) -> Result<(), Failure> {
        match event {
            WatchEvent::Added(mut object) | WatchEvent::Modified(mut object) => {
                self.version = object.resource_version().or(self.version.take());
                trim(&mut object);
                self.change(|objects| K::store(objects).apply(object));
            }
            WatchEvent::Deleted(object) => {
                self.version = object.resource_version().or(self.version.take());
                self.change(|objects| K::store(objects).remove(&object));
            }
            WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(Failure::of_status(status.code, &status.message)),
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Objects)) {
        self.objects.send_modify(|objects| {
            change(objects);
            objects.routes_version += u64::from(K::ROUTES);
        });
    }
}

/// Drops what nobody reads, and what is often most of an object.
fn trim<K: Kind>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}
