//! Kubernetes: Services, EndpointSlices, Ingresses, IngressClasses and TLS Secrets, followed by watches of the API server.
//!
//! ```text
//! watch ── objects ──┬── endpoints ── pools
//!  (one a kind and   ├── translate ── routes, certificates
//!   namespace)       └── status ───── ingresses/status
//! ```
//!
//! Nothing is believed before every kind was listed once and is followed, and what was known stays while the API server cannot be asked: an error is never an empty list.
//! Only where the server refuses that from the beginning, for a right that lacks, do the routes of files go on without Ingresses.

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

use self::{
    connect::Clients,
    objects::{Kind, Objects, watch_name},
};
use super::{consul::services::Instances, watches::Watches};
use crate::{config::kubernetes::ClusterConfig, model::ingress::pool::KubernetesService};

/// The shortest time between two looks at the endpoints of a Service, or at the Ingresses: what changes meanwhile is told together.
pub const GATHER: Duration = Duration::from_millis(50);

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
    let clients = Arc::new(Clients::new(config.access.clone(), watches.clone()).await);
    let mut tasks = JoinSet::new();
    let mut each = Each { clients: &clients, objects: &objects, watches: &watches, tasks: &mut tasks };
    for namespace in namespaces(&config) {
        each.follow::<Service>(&namespace, place);
        each.follow::<EndpointSlice>(&namespace, place);
        if config.ingresses.is_some() {
            each.follow::<Ingress>(&namespace, place);
            each.follow::<Secret>(&namespace, place);
        }
    }
    if let Some(ingresses) = config.ingresses {
        each.follow::<IngressClass>(&None, |client, _| Api::all(client));
        tasks.spawn(status::write(clients, ingresses, objects.subscribe(), watches));
    }
    // They end only when they are dropped.
    while tasks.join_next().await.is_some() {}
}

/// Where the objects of a namespace are, or of all.
fn place<K: Kind + kube::Resource<Scope = NamespaceResourceScope>>(client: Client, namespace: Option<&str>) -> Api<K> {
    match namespace {
        None => Api::all(client),
        Some(namespace) => Api::namespaced(client, namespace),
    }
}

/// Starts watches.
struct Each<'a> {
    clients: &'a Arc<Clients>,
    objects: &'a Arc<slot::Sender<Objects>>,
    watches: &'a Arc<Watches>,
    tasks: &'a mut JoinSet<()>,
}

impl Each<'_> {
    fn follow<K: Kind>(&mut self, namespace: &Option<Arc<str>>, place: watch::Place<K>) {
        let watch = self.watches.register(watch_name::<K>(namespace.as_deref()));
        self.tasks.spawn(watch::follow(self.clients.clone(), place, namespace.clone(), self.objects.clone(), watch));
    }
}
