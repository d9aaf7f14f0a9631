//! One process takes over from another.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::{SOON, Scene, names, pid_in, text};
use crate::support::fake_agent::FakeAgent;
use crate::support::mesh::Mesh;
use crate::support::sidecar::{Aralez, Launch};

/// What a mesh's `web` is started with, again and again.
struct Line {
    folder: tempfile::TempDir,
}

impl Line {
    fn new() -> Line {
        Line { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&self, agent: &FakeAgent) -> Launch {
        let launch = Launch::sidecar_for(agent, "web-1").arg("-upgrade-sock").arg(text(&self.path("sock")));
        launch.arg("-pid-file").arg(text(&self.path("pid")))
    }

    /// Puts the first of the line in the place of the mesh's `web`.
    async fn begin(&self, mesh: &mut Mesh, grace: &str) {
        mesh.web.signal(Signal::TERM);
        mesh.web.exit(SOON).await;
        mesh.web = self.launch(&mesh.agent).arg("-shutdown-grace-period-seconds").arg(grace).start().await;
    }

    /// Starts the next one, which is ready when this returns; gives the one before.
    async fn next(&self, mesh: &mut Mesh) -> Aralez {
        let mut next = self.launch(&mesh.agent).arg("-upgrade").spawn();
        names(&self.path("pid"), next.id()).await;
        next.ready().await;
        std::mem::replace(&mut mesh.web, next)
    }
}

/// Clients of both kinds: some keep their connection, some open one for each request.
fn load(address: &Address) -> [Load; 2] {
    let (kept, target) = (address.clone(), address.clone());
    let keeping = Load::start(8, move |client: Option<HttpClient>| {
        let target = kept.clone();
        async move {
            let mut client = match client.filter(HttpClient::is_open) {
                Some(client) => client,
                None => HttpClient::http1(&target).await?,
            };
            let response = client.post("/load", "ping").await?;
            ensure!(response.status == 200 && response.text() == "ping", "{}: {}", response.status, response.text());
            Ok(client)
        }
    });
    let fresh = Load::start(4, move |_: Option<()>| {
        let target = target.clone();
        async move {
            let response = clients::post(&target, "/load", "ping").await?;
            ensure!(response.status == 200 && response.text() == "ping", "{}: {}", response.status, response.text());
            Ok(())
        }
    });
    [keeping, fresh]
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_upgrades_under_load_lose_no_request_and_keep_a_websocket() {
    const UPGRADES: u64 = 10;
    const BETWEEN: u64 = 500;
    let mut mesh = Mesh::start("http").await;
    let line = Line::new();
    line.begin(&mut mesh, "120").await;
    let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
    let load = load(&mesh.entry);
    let mut before = Vec::new();
    for _ in 0..UPGRADES {
        for load in &load {
            load.progress(BETWEEN, SOON * 3).await.unwrap();
        }
        before.push(line.next(&mut mesh).await);
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    }
    let mut total = 0;
    for load in load {
        load.progress(BETWEEN, SOON * 3).await.unwrap();
        let report = load.stop().await.unwrap();
        report.flawless(UPGRADES * BETWEEN).unwrap();
        total += report.ok;
    }
    println!("{total} requests over {UPGRADES} upgrades");
    // Each one ends by itself, and the first one as soon as its WebSocket is closed.
    let mut first = before.remove(0);
    for mut old in before {
        assert_eq!(old.exit(SOON).await.code(), Some(0));
    }
    assert!(first.exited().is_none(), "the WebSocket is with the first one");
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(first.exit(SOON).await.code(), Some(0));
    assert_eq!(pid_in(&line.path("pid")).unwrap(), mesh.web.id(), "none of them removed the pid file of the last");
    mesh.answered_by("api-1", SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_kept_until_the_grace_ends() {
    let mut mesh = Mesh::start("http").await;
    let line = Line::new();
    line.begin(&mut mesh, "2").await;
    let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
    let mut old = line.next(&mut mesh).await;
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ping"));
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(old.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let mut mesh = Mesh::start("http").await;
    let line = Line::new();
    line.begin(&mut mesh, "30").await;
    let load = load(&mesh.entry);
    // Ends by itself, since there is no such registration.
    let (command, _) = line.launch(&mesh.agent).arg("-upgrade").arg("-admin-bind").arg("256.0.0.1:1").command();
    assert_eq!(tokio::process::Command::from(command).output().await.unwrap().status.code(), Some(2));
    // Never gets ready, since its agent does not answer; and is killed.
    for wrong in [&["-sidecar-for", "nobody"][..], &["-http-addr", "127.0.0.1:1"]] {
        let mut new = wrong.iter().fold(line.launch(&mesh.agent).arg("-upgrade"), |launch, argument| launch.arg(argument)).spawn();
        new.logged("taking over", SOON).await;
        for load in &load {
            load.progress(50, SOON).await.unwrap();
        }
        if new.exited().is_none() {
            new.signal(Signal::KILL);
        }
        new.exit(SOON).await;
        let log = mesh.web.logged(&format!("process {} ended before it was ready; this process goes on", new.id()), SOON).await;
        assert!(!log.contains("draining"), "{log}");
        assert_eq!(pid_in(&line.path("pid")).unwrap(), mesh.web.id());
    }
    let mut old = line.next(&mut mesh).await;
    for load in load {
        load.progress(100, SOON).await.unwrap();
        load.stop().await.unwrap().flawless(200).unwrap();
    }
    assert_eq!(old.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_before_or_after_the_new_process_is_the_same() {
    let mut mesh = Mesh::start("http").await;
    let line = Line::new();
    line.begin(&mut mesh, "30").await;
    for quit_first in [true, false] {
        let mut socket = clients::websocket(&mesh.entry, "/ws").await.unwrap();
        if quit_first {
            mesh.web.signal(Signal::QUIT);
            mesh.web.logged("SIGQUIT", SOON).await;
            mesh.answered_by("api-1", SOON).await;
        }
        let mut old = line.next(&mut mesh).await;
        old.logged("serves now", SOON).await;
        if !quit_first {
            old.signal(Signal::QUIT);
            old.logged("handed over already", SOON).await;
        }
        // What is open goes on.
        socket.send(Message::text("on")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("on"));
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
        assert_eq!(old.exit(SOON).await.code(), Some(0));
        mesh.answered_by("api-1", SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_is_taken_over_too_and_the_files_are_removed_by_the_last() {
    let scene = Scene::new().await;
    let launch = || scene.with_pid_file().arg("-upgrade-sock").arg(text(&scene.path("sock"))).arg("-u");
    // Nobody to take over from is no error.
    let mut first = launch().start().await;
    let admin = first.admin_address().to_string();
    let gap = Arc::new(AtomicBool::new(false));
    let probe = Load::start(1, {
        let (target, gap) = (first.admin_address().clone(), gap.clone());
        move |_: Option<()>| {
            let (target, gap) = (target.clone(), gap.clone());
            async move {
                if target.connect().await.is_err() {
                    gap.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    });
    let mut second = launch().arg("-admin-bind").arg(&admin).spawn();
    assert_eq!(first.exit(SOON).await.code(), Some(0));
    assert_eq!(first.admin("/ready").await.unwrap().status, 200, "the second one answers here now");
    probe.stop().await.unwrap();
    assert!(!gap.load(Ordering::Relaxed), "a connection was refused");
    second.signal(Signal::TERM);
    assert_eq!(second.exit(SOON).await.code(), Some(0));
    let left = eventually("an empty folder", SOON, async || {
        let left: Vec<_> = std::fs::read_dir(scene.folder.path())?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    left.await.unwrap();
}
