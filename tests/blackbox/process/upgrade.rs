//! One process takes over from another.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::{App, http_echo};
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::load::Load;
use aralez_integration::net::{Address, Stream};
use aralez_integration::process::Signal;
use aralez_integration::wait::eventually;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{SOON, Scene, names, pid_in, text};
use crate::ingress::{Edge, Setup};
use crate::support::sidecar::{Aralez, Launch};

/// A reverse proxy that is replaced again and again, in front of one app.
struct Line {
    edge: Edge,
    app: App,
}

impl Line {
    async fn start(grace: u32) -> Line {
        let app = http_echo("shop").await.unwrap();
        let upstreams =
            format!("provider: file\nupstreams:\n  \"*\":\n    paths:\n      \"/\": {{servers: [\"http://{}\"]}}\n", app.address);
        let lines = format!("upgrade_sock: aralez.sock\npid_file: aralez.pid\ngrace_period_seconds: {grace}\n");
        Line { edge: Setup::new(&upstreams).main(&lines).start().await, app }
    }

    fn pid_file(&self) -> PathBuf {
        self.edge.path("aralez.pid")
    }

    /// How to start the next one.
    fn successor(&self) -> Launch {
        Launch::serve(&self.edge.path("main.yaml")).arg("-u")
    }

    /// Starts the next one, which is ready when this returns; gives the one before.
    async fn next(&mut self) -> Aralez {
        let mut next = self.successor().spawn();
        names(&self.pid_file(), next.id()).await;
        next.ready().await;
        std::mem::replace(&mut self.edge.aralez, next)
    }

    async fn assert_serves(&self) {
        assert_eq!(clients::get(&self.edge.http, "/").await.unwrap().headers["x-app"], "shop");
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

/// Says something on a WebSocket again and again, and listens; gives it back when told to.
fn talk(mut socket: WebSocketStream<Stream>) -> (oneshot::Sender<()>, JoinHandle<WebSocketStream<Stream>>) {
    let (hang_up, mut hung_up) = oneshot::channel();
    let talking = tokio::spawn(async move {
        while hung_up.try_recv().is_err() {
            socket.send(Message::text("still here")).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
            sleep(Duration::from_millis(200)).await;
        }
        socket
    });
    (hang_up, talking)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_upgrades_under_load_lose_no_request_and_keep_a_websocket() {
    const UPGRADES: u64 = 10;
    // Of each kind of client, between two upgrades. More of them only take longer: a run of 100,000 in all needs 5000 here.
    let between: u64 = std::env::var("ARALEZ_TEST_REQUESTS").map_or(150, |number| number.parse().unwrap());
    let mut line = Line::start(900).await;
    let socket = clients::websocket(&line.edge.http, "/ws").await.unwrap();
    let (hang_up, talking) = talk(socket);
    let load = load(&line.edge.http);
    let mut before = Vec::new();
    for _ in 0..UPGRADES {
        for load in &load {
            load.progress(between, SOON * 6).await.unwrap();
        }
        before.push(line.next().await);
    }
    let mut total = 0;
    for load in load {
        load.progress(between, SOON * 6).await.unwrap();
        let report = load.stop().await.unwrap();
        report.flawless(UPGRADES * between).unwrap();
        total += report.ok;
    }
    println!("{total} requests over {UPGRADES} upgrades");
    // Each one ends by itself, and the first one as soon as its WebSocket is closed.
    let mut first = before.remove(0);
    for mut old in before {
        assert_eq!(old.exit(SOON).await.code(), Some(0));
    }
    assert!(first.exited().is_none(), "the WebSocket is with the first one");
    hang_up.send(()).unwrap();
    let mut socket = talking.await.unwrap();
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(first.exit(SOON).await.code(), Some(0));
    assert_eq!(pid_in(&line.pid_file()).unwrap(), line.edge.aralez.id(), "none of them removed the pid file of the last");
    line.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_answered_and_websockets_kept_until_the_grace_ends() {
    let mut line = Line::start(8).await;
    let mut socket = clients::websocket(&line.edge.http, "/ws").await.unwrap();
    let slow = async |client: anyhow::Result<HttpClient>| client?.get("/slow?ms=4000").await;
    let slow =
        [HttpClient::http1(&line.edge.http).await, HttpClient::http2(&line.edge.http).await].map(|client| tokio::spawn(slow(client)));
    let arrived = eventually("the slow requests at the app", SOON, async || {
        ensure!(line.app.requests() >= 3);
        Ok(())
    });
    arrived.await.unwrap();
    let mut old = line.next().await;
    for slow in slow {
        assert_eq!(slow.await.unwrap().unwrap().status, 200);
    }
    socket.send(Message::text("ping")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ping"));
    while let Some(Ok(_)) = socket.next().await {}
    assert_eq!(old.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let mut line = Line::start(30).await;
    let load = load(&line.edge.http);
    let good = fs::read_to_string(line.edge.path("main.yaml")).unwrap();
    let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = format!("file_server_folder: .\nfile_server_address: {}", held.local_addr().unwrap());
    for (wrong, code) in [("no_such_key: 1", 2), (&taken, 1)] {
        fs::write(line.edge.path("main.yaml"), format!("{good}{wrong}\n")).unwrap();
        let mut new = line.successor().spawn();
        assert_eq!(new.exit(SOON).await.code(), Some(code), "{wrong}: {}", new.log());
        for load in &load {
            load.progress(50, SOON).await.unwrap();
        }
        assert_eq!(pid_in(&line.pid_file()).unwrap(), line.edge.aralez.id());
    }
    let log = line.edge.aralez.logged("ended before it was ready; this process goes on", SOON).await;
    assert!(!log.contains("draining"), "{log}");
    fs::write(line.edge.path("main.yaml"), &good).unwrap();
    let mut old = line.next().await;
    for load in load {
        load.progress(100, SOON).await.unwrap();
        load.stop().await.unwrap().flawless(200).unwrap();
    }
    assert_eq!(old.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_never_gets_ready_and_is_killed_leaves_the_old_one_serving() {
    let scene = Scene::new().await;
    let launch = || scene.with_pid_file().arg("-upgrade-sock").arg(text(&scene.path("sock")));
    let mut old = launch().start().await;
    let mut new = launch().arg("-upgrade").arg("-http-addr").arg("127.0.0.1:1").spawn();
    old.logged("asked for the listeners", SOON).await;
    new.logged("admin API", SOON).await;
    new.signal(Signal::KILL);
    new.exit(SOON).await;
    let log = old.logged(&format!("process {} ended before it was ready; this process goes on", new.id()), SOON).await;
    assert!(!log.contains("draining"), "{log}");
    assert_eq!(pid_in(&scene.path("pid")).unwrap(), old.id());
    old.assert_alive().await;
    assert_eq!(old.admin("/ready").await.unwrap().status, 200);
    let _third = launch().arg("-upgrade").start().await;
    assert_eq!(old.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_before_or_after_the_new_process_is_the_same() {
    let mut line = Line::start(30).await;
    for quit_first in [true, false] {
        let mut socket = clients::websocket(&line.edge.http, "/ws").await.unwrap();
        if quit_first {
            line.edge.aralez.signal(Signal::QUIT);
            line.edge.aralez.logged("SIGQUIT", SOON).await;
            line.assert_serves().await;
        }
        let mut old = line.next().await;
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
        line.assert_serves().await;
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
