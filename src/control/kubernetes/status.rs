//! `status.loadBalancer` of our Ingresses: where clients reach us.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use super::{connect::Clients, objects::Objects, translate::ours, watch::UNAUTHORIZED};
use crate::{
    config::kubernetes::IngressConfig,
    control::{
        consul::error::chain,
        watches::{Watch, Watches},
    },
};

/// The pause after a failure, how long a write may take, and the shortest time between two writes to an Ingress: others may want another status.
const PAUSE: Duration = Duration::from_secs(10);

/// Writes the addresses to each of our Ingresses that does not have them, and takes them from those that are ours no more, until it is dropped. Without
/// addresses it does nothing.
pub async fn write(clients: Arc<Clients>, config: IngressConfig, mut objects: Receiver<Objects>, watches: Arc<Watches>) {
    if config.status.is_empty() {
        return;
    }
    let watch = watches.register("kubernetes status");
    let version = |objects: &Objects| (objects.routes_version, objects.status_changes);
    let mut statuses = Statuses::new(&config);
    loop {
        let (Due { writes, mut again }, seen) = {
            let objects = objects.borrow_and_update();
            (statuses.due(&objects, Instant::now()), version(&objects))
        };
        for (ingress, addresses) in writes {
            if !patch(&clients, &ingress, addresses, &watch).await {
                again = again.or(Some(Instant::now() + PAUSE));
            }
        }
        let changed = objects.wait_for(|known| version(known) != seen);
        let ended = match again {
            Some(at) => timeout_at(at, changed).await.is_ok_and(|changed| changed.is_err()),
            None => changed.await.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// An Ingress by namespace, name and UID: of one that is made anew nothing was written yet.
type Key = (Option<String>, String, Option<String>);

fn key(ingress: &Ingress) -> Key {
    (ingress.namespace(), ingress.name_any(), ingress.uid())
}

/// Whose status is as it should be.
struct Statuses {
    controller: Arc<str>,
    wanted: Arc<[IngressLoadBalancerIngress]>,
    /// Those that were ours at the last look, or have our addresses still.
    ours: BTreeSet<Key>,
    /// When addresses were written last, or taken away, as far as that matters.
    tried: BTreeMap<(Key, bool), Instant>,
}

/// What is to be written.
struct Due {
    writes: Vec<(Arc<Ingress>, Arc<[IngressLoadBalancerIngress]>)>,
    /// When there is more to do.
    again: Option<Instant>,
}

impl Statuses {
    fn new(config: &IngressConfig) -> Self {
        let wanted = config.status.iter().map(entry).collect();
        Self { controller: config.controller.clone(), wanted, ours: BTreeSet::new(), tried: BTreeMap::new() }
    }

    /// What is to be written now; it counts as written.
    fn due(&mut self, objects: &Objects, now: Instant) -> Due {
        let mut due = Due { writes: Vec::new(), again: None };
        if !objects.awaited().is_empty() {
            return due;
        }
        self.tried.retain(|_, at| now < *at + PAUSE);
        let ours = ours(objects, &self.controller);
        let mut known: BTreeSet<Key> = ours.iter().map(|ingress| key(ingress)).collect();
        let has_ours = |ingress: &Ingress| present(ingress) == &*self.wanted;
        let left = |ingress: &&Arc<Ingress>| {
            let key = key(ingress);
            self.ours.contains(&key) && !known.contains(&key) && has_ours(ingress)
        };
        let left: Vec<_> = objects.ingresses.iter().filter(left).collect();
        let lacking = ours.into_iter().filter(|ingress| !has_ours(ingress)).map(|ingress| (ingress, self.wanted.clone()));
        for (ingress, addresses) in lacking.chain(left.iter().map(|ingress| (*ingress, Arc::default()))) {
            let what = (key(ingress), addresses.is_empty());
            if let Some(at) = self.tried.get(&what) {
                due.again = Some(due.again.map_or(*at + PAUSE, |again| again.min(*at + PAUSE)));
            } else {
                self.tried.insert(what, now);
                due.writes.push((ingress.clone(), addresses));
            }
        }
        known.extend(left.into_iter().map(|ingress| key(ingress)));
        self.ours = known;
        due
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
async fn patch(clients: &Clients, ingress: &Ingress, addresses: Arc<[IngressLoadBalancerIngress]>, watch: &Watch) -> bool {
    let (namespace, name) = (ingress.namespace().unwrap_or_default(), ingress.name_any());
    let api = Api::<Ingress>::namespaced(clients.now(), &namespace);
    let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": &*addresses}}}));
    let (parameters, status) = (PatchParams::default(), &status);
    let written = match timeout(PAUSE, api.patch_status(&name, &parameters, status)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
        Ok(Err(kube::Error::Api(answer))) => {
            if answer.code == UNAUTHORIZED {
                clients.renew().await;
            }
            Err(format!("{namespace}/{name}: {}: {}", answer.code, answer.message))
        }
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::IngressClass;
    use serde_json::Value;

    use super::*;
    use crate::control::kubernetes::objects::Kind;

    fn apply<K: Kind>(objects: &mut Objects, object: Value) {
        K::store(objects).apply(serde_json::from_value(object).unwrap());
    }

    /// An Ingress of this class with these addresses in its status.
    fn ingress(name: &str, class: &str, addresses: &Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"ingressClassName": class},
            "status": {"loadBalancer": {"ingress": addresses}}})
    }

    fn cluster() -> (Objects, Statuses) {
        let mut objects = Objects::default();
        apply::<IngressClass>(&mut objects, json!({"metadata": {"name": "edge"}, "spec": {"controller": "us"}}));
        let config = IngressConfig { controller: "us".into(), status: vec!["192.0.2.7".into(), "edge.example".into()] };
        (objects, Statuses::new(&config))
    }

    /// What is to be written, by name with the number of addresses; and in how many seconds more.
    fn due(statuses: &mut Statuses, objects: &Objects, now: Instant) -> (Vec<(String, usize)>, Option<u64>) {
        let Due { writes, again } = statuses.due(objects, now);
        (writes.iter().map(|(ingress, addresses)| (ingress.name_any(), addresses.len())).collect(), again.map(|at| (at - now).as_secs()))
    }

    #[test]
    fn two_that_want_other_addresses_do_not_race() {
        let (mut objects, mut statuses) = cluster();
        let (began, seconds) = (Instant::now(), Duration::from_secs);
        let (wanted, theirs) = (json!([{"ip": "192.0.2.7"}, {"hostname": "edge.example"}]), json!([{"ip": "192.0.2.8"}]));
        apply::<Ingress>(&mut objects, ingress("one", "edge", &json!([])));
        assert_eq!(due(&mut statuses, &objects, began), (vec![("one".to_owned(), 2)], None));
        apply::<Ingress>(&mut objects, ingress("one", "edge", &wanted));
        assert_eq!(due(&mut statuses, &objects, began), (vec![], None));
        // Somebody else writes theirs, as often as they like.
        apply::<Ingress>(&mut objects, ingress("one", "edge", &theirs));
        apply::<Ingress>(&mut objects, ingress("two", "edge", &theirs));
        assert_eq!(due(&mut statuses, &objects, began + seconds(1)), (vec![("two".to_owned(), 2)], Some(9)));
        assert_eq!(due(&mut statuses, &objects, began + seconds(9)), (vec![], Some(1)));
        assert_eq!(due(&mut statuses, &objects, began + seconds(10)), (vec![("one".to_owned(), 2)], Some(1)));
        // One that is made anew under its name is another.
        let mut anew = ingress("one", "edge", &json!([]));
        anew["metadata"]["uid"] = "anew".into();
        apply::<Ingress>(&mut objects, anew);
        assert_eq!(due(&mut statuses, &objects, began + seconds(10)).0, [("one".to_owned(), 2)]);
    }

    #[test]
    fn addresses_go_from_those_that_are_ours_no_more() {
        let (mut objects, mut statuses) = cluster();
        let (began, wanted) = (Instant::now(), json!([{"ip": "192.0.2.7"}, {"hostname": "edge.example"}]));
        for (name, class) in [("one", "edge"), ("two", "edge"), ("never", "other")] {
            apply::<Ingress>(&mut objects, ingress(name, class, &wanted));
        }
        assert_eq!(due(&mut statuses, &objects, began), (vec![], None));
        // Of one that already has other addresses, nothing is ours.
        apply::<Ingress>(&mut objects, ingress("one", "other", &wanted));
        apply::<Ingress>(&mut objects, ingress("two", "other", &json!([{"ip": "192.0.2.8"}])));
        assert_eq!(due(&mut statuses, &objects, began), (vec![("one".to_owned(), 0)], None));
        // As long as it stays it is tried again.
        assert_eq!(due(&mut statuses, &objects, began), (vec![], Some(PAUSE.as_secs())));
        assert_eq!(due(&mut statuses, &objects, began + PAUSE), (vec![("one".to_owned(), 0)], None));
        apply::<Ingress>(&mut objects, ingress("one", "other", &json!([])));
        assert_eq!(due(&mut statuses, &objects, began + 2 * PAUSE), (vec![], None));
        apply::<Ingress>(&mut objects, ingress("one", "other", &wanted));
        assert_eq!(due(&mut statuses, &objects, began + 3 * PAUSE), (vec![], None));
    }
}
