//! What is known of a cluster: its objects by name, as the API server told of them last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct Objects {
    /// Services.
    pub services: Store<Service>,
    /// EndpointSlices, in groups by their Service.
    pub slices: Store<EndpointSlice>,
    /// Ingresses, ours and those of others.
    pub ingresses: Store<Ingress>,
    /// IngressClasses.
    pub classes: Store<IngressClass>,
    /// Secrets of type `kubernetes.io/tls`.
    pub secrets: Store<Secret>,
    /// Counts changes of all that routes are made of: everything but EndpointSlices.
    pub routes_version: u64,
}

impl Objects {
    /// Whether every kind that is watched was listed once.
    pub fn complete(&self) -> bool {
        self.services.complete()
            && self.slices.complete()
            && self.ingresses.complete()
            && self.classes.complete()
            && self.secrets.complete()
    }
}

/// A kind of object that is watched.
pub trait Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// What watches call it.
    const WHAT: &'static str;
    /// Only objects with these fields.
    const FIELDS: Option<&'static str> = None;
    /// Whether routes are made of it.
    const ROUTES: bool = true;

    /// Where it is kept.
    fn store(objects: &mut Objects) -> &mut Store<Self>;

    /// What it is looked up by beside its name.
    fn group(&self) -> &str {
        ""
    }
}

impl Kind for Service {
    const WHAT: &'static str = "services";

    fn store(objects: &mut Objects) -> &mut Store<Self> {
        &mut objects.services
    }
}

impl Kind for EndpointSlice {
    const WHAT: &'static str = "endpointslices";
    const ROUTES: bool = false;

    fn store(objects: &mut Objects) -> &mut Store<Self> {
        &mut objects.slices
    }

    fn group(&self) -> &str {
        self.labels().get(SERVICE_NAME).map_or("", String::as_str)
    }
}

impl Kind for Ingress {
    const WHAT: &'static str = "ingresses";

    fn store(objects: &mut Objects) -> &mut Store<Self> {
        &mut objects.ingresses
    }
}

impl Kind for IngressClass {
    const WHAT: &'static str = "ingressclasses";

    fn store(objects: &mut Objects) -> &mut Store<Self> {
        &mut objects.classes
    }
}

impl Kind for Secret {
    const WHAT: &'static str = "secrets";
    const FIELDS: Option<&'static str> = Some("type=kubernetes.io/tls");

    fn store(objects: &mut Objects) -> &mut Store<Self> {
        &mut objects.secrets
    }
}

/// Namespace, group, name.
type Key = (String, String, String);

/// The objects of one kind.
#[derive(Debug)]
pub struct Store<K> {
    known: BTreeMap<Key, Arc<K>>,
    /// The lists that are awaited before anything is believed: a namespace each, or one of all.
    awaited: BTreeSet<Option<Arc<str>>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), awaited: BTreeSet::new() }
    }
}

impl<K: Kind> Store<K> {
    /// From now on is incomplete until this list was read.
    pub fn await_list(&mut self, namespace: Option<Arc<str>>) {
        self.awaited.insert(namespace);
    }

    /// Whether all lists were read.
    pub fn complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Takes a whole list of a namespace, or of all.
    pub fn replace(&mut self, namespace: &Option<Arc<str>>, list: Vec<K>) {
        self.known.retain(|(of, ..), _| namespace.as_ref().is_some_and(|namespace| **namespace != **of));
        self.known.extend(list.into_iter().map(|object| (key(&object), Arc::new(object))));
        self.awaited.remove(namespace);
    }

    /// Adds or replaces an object.
    pub fn apply(&mut self, object: K) {
        let key = key(&object);
        if !self.known.contains_key(&key) {
            // It may be known in another group.
            self.remove(&object);
        }
        self.known.insert(key, Arc::new(object));
    }

    /// Removes an object, whatever its group is by now.
    pub fn remove(&mut self, object: &K) {
        let (namespace, _, name) = key(object);
        self.known.retain(|(of, _, known), _| (of, known) != (&namespace, &name));
    }

    /// An object of a kind without groups.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.known.get(&(namespace.to_owned(), String::new(), name.to_owned()))
    }

    /// All of a group.
    pub fn group<'a>(&'a self, namespace: &'a str, group: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        let start = (namespace.to_owned(), group.to_owned(), String::new());
        self.known.range(start..).take_while(move |((ns, of, _), _)| (&**ns, &**of) == (namespace, group)).map(|(_, object)| object)
    }

    /// All of them, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.known.values()
    }
}

fn key<K: Kind>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.group().to_owned(), object.name_any())
}
