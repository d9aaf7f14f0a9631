//! The service manager: notification, watchdog, socket activation.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::process::Signal;

use super::{SOON, Scene, text};
use crate::support::fake_agent::{FakeAgent, upstream};
use crate::support::mesh::{Backend, answering, port, web};
use crate::support::sidecar::{Aralez, Launch};

/// The end of `NOTIFY_SOCKET` that a service manager has.
struct Manager(UnixDatagram);

impl Manager {
    fn of(scene: &Scene) -> Manager {
        let socket = UnixDatagram::bind(scene.path("notify")).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Manager(socket)
    }

    /// The next message that is not about the watchdog.
    fn told(&self) -> String {
        loop {
            let mut message = [0; 1024];
            let length = self.0.recv(&mut message).expect("a message");
            let message = String::from_utf8(message[..length].to_vec()).unwrap();
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }
}

fn launch(scene: &Scene) -> Launch {
    scene.launch().env("NOTIFY_SOCKET", text(&scene.path("notify"))).arg("-upgrade-sock").arg(text(&scene.path("sock")))
}

async fn end(mut sidecar: Aralez) {
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_of_readiness_reload_and_end() {
    let scene = Scene::new().await;
    let manager = Manager::of(&scene);
    let mut sidecar = launch(&scene).spawn();
    assert_eq!(manager.told(), "READY=1\n");
    assert_eq!(sidecar.admin("/ready").await.unwrap().status, 200, "it is not told too early");
    sidecar.signal(Signal::HUP);
    let reloading = manager.told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(manager.told(), "READY=1\n");
    sidecar.signal(Signal::TERM);
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert_eq!(sidecar.exit(SOON).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_hand_over_the_service_goes_on_under_the_new_process() {
    let scene = Scene::new().await;
    let manager = Manager::of(&scene);
    let mut old = launch(&scene).spawn();
    assert_eq!(manager.told(), "READY=1\n");
    let new = launch(&scene).arg("-u").spawn();
    let mut told = [manager.told(), manager.told()];
    told.sort();
    assert_eq!(told, [format!("MAINPID={}\n", new.id()), "READY=1\n".to_owned()]);
    assert_eq!(old.exit(SOON).await.code(), Some(0));
    end(new).await;
    assert_eq!(manager.told(), "STOPPING=1\n", "and only the last one stops the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_in_half_its_time() {
    let scene = Scene::new().await;
    let manager = Manager::of(&scene);
    let _sidecar = launch(&scene).env("WATCHDOG_USEC", "400000").spawn();
    assert_eq!(manager.told(), "READY=1\n");
    manager.0.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    let mut message = [0; 64];
    for _ in 0..4 {
        let length = manager.0.recv(&mut message).expect("a sign of life");
        assert_eq!(&message[..length], b"WATCHDOG=1\n");
    }
}

/// Ends the child that was started in the way of a service manager.
struct Activated(Child);

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Activated {
    /// With these sockets as descriptors 3 and 4.
    fn start(launch: Launch, first: TcpListener, second: TcpListener, log: &File) -> Activated {
        let (command, _) = launch.command();
        let script = r#"LISTEN_PID=$$ LISTEN_FDS=2 exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg("sh").arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.stdin(Stdio::from(OwnedFd::from(first))).stdout(Stdio::from(OwnedFd::from(second)));
        shell.stderr(Stdio::from(log.try_clone().unwrap()));
        Activated(shell.spawn().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_the_service_manager_are_used_by_their_address() {
    let [entry, admin, stray] = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let [entry_at, admin_at, stray_at] = [&entry, &admin, &stray].map(|socket| Address::Tcp(socket.local_addr().unwrap()));
    let agent = FakeAgent::start().await;
    let back = Backend::start(&agent, "api", "api-1").await;
    agent.set_instances("api", vec![back.instance.clone()]);
    agent.register(&web(vec![upstream("api", port(&entry_at), "http")]));
    // Connected before anybody is there: the service manager's sockets have a queue.
    let mut early = TcpStream::connect(entry.local_addr().unwrap()).unwrap();
    early.write_all(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").unwrap();
    early.set_read_timeout(Some(SOON)).unwrap();
    let log = tempfile::tempfile().unwrap();
    let launch = || Launch::sidecar_for(&agent, "web-1").arg("-admin-bind").arg(&admin_at.to_string());
    let held = [&entry, &admin].map(|socket| socket.try_clone().unwrap());
    let first = Activated::start(launch(), entry, admin, &log);
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(clients::get(&admin_at, "/ready").await.unwrap().status, 200);
    assert_eq!(answering(&entry_at).await.unwrap(), "api-1");
    drop(first);

    // In any order; and one that nobody wants is closed.
    let [entry, admin] = held;
    drop(admin);
    let _second = Activated::start(launch(), stray, entry, &log);
    let ready = aralez_integration::wait::eventually("the second", SOON, async || {
        anyhow::ensure!(clients::get(&admin_at, "/ready").await?.status == 200);
        anyhow::ensure!(stray_at.connect().await.is_err(), "the stray socket listens");
        answering(&entry_at).await
    });
    assert_eq!(ready.await.unwrap(), "api-1");
}
