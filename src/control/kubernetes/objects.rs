//! What is known of a cluster: its objects by name, as the API server told of them last.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

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
    /// Counts lists, and changes of all that routes are made of: everything but EndpointSlices.
    pub routes_version: u64,
    /// Counts changes of objects that leave their routes as they are: of the status of Ingresses, ours among them.
    pub status_changes: u64,
}

impl Objects {
    /// The lists that never were read and followed, by the names of their watches, each with the reason if the server refuses it. Empty once everything is
    /// known.
    pub fn awaited(&self) -> Vec<(String, Option<&str>)> {
        let Self { services, slices, ingresses, classes, secrets, .. } = self;
        [services.awaited(), slices.awaited(), ingresses.awaited(), classes.awaited(), secrets.awaited()].concat()
    }

    /// Whether everything that endpoints are made of is known.
    pub fn knows_endpoints(&self) -> bool {
        self.services.awaited.is_empty() && self.slices.awaited.is_empty()
    }
}

/// What the watch of a kind is called: in a namespace, or in all.
pub fn watch_name<K: Kind>(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| format!("kubernetes {}", K::WHAT), |namespace| format!("kubernetes {} {namespace}", K::WHAT))
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

    /// Whether the same routes are made of it as of what it was before.
    fn same_routes(&self, _before: &Self) -> bool {
        false
    }

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

    /// Our own writes of its status come back as changes.
    fn same_routes(&self, before: &Self) -> bool {
        let (new, old) = (&self.metadata, &before.metadata);
        (&self.spec, &new.annotations, &new.creation_timestamp) == (&before.spec, &old.annotations, &old.creation_timestamp)
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
    /// The lists that are awaited before anything is believed, a namespace each, or one of all; with the reason if the server refuses it.
    awaited: BTreeMap<Option<Arc<str>>, Option<String>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), awaited: BTreeMap::new() }
    }
}

impl<K: Kind> Store<K> {
    /// From now on is incomplete until this list was read and is followed.
    pub fn await_list(&mut self, namespace: Option<Arc<str>>) {
        self.awaited.insert(namespace, None);
    }

    /// Notes that the server refuses an awaited list, or to follow it; whether that is news.
    pub fn refused(&mut self, namespace: &Option<Arc<str>>, why: &str) -> bool {
        let known = self.awaited.get_mut(namespace).filter(|known| known.as_deref() != Some(why));
        known.map(|known| *known = Some(why.to_owned())).is_some()
    }

    fn awaited(&self) -> Vec<(String, Option<&str>)> {
        self.awaited.iter().map(|(namespace, why)| (watch_name::<K>(namespace.as_deref()), why.as_deref())).collect()
    }

    /// Takes a whole list of a namespace, or of all.
    pub fn replace(&mut self, namespace: &Option<Arc<str>>, list: Vec<K>) {
        self.known.retain(|(of, ..), _| namespace.as_ref().is_some_and(|namespace| **namespace != **of));
        self.known.extend(list.into_iter().map(|object| (key(&object), Arc::new(object))));
    }

    /// Notes that the server lets this list be followed, without which it would soon be none; whether that was awaited.
    pub fn followed(&mut self, namespace: &Option<Arc<str>>) -> bool {
        self.awaited.remove(namespace).is_some()
    }

    /// Adds or replaces an object; whether other routes may be made of it.
    pub fn apply(&mut self, object: K) -> bool {
        let key = key(&object);
        let Some(known) = self.known.get_mut(&key) else {
            // It may be known in another group.
            self.remove(&object);
            self.known.insert(key, Arc::new(object));
            return true;
        };
        let same = object.same_routes(known);
        *known = Arc::new(object);
        !same
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
