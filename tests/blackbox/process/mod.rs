//! What the operating system sees: signals, pid file, log file, privileges, background, service manager.

mod manager;
mod privileges;
mod upgrade;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, ensure};
use aralez_integration::clients;
use aralez_integration::ports::free_port;
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use rustix::process::{Pid, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::support::fake_agent::{FakeAgent, upstream};
use crate::support::mesh::web;
use crate::support::sidecar::Launch;

/// For whatever takes no time but the machine's.
const SOON: Duration = Duration::from_secs(20);

/// A sidecar that only listens, and a folder for its files.
struct Scene {
    agent: FakeAgent,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Scene {
        let agent = FakeAgent::start().await;
        agent.register(&web(vec![upstream("api", free_port().unwrap(), "http")]));
        Scene { agent, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&self) -> Launch {
        Launch::sidecar_for(&self.agent, "web-1")
    }

    fn with_pid_file(&self) -> Launch {
        self.launch().arg("-pid-file").arg(text(&self.path("pid")))
    }

    /// Runs a command that is expected to end.
    fn outcome(&self, launch: Launch) -> (Output, String) {
        let output = launch.command().0.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, said)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn pid_in(path: &Path) -> anyhow::Result<u32> {
    fs::read_to_string(path)?.trim().parse().context("no number")
}

/// Waits until a file names a process.
async fn names(path: &Path, pid: u32) {
    let named = eventually("the pid file to name the process", SOON, async || {
        let found = pid_in(path)?;
        ensure!(found == pid, "{found}");
        Ok(())
    });
    named.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pid_file_lives_as_long_as_its_process() {
    let scene = Scene::new().await;
    let path = scene.path("pid");
    // Left behind by a process that was killed.
    fs::write(&path, "1\n").unwrap();
    let mut first = scene.with_pid_file().start().await;
    assert_eq!(pid_in(&path).unwrap(), first.id());
    let (refused, why) = scene.outcome(scene.with_pid_file());
    assert_eq!(refused.status.code(), Some(1));
    assert!(why.contains(&format!("belongs to a running process ({})", first.id())), "{why}");
    assert_eq!(pid_in(&path).unwrap(), first.id());
    first.signal(Signal::KILL);
    first.exit(SOON).await;
    let mut second = scene.with_pid_file().start().await;
    assert_eq!(pid_in(&path).unwrap(), second.id());
    second.signal(Signal::TERM);
    assert_eq!(second.exit(SOON).await.code(), Some(0));
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_is_never_a_symbolic_link() {
    let scene = Scene::new().await;
    fs::write(scene.path("precious"), "1\n").unwrap();
    std::os::unix::fs::symlink(scene.path("precious"), scene.path("pid")).unwrap();
    let (refused, why) = scene.outcome(scene.with_pid_file());
    assert!(refused.status.code() == Some(1) && why.contains("symbolic link"), "{why}");
    assert_eq!(fs::read_to_string(scene.path("precious")).unwrap(), "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_ends_nothing() {
    let scene = Scene::new().await;
    let mut sidecar = scene.launch().start().await;
    sidecar.signal(Signal::HUP);
    sidecar.logged("SIGHUP", SOON).await;
    sidecar.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_drains_where_there_is_no_way_to_hand_over() {
    let mut sidecar = Scene::new().await.launch().start().await;
    sidecar.signal(Signal::QUIT);
    assert_eq!(sidecar.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigusr1_opens_a_log_that_was_moved_anew() {
    let scene = Scene::new().await;
    let (log, moved) = (scene.path("log"), scene.path("log.1"));
    let mut sidecar = scene.launch().arg("-error-log").arg(text(&log)).start().await;
    assert!(fs::read_to_string(&log).unwrap().contains("listening"));
    fs::rename(&log, &moved).unwrap();
    sidecar.signal(Signal::HUP);
    grows(&moved, "SIGHUP").await;
    assert!(!log.exists());
    sidecar.signal(Signal::USR1);
    grows(&log, "SIGUSR1").await;
    sidecar.signal(Signal::HUP);
    grows(&log, "SIGHUP").await;
    assert_eq!(fs::read_to_string(&moved).unwrap().matches("SIGHUP").count(), 1);
    assert_eq!(sidecar.log(), "", "all of the log is in the file");
}

async fn grows(file: &Path, line: &str) {
    let what = format!("{line} in {}", file.display());
    let written = eventually(&what, SOON, async || {
        ensure!(fs::read_to_string(file)?.contains(line));
        Ok(())
    });
    written.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_the_background_ends_when_it_serves() {
    let scene = Scene::new().await;
    let (command, admin) = scene.with_pid_file().arg("-daemon").arg("-error-log").arg(text(&scene.path("log"))).command();
    let started = tokio::process::Command::from(command).output().await.unwrap();
    assert!(started.status.success(), "{started:?}");
    // No waiting: it has served before the command ended.
    assert_eq!(clients::get(&admin, "/ready").await.unwrap().status, 200);
    let pid = pid_in(&scene.path("pid")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid, "a session of its own");
    for descriptor in 0..3 {
        let open = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
        let wanted = if descriptor == 2 { scene.path("log") } else { "/dev/null".into() };
        assert_eq!(open, wanted, "descriptor {descriptor}");
    }
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    let ended = eventually("its end", SOON, async || {
        ensure!(test_kill_process(process).is_err() || !scene.path("pid").exists());
        Ok(())
    });
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_the_background_that_fails_says_so() {
    let scene = Scene::new().await;
    let held = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let (failed, why) = scene.outcome(scene.launch().arg("-daemon").arg("-admin-bind").arg(&taken));
    assert_eq!(failed.status.code(), Some(1));
    assert!(why.contains(&taken), "{why}");
}
