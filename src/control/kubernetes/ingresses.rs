//! The Ingresses of a cluster laid over the routes of files, again whenever either changes.

use std::{future::pending, sync::Arc};

use tokio::{
    sync::watch as slot,
    time::{Instant, sleep_until},
};

use super::{
    Cluster,
    objects::Objects,
    translate::{Translation, translate},
};
use crate::{
    config::kubernetes::{Kubernetes, RouteTemplate},
    control::reconciler::{IngressChange, IngressFeed},
    model::{
        ingress::{CertificatePair, Routing},
        moment::unix_now,
        registration::Unusable,
    },
};

/// What the problems of Ingresses are filed under.
const SOURCE: &str = "kubernetes ingresses";

/// The Ingresses that are routes; by default of no cluster.
#[derive(Debug, Default)]
pub struct Ingresses {
    followed: Option<Followed>,
    certificates: Vec<Arc<CertificatePair>>,
    /// Whether there were routes of Ingresses: nothing but newer ones takes their place.
    translated: bool,
}

#[derive(Debug)]
struct Followed {
    objects: slot::Receiver<Objects>,
    controller: Arc<str>,
    template: Arc<RouteTemplate>,
    /// Of the objects that were looked at last.
    version: u64,
}

impl Ingresses {
    /// From now on follows those of `cluster`, as the files say; those of none if they say nothing of Ingresses.
    pub fn turn_to(&mut self, cluster: Option<&Arc<Cluster>>, settings: Option<&Kubernetes>) {
        self.followed = cluster.zip(settings).and_then(|(cluster, settings)| {
            let controller = cluster.config.ingresses.as_ref()?.controller.clone();
            Some(Followed { objects: cluster.objects.clone(), controller, template: settings.template.clone(), version: 0 })
        });
    }

    /// Waits until there may be other routes than were told last, and until `rested`: what comes before is told together.
    pub async fn changed(&mut self, rested: Instant) {
        let Some(Followed { objects, version, .. }) = &mut self.followed else { return pending().await };
        sleep_until(rested).await;
        // Ends only with the process.
        if objects.wait_for(|known| known.routes_version != *version).await.is_err() {
            pending().await
        }
    }

    /// The routes of files with those of the Ingresses, whose certificates and problems are told to `feed`. `None` until all of them are known; but where
    /// the server refuses a list, and there never were any, the routes of files alone: a right does not come by waiting.
    pub fn over(&mut self, files: &Arc<Routing>, feed: &IngressFeed) -> Option<Arc<Routing>> {
        let Some(Followed { objects, controller, template, version }) = &mut self.followed else {
            self.tell(Translation::default(), feed);
            return Some(files.clone());
        };
        let objects = objects.borrow_and_update();
        *version = objects.routes_version;
        let awaited = objects.awaited();
        if !awaited.is_empty() {
            let refused = awaited.iter().filter_map(|(name, why)| Some(refusal(name, (*why)?))).collect::<Vec<_>>();
            let alone = !self.translated && !refused.is_empty();
            feed.send(IngressChange::Problems { source: SOURCE.into(), problems: refused });
            feed.send(IngressChange::Awaited(awaited.into_iter().map(|(name, _)| name).collect()));
            return alone.then(|| files.clone());
        }
        let translation = translate(&objects, files, controller, template, &self.certificates, unix_now());
        drop(objects);
        self.translated = true;
        let routing = Arc::new(translation.routing.clone());
        self.tell(translation, feed);
        Some(routing)
    }

    fn tell(&mut self, Translation { certificates, problems, .. }: Translation, feed: &IngressFeed) {
        feed.send(IngressChange::Problems { source: SOURCE.into(), problems });
        feed.send(IngressChange::Awaited(Vec::new()));
        if certificates != self.certificates {
            self.certificates = certificates;
            feed.send(IngressChange::ClusterCertificates(self.certificates.clone()));
        }
    }
}

fn refusal(watch: &str, why: &str) -> Unusable {
    let advice = "give the account this right; until then there are no routes of Ingresses".to_owned();
    Unusable { path: watch.to_owned(), why: why.to_owned(), advice }
}
