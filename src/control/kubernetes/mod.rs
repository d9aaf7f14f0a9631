//! Kubernetes: Services, EndpointSlices, Ingresses, IngressClasses and TLS Secrets, followed by watches of the API server.
//!
//! ```text
//! watch ── objects ──┬── endpoints ── pools
//!  (one a kind and   ├── translate ── routes, certificates
//!   namespace)       └── status ───── ingresses/status
//! ```
//!
//! Nothing is believed before every kind was listed once, and what was known stays while the API server cannot be asked: an error is never an empty list.
//! Only where the server refuses a list from the beginning, for a right that lacks, do the routes of files go on without Ingresses.

mod connect;
mod endpoints;
pub mod ingresses;
mod objects;
mod status;
pub mod survey;
mod tls;
mod translate;
mod watch;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
};
use kube::{Api, Client};
use tokio::{sync::watch as slot, task::JoinSet, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use self::objects::{Kind, Objects, watch_name};
use super::{consul::services::Instances, watches::Watches};
use crate::{config::kubernetes::ClusterConfig, model::ingress::pool::KubernetesService};

/// The shortest time between two looks at the endpoints of a Service: what changes meanwhile is told together.
const GATHER: Duration = Duration::from_millis(50);

/// A cluster that is followed until this is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// What is followed.
    pub config: ClusterConfig,
    objects: slot::Receiver<Objects>,
    _task: AbortOnDropHandle<()>,
}

impl Cluster {
    /// Begins to follow it; how its watches are doing is shown in `watches`.
    pub fn start(config: ClusterConfig, watches: Arc<Watches>) -> Arc<Self> {
        let mut objects = Objects::default();
        await_lists(&config, &mut objects);
        let (sender, receiver) = slot::channel(objects);
        let task = AbortOnDropHandle::new(tokio::spawn(run(config.clone(), Arc::new(sender), watches)));
        Arc::new(Self { config, objects: receiver, _task: task })
    }

    /// Keeps the endpoints of a Service fresh and hands them to `tell`, until it is dropped.
    pub async fn follow(&self, service: &KubernetesService, tell: impl Fn(Instances)) {
        let mut objects = self.objects.clone();
        loop {
            let known = {
                let objects = objects.borrow_and_update();
                objects.knows_endpoints().then(|| endpoints::endpoints(&objects, service))
            };
            match known {
                None => {}
                Some(Ok(endpoints)) => tell(Instances { endpoints, failed: None, settled: true }),
                Some(Err(why)) => tell(Instances { failed: Some(why), settled: true, ..Instances::default() }),
            }
            // A change after a calm is told at once, what comes in a burst together.
            sleep(GATHER).await;
            if objects.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The namespaces whose lists are read; `None` is all at once.
fn namespaces(config: &ClusterConfig) -> Vec<Option<Arc<str>>> {
    if config.namespaces.is_empty() { vec![None] } else { config.namespaces.iter().map(|name| Some(name.as_str().into())).collect() }
}

/// Says of each kind which lists are awaited.
fn await_lists(config: &ClusterConfig, objects: &mut Objects) {
    for namespace in namespaces(config) {
        objects.services.await_list(namespace.clone());
        objects.slices.await_list(namespace.clone());
        if config.ingresses.is_some() {
            objects.ingresses.await_list(namespace.clone());
            objects.secrets.await_list(namespace);
        }
    }
    if config.ingresses.is_some() {
        objects.classes.await_list(None);
    }
}

async fn run(config: ClusterConfig, objects: Arc<slot::Sender<Objects>>, watches: Arc<Watches>) {
    let client = connect::client(&config.access, &watches).await;
    let mut tasks = JoinSet::new();
    let mut each = Each { client: &client, objects: &objects, watches: &watches, tasks: &mut tasks };
    for namespace in namespaces(&config) {
        each.follow::<Service>(&namespace);
        each.follow::<EndpointSlice>(&namespace);
        if config.ingresses.is_some() {
            each.follow::<Ingress>(&namespace);
            each.follow::<Secret>(&namespace);
        }
    }
    if let Some(ingresses) = config.ingresses {
        let classes = watches.register(watch_name::<IngressClass>(None));
        tasks.spawn(watch::follow(Api::<IngressClass>::all(client.clone()), None, objects.clone(), classes));
        tasks.spawn(status::write(client, ingresses, objects.subscribe(), watches));
    }
    // They end only when they are dropped.
    while tasks.join_next().await.is_some() {}
}

/// Starts watches.
struct Each<'a> {
    client: &'a Client,
    objects: &'a Arc<slot::Sender<Objects>>,
    watches: &'a Arc<Watches>,
    tasks: &'a mut JoinSet<()>,
}

impl Each<'_> {
    fn follow<K: Kind + kube::Resource<Scope = NamespaceResourceScope>>(&mut self, namespace: &Option<Arc<str>>) {
        let api = match namespace {
            None => Api::<K>::all(self.client.clone()),
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
        };
        let watch = self.watches.register(watch_name::<K>(namespace.as_deref()));
        self.tasks.spawn(watch::follow(api, namespace.clone(), self.objects.clone(), watch));
    }
}
