//! What `aralez check` says of a cluster: the rights that lack, and what becomes of its Ingresses and Services.

use std::{mem, sync::Arc, time::Duration};

use k8s_openapi::{
    Resource,
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        networking::v1::Ingress,
    },
};
use kube::{Api, api::PostParams};
use tokio::time::timeout;

use super::{
    Cluster, connect, endpoints, namespaces,
    objects::Objects,
    translate::{Translation, translate},
};
use crate::{
    config::kubernetes::{Access, ClusterConfig, Kubernetes},
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
    let statuses = kubernetes.cluster.ingresses.as_mut().map(|ingresses| mem::take(&mut ingresses.status)).unwrap_or_default();
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
    if !statuses.is_empty() && in_time {
        may_write(&kubernetes.cluster, patience, report).await;
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

/// Says where our addresses cannot be written to the status of Ingresses.
async fn may_write(cluster: &ClusterConfig, patience: Duration, report: &mut Report) {
    let Ok(client) = connect::client(&cluster.access).await else { return };
    let api = Api::<SelfSubjectAccessReview>::all(client);
    for namespace in namespaces(cluster) {
        let text = |text: &str| Some(text.to_owned());
        let right = ResourceAttributes {
            verb: text("patch"),
            group: text(Ingress::GROUP),
            resource: text(Ingress::URL_PATH_SEGMENT),
            subresource: text("status"),
            namespace: namespace.as_deref().map(ToOwned::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(right), ..SelfSubjectAccessReviewSpec::default() };
        let question = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        // Who is not told of rights may have this one all the same.
        let Ok(Ok(answer)) = timeout(patience, api.create(&PostParams::default(), &question)).await else { continue };
        if answer.status.is_some_and(|status| !status.allowed) {
            let place = namespace.map_or_else(|| "at the cluster scope".to_owned(), |namespace| format!("in the namespace {namespace}"));
            let why = format!("the account cannot patch resource \"ingresses/status\" in API group \"{}\" {place}", Ingress::GROUP);
            report.warning("kubernetes status", why, "give it this right; until then status_address is not written");
        }
    }
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
