use std::{collections::VecDeque, path::PathBuf};

use http::{Request, Response};
use k8s_openapi::api::networking::v1::Ingress;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tower::service_fn;

use super::*;
use crate::{
    config::kubernetes::Access,
    control::watches::{WatchState, Watches},
};

/// What is asked of a server, when, and what it answers.
#[derive(Default)]
struct Script {
    /// `list` or `watch`, and the milliseconds since the begin.
    asked: Vec<(&'static str, u128)>,
    answers: VecDeque<(u16, Value)>,
}

/// A watch of Ingresses on a server that gives these answers one after the other, then none.
struct Scene {
    script: Arc<Mutex<Script>>,
    objects: watch::Receiver<Objects>,
    watches: Arc<Watches>,
    _following: AbortOnDropHandle<()>,
}

fn list(version: u32, items: &[Value]) -> (u16, Value) {
    (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}, "items": items}))
}

fn failed(code: u16) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "it says so", "code": code}))
}

/// An answer to a watch: one event, then its end.
fn event(kind: &str, object: Value) -> (u16, Value) {
    (200, json!({"type": kind, "object": object}))
}

fn gone() -> (u16, Value) {
    event("ERROR", failed(410).1)
}

fn ingress(version: u32, host: &str, address: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "one", "namespace": "shop", "resourceVersion": version.to_string()},
        "spec": {"rules": [{"host": host}]}, "status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
}

impl Scene {
    fn new(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        let script = Arc::new(Mutex::new(Script { answers: answers.into_iter().collect(), ..Script::default() }));
        let (served, began) = (script.clone(), Instant::now());
        let client = Client::new(
            service_fn(move |request: Request<Body>| {
                let what = if request.uri().query().unwrap_or_default().contains("watch=true") { "watch" } else { "list" };
                let answer = {
                    let mut script = served.lock();
                    script.asked.push((what, began.elapsed().as_millis()));
                    script.answers.pop_front()
                };
                async move {
                    let Some((code, body)) = answer else { return std::future::pending().await };
                    Response::builder().status(code).body(Body::from(format!("{body}\n").into_bytes()))
                }
            }),
            "default",
        );
        let (watches, mut known) = (Arc::new(Watches::default()), Objects::default());
        known.ingresses.await_list(None);
        let access = Access::Usual { kubeconfig: Some(PathBuf::from("/nonexistent/kubeconfig")), context: None };
        let clients = Arc::new(Clients::of(client, access, watches.clone()));
        let (sender, objects) = watch::channel(known);
        let watch = watches.register("kubernetes ingresses");
        let following = follow::<Ingress>(clients, |client, _| Api::all(client), None, Arc::new(sender), watch);
        Self { script, objects, watches, _following: AbortOnDropHandle::new(tokio::spawn(following)) }
    }

    /// Waits until everything was answered; gives what was asked.
    async fn asked(&self, number: usize) -> Vec<(&'static str, u128)> {
        let all = async {
            while self.script.lock().asked.len() < number {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(600), all).await.unwrap_or_else(|_| panic!("{:?}", self.script.lock().asked));
        // What the last answer says is taken before anything that takes time.
        sleep(Duration::from_millis(1)).await;
        self.script.lock().asked.clone()
    }

    fn state(&self) -> WatchState {
        self.watches.snapshot().into_iter().find(|state| state.name == "kubernetes ingresses").unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_known_once_it_may_be_followed() {
    let scene = Scene::new([list(1, &[]), failed(403), failed(403), event("ADDED", ingress(2, "a.test", "192.0.2.7"))]);
    scene.asked(3).await;
    let why = scene.objects.borrow().awaited().first().map(|(watch, why)| (watch.clone(), why.map(ToOwned::to_owned)));
    assert_eq!(why, Some(("kubernetes ingresses".to_owned(), Some("403: it says so".to_owned()))));
    scene.asked(5).await;
    assert_eq!(scene.objects.borrow().awaited(), []);
    assert_eq!(scene.state().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_is_followed_by_a_list_at_once() {
    let outage = || (0..7).map(|_| failed(500));
    let answers = [list(1, &[]), event("ADDED", ingress(2, "a.test", "192.0.2.7"))];
    let scene = Scene::new(answers.into_iter().chain(outage()).chain([gone(), list(9, &[]), gone(), list(10, &[]), gone()]));
    let asked = scene.asked(13).await;
    let pause = |at: usize| asked[at + 1].1 - asked[at].1;
    // The outage has long pauses, which end with it; whoever is told again that his list is too old takes a short one.
    assert!(pause(8) > 3_000, "{asked:?}");
    assert_eq!((asked[9].0, asked[10].0, pause(9), pause(10)), ("watch", "list", 0, 0), "{asked:?}");
    assert!((100..=200).contains(&pause(11)), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_410_is_no_failure() {
    let scene = Scene::new([list(1, &[]), gone(), list(2, &[]), event("ADDED", ingress(3, "a.test", "192.0.2.7")), gone()]);
    scene.asked(6).await;
    let state = scene.state();
    assert_eq!((state.last_error, state.failures), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn only_what_routes_are_made_of_makes_new_ones() {
    let versions = |scene: &Scene| {
        let objects = scene.objects.borrow();
        (objects.routes_version, objects.status_changes)
    };
    let modified = |version, host, address| event("MODIFIED", ingress(version, host, address));
    let scene = Scene::new([
        list(1, &[ingress(1, "a.test", "192.0.2.7")]),
        modified(2, "a.test", "192.0.2.8"),
        modified(3, "b.test", "192.0.2.8"),
        event("DELETED", ingress(4, "b.test", "192.0.2.8")),
    ]);
    scene.asked(5).await;
    // The list, that it is followed, another host, the end; another status.
    assert_eq!(versions(&scene), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_refused_twice_are_read_anew_but_not_each_time() {
    let scene = Scene::new((0..12).map(|_| failed(401)));
    let asked = scene.asked(13).await;
    let access = scene.watches.snapshot().into_iter().find(|state| state.name == "kubernetes access").unwrap();
    let seconds = u32::try_from(asked[12].1 / 1_000).unwrap();
    assert!(access.failures > 1 && access.failures <= 1 + seconds / 10, "{} in {seconds} s", access.failures);
}
