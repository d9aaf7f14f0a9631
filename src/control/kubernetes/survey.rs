//! What `aralez check` says of a cluster: the rights that lack, and what becomes of its Ingresses and Services.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    Cluster, connect, endpoints,
    objects::Objects,
    translate::{Translation, translate},
};
use crate::{
    config::kubernetes::{Access, Kubernetes},
    control::watches::Watches,
    model::{
        finding::{Finding, Report},
        ingress::{PoolSource, Routing},
        moment::unix_now,
    },
};

/// What is to be done where the cluster is not as it should be.
const WAITS: &str = "a start waits for it";

/// Why the API server cannot be asked from here, as far as files and the environment say: nothing is asked.
///
/// # Errors
/// In words.
pub async fn way(access: &Access) -> Result<(), String> {
    connect::config(access).await.map(drop)
}

/// Reads everything that would be watched, in `patience` at the most, and says what becomes of it beside the routes of `files`. Nothing is written.
pub async fn survey(mut kubernetes: Kubernetes, files: &Routing, patience: Duration, report: &mut Report) {
    if let Err(why) = way(&kubernetes.cluster.access).await {
        return report.error("kubernetes access", why, WAITS);
    }
    if let Some(ingresses) = &mut kubernetes.cluster.ingresses {
        ingresses.status.clear();
    }
    let watches = Arc::new(Watches::default());
    let cluster = Cluster::start(kubernetes.cluster.clone(), watches.clone());
    let mut objects = cluster.objects.clone();
    let answered = objects.wait_for(|objects| objects.awaited().iter().all(|(_, refused)| refused.is_some()));
    let in_time = timeout(patience, answered).await.is_ok();
    for watch in watches.snapshot() {
        if let Some(why) = watch.last_error {
            report.error(watch.name, why, WAITS);
        }
    }
    let objects = objects.borrow();
    if !objects.awaited().is_empty() {
        if !in_time {
            report.error("kubernetes", format!("not everything was answered within {patience:?}"), "-timeout-seconds gives it longer");
        }
        return;
    }
    told(&objects, &kubernetes, files, report);
}

fn told(objects: &Objects, kubernetes: &Kubernetes, files: &Routing, report: &mut Report) {
    let Translation { routing, problems, .. } = match &kubernetes.cluster.ingresses {
        Some(ingresses) => translate(objects, files, &ingresses.controller, &kubernetes.template, &[], unix_now()),
        None => Translation { routing: files.clone(), ..Translation::default() },
    };
    report.findings.extend(problems.into_iter().map(Finding::error));
    for pool in &routing.pools {
        let PoolSource::Kubernetes(service) = &pool.source else { continue };
        let path = format!("route {}", pool.id);
        match endpoints::endpoints(objects, service).as_deref() {
            Err(why) => report.error(path, why, "see to the Service and its ports; until then it is answered with 503"),
            Ok([]) => report.warning(
                path,
                format!("no pod of Service {}/{} is ready", service.namespace, service.name),
                "it is answered with 503",
            ),
            Ok(list) => report.facts.push(format!("{path}: Service {}/{}, {} endpoints", service.namespace, service.name, list.len())),
        }
    }
}
