use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// In which a change must have been told, with room for a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// Long enough for a change to be told, were there one.
const WHILE: Duration = Duration::from_millis(700);

struct Scene {
    folder: TempDir,
    watch: Watch,
}

impl Scene {
    /// A file `routes.yaml` and a folder `conf.d` for `*.yaml`, known as they are.
    async fn new(kernel: bool) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("routes.yaml"), "first").unwrap();
        let mut watch = Watch::with(places(folder.path()), kernel);
        watch.changed().await;
        Self { folder, watch }
    }

    fn path(&self, name: &str) -> path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn told(&mut self) -> bool {
        timeout(SOON, self.watch.changed()).await.is_ok()
    }

    async fn silent(&mut self) -> bool {
        timeout(WHILE, self.watch.changed()).await.is_err()
    }

    /// What is read of `routes.yaml`.
    async fn text(&mut self) -> String {
        let path = self.path("routes.yaml");
        self.watch.read(move || fs::read_to_string(&path).unwrap_or_default()).await
    }
}

fn places(folder: &Path) -> [Place; 2] {
    [Place::File(folder.join("routes.yaml")), Place::Folder { path: folder.join("conf.d"), endings: &["yaml"] }]
}

fn rename(scene: &Scene, text: &str) {
    scene.write("new", text);
    fs::rename(scene.path("new"), scene.path("routes.yaml")).unwrap();
}

fn rewrite(scene: &Scene, text: &str) {
    fs::remove_file(scene.path("routes.yaml")).unwrap();
    scene.write("routes.yaml", text);
}

/// As Kubernetes lays out a ConfigMap: the file is a link through a link that is swapped.
fn swap(scene: &Scene, text: &str) {
    let version = scene.path(&format!("..{text}"));
    fs::create_dir(&version).unwrap();
    fs::write(version.join("routes.yaml"), text).unwrap();
    symlink(&version, scene.path("..data_tmp")).unwrap();
    fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
    symlink("..data/routes.yaml", scene.path("link")).unwrap();
    fs::rename(scene.path("link"), scene.path("routes.yaml")).unwrap();
}

/// A way to change `routes.yaml`.
type Way = fn(&Scene, &str);

#[tokio::test]
async fn every_way_to_write_is_seen_with_events_and_without() {
    let ways: [(&str, Way); 4] =
        [("in place", |scene, text| scene.write("routes.yaml", text)), ("rename", rename), ("delete and create", rewrite), ("swap", swap)];
    for kernel in [true, false] {
        let mut scene = Scene::new(kernel).await;
        for (name, write) in ways {
            for round in 0..2 {
                let text = format!("{name}{round}{kernel}").replace(' ', "");
                let begun = Instant::now();
                write(&scene, &text);
                assert!(scene.told().await, "{name}, kernel {kernel}");
                assert!(!kernel || begun.elapsed() < Duration::from_secs(1), "{name} after {:?}", begun.elapsed());
                assert_eq!(scene.text().await, text, "{name}, kernel {kernel}");
            }
        }
    }
}

#[tokio::test]
async fn writes_to_what_a_link_leads_to_are_seen() {
    let mut scene = Scene::new(true).await;
    fs::create_dir(scene.path("elsewhere")).unwrap();
    scene.write("elsewhere/real", "one");
    symlink("elsewhere/real", scene.path("link")).unwrap();
    fs::rename(scene.path("link"), scene.path("routes.yaml")).unwrap();
    assert!(scene.told().await);
    let begun = Instant::now();
    scene.write("elsewhere/real", "two");
    assert!(scene.told().await);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_changes_nothing_is_not_told() {
    let mut scene = Scene::new(true).await;
    scene.write("routes.yaml", "first");
    rename(&scene, "first");
    scene.write("access.log", "GET /");
    scene.write("conf.d/.hidden.yaml", "x");
    scene.write("conf.d/notes.txt", "x");
    fs::create_dir(scene.path("conf.d/sub.yaml.d")).unwrap();
    assert!(scene.silent().await);
}

#[tokio::test]
async fn files_of_a_folder_come_change_and_go() {
    let mut scene = Scene::new(true).await;
    scene.write("conf.d/a.yaml", "a");
    assert!(scene.told().await, "come");
    scene.write("conf.d/a.yaml", "b");
    assert!(scene.told().await, "change");
    fs::remove_file(scene.path("conf.d/a.yaml")).unwrap();
    assert!(scene.told().await, "go");
    fs::remove_dir(scene.path("conf.d")).unwrap();
    assert!(scene.told().await, "the folder goes");
    fs::create_dir(scene.path("conf.d")).unwrap();
    scene.write("conf.d/c.yaml", "c");
    assert!(scene.told().await, "a folder made anew");
    let begun = Instant::now();
    scene.write("conf.d/c.yaml", "d");
    assert!(scene.told().await);
    assert!(begun.elapsed() < Duration::from_secs(1), "the new folder is watched");
}

#[tokio::test]
async fn a_burst_is_told_once_with_its_last_state() {
    let mut scene = Scene::new(true).await;
    let path = scene.path("routes.yaml");
    let burst = tokio::spawn(async move {
        for n in 0..20 {
            fs::write(&path, format!("text {n}")).unwrap();
            sleep(Duration::from_millis(15)).await;
        }
    });
    assert!(scene.told().await);
    assert!(burst.is_finished());
    assert_eq!(scene.text().await, "text 19");
    assert!(scene.silent().await);
}

#[tokio::test]
async fn a_slow_writer_is_waited_for() {
    let mut scene = Scene::new(true).await;
    let mut file = OpenOptions::new().write(true).truncate(true).open(scene.path("routes.yaml")).unwrap();
    file.write_all(b"half").unwrap();
    assert!(scene.silent().await, "half a file was told");
    file.write_all(b" and half").unwrap();
    drop(file);
    assert!(scene.told().await);
    assert_eq!(scene.text().await, "half and half");
}

#[tokio::test]
async fn reading_never_gives_half_a_file() {
    let mut scene = Scene::new(true).await;
    let path = scene.path("routes.yaml");
    let whole = "x".repeat(100_000);
    let writer = std::thread::spawn({
        let whole = whole.clone();
        move || {
            for _ in 0..20 {
                let mut file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
                for part in whole.as_bytes().chunks(10_000) {
                    file.write_all(part).unwrap();
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
        }
    });
    while !writer.is_finished() {
        let text = scene.text().await;
        assert!(text == whole || text == "first", "{} bytes", text.len());
    }
    assert_eq!(scene.text().await, whole);
}

#[tokio::test]
async fn an_empty_or_vanished_file_is_told_after_a_moment_only() {
    for empty in [true, false] {
        let mut scene = Scene::new(true).await;
        let begun = Instant::now();
        if empty {
            scene.write("routes.yaml", "")
        } else {
            fs::remove_file(scene.path("routes.yaml")).unwrap()
        }
        assert!(scene.told().await);
        assert!(begun.elapsed() >= MOMENT, "{:?}", begun.elapsed());
        // From then on it is known so, and the next change does not wait for it.
        let begun = Instant::now();
        scene.write("conf.d/a.yaml", "a");
        assert!(scene.told().await);
        assert!(begun.elapsed() < MOMENT, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn what_is_no_file_does_not_hold_up() {
    let mut scene = Scene::new(true).await;
    fs::remove_file(scene.path("routes.yaml")).unwrap();
    fs::create_dir(scene.path("routes.yaml")).unwrap();
    assert!(scene.told().await);
    fs::remove_dir(scene.path("routes.yaml")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, scene.path("routes.yaml"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // Neither is readable, so nothing changed; a read of the pipe would never end.
    assert!(scene.silent().await);
    fs::remove_file(scene.path("routes.yaml")).unwrap();
    scene.write("routes.yaml", "back");
    assert!(scene.told().await);
}

#[tokio::test]
async fn other_files_can_be_watched_from_some_time_on() {
    let mut scene = Scene::new(true).await;
    scene.write("secret", "one");
    assert!(scene.silent().await);
    let more = places(scene.folder.path()).into_iter().chain([Place::File(scene.path("secret"))]);
    scene.write("routes.yaml", "second");
    scene.watch.turn_to(more).await;
    assert!(scene.told().await, "what was watched before is known as it was");
    assert!(scene.silent().await);
    scene.write("secret", "two");
    assert!(scene.told().await);
    scene.write("secret", "three");
    scene.watch.turn_to(places(scene.folder.path())).await;
    assert!(scene.silent().await, "it is watched no more");
}
