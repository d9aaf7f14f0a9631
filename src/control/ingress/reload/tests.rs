use std::{fs, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    control::{ingress::pools::Settings, reconciler},
    model::ingress::{Hosts, Paths},
    snapshot::{self, Subscriber},
};

/// In which a change must be in force, with room for a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A keeper on files that name a host a line; a line `bad` is a mistake.
struct Scene {
    folder: TempDir,
    pushes: Pushes,
    wishes: broadcast::Sender<Reread>,
    snapshots: Subscriber,
    telemetry: Arc<Telemetry>,
    stop: CancellationToken,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn check(texts: &[String]) -> Result<Loaded, Vec<Unusable>> {
    let (mut hosts, mut problems) = (Hosts::default(), Vec::new());
    for (line, host) in texts.iter().flat_map(|text| text.lines().enumerate()).filter(|(_, line)| !line.starts_with('#')) {
        if host == "bad" {
            problems.push(Unusable { path: format!("routes:{}:1", line + 1), why: "bad".to_owned(), advice: String::new() });
        }
        hosts.insert(host, Paths::default());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let routing = Arc::new(Routing { hosts, ..Routing::default() });
    Ok(Loaded {
        routing,
        consul: Vec::new(),
        kubernetes: None,
        also_read: Vec::new(),
        shown: texts.concat().into(),
        version: texts.concat().into(),
    })
}

impl Scene {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let (main, conf) = (folder.path().join("routes"), folder.path().join("conf.d"));
        fs::write(&main, "first\n").unwrap();
        fs::create_dir(&conf).unwrap();
        let (read_main, read_conf) = (main.clone(), conf.clone());
        let load: Load = Arc::new(move |pushed| {
            let mut texts = vec![pushed.map_or_else(|| fs::read_to_string(&read_main).unwrap_or("bad".to_owned()), str::to_owned)];
            texts.extend(fs::read_dir(&read_conf).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()));
            check(&texts)
        });
        let (publisher, snapshots) = snapshot::channel();
        let (feed, reconciler) = reconciler::channel();
        let (telemetry, stop) = (Arc::new(Telemetry::start().unwrap()), CancellationToken::new());
        tokio::spawn(reconciler.run(publisher, stop.clone()));
        let loaded = load(None).unwrap();
        let pools = Pools::new(feed.ingress(), Settings::default(), Arc::default());
        let keys = Keys::new(feed.ingress(), Arc::default());
        let (routes, pushes) = Routes::new(Files { main, folder: conf, load }, loaded, pools, keys, feed.ingress(), telemetry.clone());
        let (wishes, heard) = broadcast::channel(4);
        tokio::spawn(routes.run(heard, stop.clone()));
        Self { folder, pushes, wishes, snapshots, telemetry, stop }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Waits until a metric has this line.
    async fn counted(&self, line: &str) {
        let found = async {
            while !self.telemetry.metrics.encode().unwrap().lines().any(|found| found == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, found).await.unwrap_or_else(|_| panic!("{line} is not in\n{}", self.telemetry.metrics.encode().unwrap()));
    }

    /// Waits until the configuration in force is this.
    async fn in_force(&self, text: &str) {
        let mut now = self.pushes.in_force.clone();
        timeout(SOON, now.wait_for(|now| &*now.loaded.shown == text)).await.unwrap().unwrap();
    }

    async fn push(&self, text: &str, save: bool, dry_run: bool) -> Result<Taken, NotTaken> {
        timeout(SOON, self.pushes.push(Push { text: text.to_owned(), save, dry_run })).await.unwrap()
    }

    fn file(&self) -> String {
        fs::read_to_string(self.folder.path().join("routes")).unwrap()
    }
}

fn counter(source: &str, result: &str, count: u32) -> String {
    format!("aralez_config_reloads_total{{result=\"{result}\",source=\"{source}\"}} {count}")
}

#[tokio::test]
async fn a_changed_file_is_put_in_force_and_a_bad_one_changes_nothing() {
    let scene = Scene::new();
    scene.write("routes", "second\n");
    scene.in_force("second\n").await;
    scene.write("routes", "third\nbad\nfourth\nbad\n");
    scene.counted(&counter("files", "refused", 1)).await;
    scene.counted("aralez_config_last_reload_successful 0").await;
    assert_eq!(&*scene.pushes.in_force().loaded.shown, "second\n");
    let mut snapshots = scene.snapshots.clone();
    let told = async {
        while snapshots.current().problems.len() != 2 {
            snapshots.next().await.unwrap();
        }
        snapshots.current().problems.iter().map(|problem| problem.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(timeout(SOON, told).await.unwrap(), ["routes:2:1", "routes:4:1"]);
    scene.write("routes", "third\n");
    scene.in_force("third\n").await;
    scene.counted("aralez_config_last_reload_successful 1").await;
    scene.pushes.push(Push { text: "third\n".to_owned(), save: false, dry_run: false }).await.unwrap();
    assert!(scene.snapshots.current().problems.is_empty());
}

#[tokio::test]
async fn one_bad_file_of_the_folder_holds_all_back() {
    let scene = Scene::new();
    scene.write("conf.d/a.yaml", "bad\n");
    scene.counted(&counter("files", "refused", 1)).await;
    scene.write("routes", "second\n");
    scene.counted(&counter("files", "refused", 2)).await;
    assert_eq!(&*scene.pushes.in_force().loaded.shown, "first\n");
    scene.write("conf.d/a.yaml", "well\n");
    scene.in_force("second\nwell\n").await;
}

#[tokio::test]
async fn a_change_that_alters_nothing_publishes_nothing() {
    let scene = Scene::new();
    scene.counted(&counter("files", "unchanged", 1)).await;
    let before = scene.snapshots.current().generation;
    scene.write("routes", "# the same routes\nfirst\n");
    scene.counted(&counter("files", "unchanged", 2)).await;
    scene.in_force("# the same routes\nfirst\n").await;
    assert_eq!(scene.snapshots.current().generation, before);
}

#[tokio::test]
async fn a_push_holds_until_a_file_changes() {
    let scene = Scene::new();
    scene.counted(&counter("files", "unchanged", 1)).await;
    scene.write("conf.d/a.yaml", "more\n");
    scene.in_force("first\nmore\n").await;
    let taken = scene.push("pushed\n", false, false).await.unwrap();
    assert!(taken.generation.is_some());
    let now = scene.pushes.in_force();
    assert!(now.pushed && &*now.loaded.shown == "pushed\nmore\n", "{now:?}");
    assert_eq!(scene.file(), "first\n");
    scene.write("conf.d/a.yaml", "less\n");
    scene.in_force("first\nless\n").await;
    assert!(!scene.pushes.in_force().pushed);
}

#[tokio::test]
async fn only_checking_and_bad_pushes_change_nothing() {
    let scene = Scene::new();
    assert_eq!(scene.push("other\n", false, true).await.unwrap().generation, None);
    for save in [false, true] {
        let Err(NotTaken::Wrong(problems)) = scene.push("bad\nbad\n", save, false).await else { panic!("taken") };
        assert_eq!(problems.len(), 2);
    }
    assert_eq!((&*scene.pushes.in_force().loaded.shown, &*scene.file()), ("first\n", "first\n"));
    scene.counted(&counter("push", "refused", 2)).await;
}

#[tokio::test]
async fn a_saved_push_becomes_the_file_and_is_not_applied_twice() {
    let scene = Scene::new();
    scene.counted(&counter("files", "unchanged", 1)).await;
    let generation = scene.push("saved\n", true, false).await.unwrap().generation;
    assert_eq!(scene.file(), "saved\n");
    scene.counted(&counter("files", "unchanged", 2)).await;
    assert_eq!(Some(scene.snapshots.current().generation), generation);
    // What cannot be saved is not put in force either.
    fs::remove_file(scene.folder.path().join("routes")).unwrap();
    fs::create_dir(scene.folder.path().join("routes")).unwrap();
    assert!(matches!(scene.push("lost\n", true, false).await, Err(NotTaken::NotSaved(_))));
    assert_eq!(&*scene.pushes.in_force().loaded.shown, "saved\n");
}

#[tokio::test]
async fn sighup_reads_the_files_over_a_push_and_says_when_it_is_done() {
    let scene = Scene::new();
    scene.push("pushed\n", false, false).await.unwrap();
    let (wish, fulfilled) = oneshot::channel();
    scene.wishes.send(Arc::new(wish)).unwrap();
    // Dropped, not answered: that is what done looks like.
    assert!(timeout(SOON, fulfilled).await.unwrap().is_err());
    assert_eq!(&*scene.pushes.in_force().loaded.shown, "first\n");
}
