//! `status.loadBalancer` of our Ingresses: where clients reach us.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch::Receiver, time::timeout};
use tracing::debug;

use super::{objects::Objects, translate::ours};
use crate::{
    config::kubernetes::IngressConfig,
    control::{
        consul::error::chain,
        watches::{Watch, Watches},
    },
};

/// The pause after a failure, and how long a write may take.
const PAUSE: Duration = Duration::from_secs(10);

/// Writes the addresses to each of our Ingresses that does not have them, until it is dropped. Without addresses it does nothing.
pub async fn write(client: Client, config: IngressConfig, mut objects: Receiver<Objects>, watches: Arc<Watches>) {
    if config.status.is_empty() {
        return;
    }
    let watch = watches.register("kubernetes status");
    let wanted: Vec<_> = config.status.iter().map(entry).collect();
    loop {
        let (lacking, version): (Vec<Arc<Ingress>>, _) = {
            let objects = objects.borrow_and_update();
            let known = if objects.awaited().is_empty() { ours(&objects, &config.controller) } else { Vec::new() };
            (known.into_iter().filter(|ingress| present(ingress) != wanted).cloned().collect(), objects.routes_version)
        };
        let mut failed = false;
        for ingress in lacking {
            failed |= !patch(&client, &ingress, &wanted, &watch).await;
        }
        let changed = objects.wait_for(|known| known.routes_version != version);
        if failed {
            // Tried again after a while, or when something changes.
            let _ = timeout(PAUSE, changed).await;
        } else if changed.await.is_err() {
            return;
        }
    }
}

fn entry(text: &Arc<str>) -> IngressLoadBalancerIngress {
    let is_ip = text.parse::<IpAddr>().is_ok();
    let text = Some(text.to_string());
    if is_ip {
        IngressLoadBalancerIngress { ip: text, ..Default::default() }
    } else {
        IngressLoadBalancerIngress { hostname: text, ..Default::default() }
    }
}

fn present(ingress: &Ingress) -> &[IngressLoadBalancerIngress] {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// Whether it was written. An Ingress that has gone meanwhile needs no status.
async fn patch(client: &Client, ingress: &Ingress, wanted: &[IngressLoadBalancerIngress], watch: &Watch) -> bool {
    let (namespace, name) = (ingress.namespace().unwrap_or_default(), ingress.name_any());
    let api = Api::<Ingress>::namespaced(client.clone(), &namespace);
    let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": wanted}}}));
    let (parameters, status) = (PatchParams::default(), &status);
    let written = match timeout(PAUSE, api.patch_status(&name, &parameters, status)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
        Ok(Err(kube::Error::Api(answer))) => Err(format!("{namespace}/{name}: {}: {}", answer.code, answer.message)),
        Ok(Err(why)) => Err(format!("{namespace}/{name}: {}", chain(&why))),
        Err(_) => Err(format!("{namespace}/{name}: no answer within {} s", PAUSE.as_secs())),
    };
    match &written {
        Ok(()) => {
            debug!(namespace, name, "wrote the status of an Ingress");
            watch.succeeded();
        }
        Err(why) => watch.failed(why, PAUSE),
    }
    written.is_ok()
}
