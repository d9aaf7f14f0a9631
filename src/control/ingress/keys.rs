//! The keys of the token issuers that a routing names.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use crate::{
    control::{
        keys,
        reconciler::{IngressChange, IngressFeed},
        watches::Watches,
    },
    model::{ingress::Routing, jwt::KeyPlace},
};

/// How long a routing waits for the first keys of its issuers. Until they are there no token of theirs stands.
const FIRST: Duration = Duration::from_secs(5);

/// Keeps the keys of a routing's issuers fresh. The watches end with it.
#[derive(Debug)]
pub struct Keys {
    feed: IngressFeed,
    watches: Arc<Watches>,
    places: HashMap<KeyPlace, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Keys {
    /// No keys yet; those that come are told to `feed`.
    pub fn new(feed: IngressFeed, watches: Arc<Watches>) -> Self {
        Self { feed, watches, places: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Looks after the places that this routing names from now on, and after no other. Returns when each has been read once, or after five seconds.
    pub async fn adopt(&mut self, routing: &Routing) {
        let wanted: HashSet<&KeyPlace> = routing.key_places().collect();
        self.places.retain(|place, task| {
            let stays = wanted.contains(place);
            if !stays {
                task.abort();
            }
            stays
        });
        let mut read = Vec::new();
        for place in wanted.into_iter().filter(|place| !self.places.contains_key(place)).cloned().collect::<Vec<_>>() {
            let (done, first) = watch::channel(());
            read.push(first);
            let (feed, watches, named) = (self.feed.clone(), self.watches.clone(), place.clone());
            let task = self.tasks.spawn(async move {
                let tell = |keys| {
                    feed.send(IngressChange::Keys { place: named.clone(), keys });
                    done.send_replace(());
                };
                keys::run(&named, &watches, tell).await;
            });
            self.places.insert(place, task);
        }
        let all = async {
            for mut first in read {
                // An error means that the watch has ended, so there is nothing to wait for.
                let _ = first.changed().await;
            }
        };
        let _ = timeout(FIRST, all).await;
        while self.tasks.try_join_next().is_some() {}
    }
}
