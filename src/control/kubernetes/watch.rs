//! One watch: list, then follow from its version; again from there when the server ends it, from a new list when that version is too old for the server.
//!
//! Whatever fails, what was known before stays: only a whole list replaces it.

use std::{iter, mem, pin::pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::watch::Sender,
    time::{Instant, sleep, timeout},
};

use super::{
    connect::Clients,
    objects::{Kind, Objects, Store},
};
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
/// `401 Unauthorized`.
pub const UNAUTHORIZED: u16 = 401;
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
    /// The server does not know us (401), or we do not trust its certificate.
    #[error("{0}")]
    Credentials(String),
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
            other if is_tls(&other) => Self::Credentials(chain(&other)),
            other => Self::Failed(chain(&other)),
        }
    }
}

impl Failure {
    fn of_status(code: u16, message: &str) -> Self {
        match code {
            GONE => Self::Gone,
            UNAUTHORIZED => Self::Credentials(format!("{code}: {message}")),
            FORBIDDEN => Self::Forbidden(format!("{code}: {message}")),
            _ => Self::Failed(format!("{code}: {message}")),
        }
    }
}

/// Whether a failure is one of TLS.
fn is_tls(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    iter::successors(Some(first), |error| error.source()).any(|error| error.is::<openssl::ssl::Error>())
}

/// Where the objects of a namespace are, or of all.
pub type Place<K> = fn(Client, Option<&str>) -> Api<K>;

/// Keeps the objects of a kind fresh until it is dropped.
pub async fn follow<K: Kind>(
    clients: Arc<Clients>,
    place: Place<K>,
    namespace: Option<Arc<str>>,
    objects: Arc<Sender<Objects>>,
    watch: Watch,
) {
    let mut following = Following { clients, place, namespace, objects, watch, version: None, worked: false };
    let mut pause = FIRST_PAUSE;
    // Whether that happened since a watch last worked: the version was too old, somebody's credentials were refused.
    let (mut gone, mut doubted) = (false, false);
    loop {
        let began = Instant::now();
        following.worked = false;
        let outcome = if following.version.is_none() { following.list().await } else { following.changes().await };
        if outcome.is_ok() || following.worked || began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        if following.worked {
            (gone, doubted) = (false, false);
        }
        let Err(why) = outcome else { continue };
        let refused = matches!(why, Failure::Credentials(_));
        if refused && mem::replace(&mut doubted, true) && following.clients.renew().await {
            continue;
        }
        match &why {
            Failure::Gone => {
                following.version = None;
                // The server answers: nothing is to be waited for, unless it says so of each new list.
                pause = FIRST_PAUSE;
                if !mem::replace(&mut gone, true) {
                    continue;
                }
            }
            Failure::Forbidden(why) => following.forbidden(why),
            _ => {}
        }
        let delay = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        following.watch.failed(&why.to_string(), delay);
        sleep(delay).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

struct Following<K> {
    clients: Arc<Clients>,
    place: Place<K>,
    namespace: Option<Arc<str>>,
    objects: Arc<Sender<Objects>>,
    watch: Watch,
    /// From which on changes are asked for; none before a list was read.
    version: Option<String>,
    /// Whether the last watch lasted, or told something.
    worked: bool,
}

impl<K: Kind> Following<K> {
    fn api(&self) -> Api<K> {
        (self.place)(self.clients.now(), self.namespace.as_deref())
    }

    /// Reads all objects.
    async fn list(&mut self) -> Result<(), Failure> {
        let mut list = Vec::new();
        let mut asked = ListParams { limit: Some(PAGE), field_selector: K::FIELDS.map(ToOwned::to_owned), ..ListParams::default() };
        let api = self.api();
        let version = loop {
            let page = timeout(LIST, api.list(&asked)).await.map_err(|_| Failure::Silent(LIST))??;
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

    /// Says so to whoever awaits the first list, or that it is followed.
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
        let version = self.version.clone().unwrap_or_default();
        let events = timeout(LIST, self.api().watch(&asked, &version)).await.map_err(|_| Failure::Silent(LIST))??;
        self.accepted();
        let began = Instant::now();
        let outcome = self.told(events).await;
        self.worked |= began.elapsed() >= BRIEF;
        outcome.and(if self.worked { Ok(()) } else { Err(Failure::Brief) })
    }

    /// Takes what a watch tells until the server ends it.
    async fn told(&mut self, events: impl Stream<Item = Result<WatchEvent<K>, Error>>) -> Result<(), Failure> {
        let mut events = pin!(events);
        while let Some(event) = timeout(SILENCE, events.next()).await.map_err(|_| Failure::Silent(SILENCE))? {
            self.event(event?)?;
            self.watch.succeeded();
            self.worked = true;
        }
        Ok(())
    }

    /// Only now is a list known: without the right to follow it, it would be served for ever as it was once.
    fn accepted(&self) {
        self.watch.succeeded();
        self.objects.send_if_modified(|objects| {
            let news = K::store(objects).followed(&self.namespace);
            objects.routes_version += u64::from(news);
            news
        });
    }

    fn event(&mut self, event: WatchEvent<K>) -> Result<(), Failure> {
        match event {
            WatchEvent::Added(mut object) | WatchEvent::Modified(mut object) => {
                self.version = object.resource_version().or(self.version.take());
                trim(&mut object);
                self.change(|store| store.apply(object));
            }
            WatchEvent::Deleted(object) => {
                self.version = object.resource_version().or(self.version.take());
                self.change(|store| {
                    store.remove(&object);
                    true
                });
            }
            WatchEvent::Bookmark(mark) => self.version = Some(mark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(Failure::of_status(status.code, &status.message)),
        }
        Ok(())
    }

    /// Makes a change, which says whether other routes may come of it.
    fn change(&self, change: impl FnOnce(&mut Store<K>) -> bool) {
        self.objects.send_modify(|objects| {
            let news = change(K::store(objects));
            objects.routes_version += u64::from(K::ROUTES && news);
            objects.status_changes += u64::from(K::ROUTES && !news);
        });
    }
}

/// Drops what nobody reads, and what is often most of an object.
fn trim<K: Kind>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

#[cfg(test)]
mod tests;
