//! The Ingresses of a cluster laid over the routes of files, again whenever either changes.

use std::{future::pending, sync::Arc};

use tokio::sync::watch as slot;

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
    },
};

/// What the problems of Ingresses are filed under.
const SOURCE: &str = "kubernetes ingresses";

/// The Ingresses that are routes; by default of no cluster.
#[derive(Debug, Default)]
pub struct Ingresses {
    followed: Option<Followed>,
    certificates: Vec<Arc<CertificatePair>>,
}

#[derive(Debug)]
struct Followed {
    objects: slot::Receiver<Objects>,
    controller: Arc<str>,
    template: Arc<RouteTemplate>,
    /// Of the objects that were translated last.
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

    /// Waits until there may be other routes than were told last.
    pub async fn changed(&mut self) {
        let Some(Followed { objects, version, .. }) = &mut self.followed else { return pending().await };
        // Ends only with the process.
        if objects.wait_for(|known| known.complete() && known.routes_version != *version).await.is_err() {
            pending().await
        }
    }

    /// The routes of files with those of the Ingresses, whose certificates and problems are told to `feed`. `None` until all of them are known.
    pub fn over(&mut self, files: &Arc<Routing>, feed: &IngressFeed) -> Option<Arc<Routing>> {
        let translation = match &mut self.followed {
            None => None,
            Some(followed) => {
                let objects = followed.objects.borrow_and_update();
                if !objects.complete() {
                    return None;
                }
                followed.version = objects.routes_version;
                Some(translate(&objects, files, &followed.controller, &followed.template, &self.certificates, unix_now()))
            }
        };
        let routing = translation.as_ref().map_or_else(|| files.clone(), |translation| Arc::new(translation.routing.clone()));
        let Translation { certificates, problems, .. } = translation.unwrap_or_default();
        feed.send(IngressChange::Problems { source: SOURCE.into(), problems });
        if certificates != self.certificates {
            self.certificates = certificates;
            feed.send(IngressChange::ClusterCertificates(self.certificates.clone()));
        }
        Some(routing)
    }
}
