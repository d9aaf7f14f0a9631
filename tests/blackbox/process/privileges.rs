//! Sockets first, then another user.

use std::fs;
use std::process::Command;

use aralez_integration::apps::http_echo;
use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::process::{Process, Signal};
use aralez_integration::wait::eventually;

use super::{SOON, Scene, pid_in, text};
use crate::support::sidecar::Launch;

/// A user and a group that every host has, with numbers that are not the same.
const USER: &str = "www-data";
const GROUP: &str = "daemon";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The number of a name in a file like `/etc/passwd`.
fn number(file: &str, name: &str) -> u32 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("no {name} in {file}"));
    line.split(':').nth(2).unwrap().parse().unwrap()
}

/// A port that only root or CAP_NET_BIND_SERVICE may bind.
fn low_port() -> u16 {
    let limit: u16 = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim().parse().unwrap();
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (limit / 2..limit).rev().find(free).expect("a free port that needs a privilege")
}

/// A field of `/proc/PID/task/*/status`, for each thread.
fn of_threads(pid: u32, field: &str) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let value = |status: String| status.lines().find_map(|line| line.strip_prefix(field).map(str::to_owned));
    let values = tasks.flatten().filter_map(status).filter_map(value);
    values.map(|value| value.trim_start_matches(':').split_whitespace().map(str::to_owned).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_and_files_are_had_before_privileges_are_dropped_in_every_thread() {
    let scene = Scene::new().await;
    let (pid, log) = (scene.path("pid"), scene.path("log"));
    let launch = |port: u16| {
        let launch = scene.with_pid_file().arg("-user").arg(USER).arg("-group").arg(GROUP).arg("-error-log").arg(text(&log));
        launch.arg("-threads").arg("3").arg("-admin-bind").arg(&format!("127.0.0.1:{port}"))
    };
    if !is_root() {
        let (refused, why) = scene.outcome(launch(0));
        assert!(refused.status.code() == Some(1) && why.contains("only root can become another user"), "{why}");
        return;
    }
    let port = low_port();
    // Others may not even look into its folder: what it has there, it had before.
    let mut sidecar = launch(port).spawn();
    let admin = Address::port(port);
    let ready = eventually("a ready sidecar", SOON, async || {
        anyhow::ensure!(clients::get(&admin, "/ready").await?.status == 200);
        Ok(())
    });
    ready.await.unwrap();
    assert_eq!(pid_in(&pid).unwrap(), sidecar.id());
    let (user, group) = (number("/etc/passwd", USER).to_string(), number("/etc/group", GROUP).to_string());
    let users = of_threads(sidecar.id(), "Uid");
    assert!(users.len() >= 4, "{users:?}");
    assert!(users.iter().flatten().all(|uid| *uid == user), "{users:?}");
    let groups = of_threads(sidecar.id(), "Gid");
    assert!(groups.iter().flatten().all(|gid| *gid == group), "{groups:?}");
    let others = of_threads(sidecar.id(), "Groups");
    assert!(others.iter().flatten().all(|gid| *gid != "0"), "none of root's groups is left: {others:?}");
    let capabilities = of_threads(sidecar.id(), "CapPrm");
    assert!(capabilities.iter().flatten().all(|set| set.trim_start_matches('0').is_empty()), "{capabilities:?}");
    assert!(fs::read_to_string(&log).unwrap().contains("listening"));
    assert!(clients::get(&admin, "/metrics").await.unwrap().text().contains("process_open_fds"));
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.exit(SOON).await.code(), Some(0));
    // The folder is root's: the file could only be emptied.
    assert_eq!(fs::read_to_string(&pid).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reverse_proxy_listens_on_low_ports_as_the_user_and_group_of_main_yaml() {
    let app = http_echo("shop").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let port = low_port();
    let upstreams = format!("provider: file\nupstreams:\n  \"*\":\n    paths:\n      \"/\": {{servers: [\"http://{}\"]}}\n", app.address);
    fs::write(path("upstreams.yaml"), upstreams).unwrap();
    let main =
        format!("proxy_address_http: 127.0.0.1:{port}\nupstreams_conf: upstreams.yaml\nrunuser: {USER}\nrungroup: {GROUP}\nthreads: 0\n");
    fs::write(path("main.yaml"), main).unwrap();
    let mut edge = Launch::serve(&path("main.yaml")).spawn();
    if !is_root() {
        assert_eq!(edge.exit(SOON).await.code(), Some(1));
        assert!(edge.log().contains(&format!("cannot listen on 127.0.0.1:{port}")), "{}", edge.log());
        return;
    }
    edge.ready().await;
    assert_eq!(clients::get(&Address::port(port), "/").await.unwrap().headers["x-app"], "shop");
    let (user, group) = (number("/etc/passwd", USER).to_string(), number("/etc/group", GROUP).to_string());
    assert!(of_threads(edge.id(), "Uid").iter().flatten().all(|uid| *uid == user), "not swapped");
    assert!(of_threads(edge.id(), "Gid").iter().flatten().all(|gid| *gid == group), "not swapped");
    let workers = fs::read_dir(format!("/proc/{}/task", edge.id())).unwrap().flatten();
    let workers = workers.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "data")).count();
    // Threads that wait for files and hashes have the same name.
    assert!(workers >= std::thread::available_parallelism().unwrap().get(), "threads: 0 gave {workers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_is_wrong_configuration() {
    let scene = Scene::new().await;
    for (flag, what) in [("-user", "user"), ("-group", "group")] {
        let (refused, why) = scene.outcome(scene.launch().arg(flag).arg("nobody-of-that-name"));
        assert_eq!(refused.status.code(), Some(2), "{why}");
        assert!(why.contains(&format!("there is no {what} \"nobody-of-that-name\"")), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_port_needs_the_capability_alone() {
    let scene = Scene::new().await;
    let (command, _) = scene.launch().command();
    let port = low_port();
    let user = number("/etc/passwd", USER).to_string();
    let unprivileged = |with_capability: bool| {
        let mut wrapped = Command::new("setpriv");
        if is_root() {
            wrapped.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        if with_capability {
            wrapped.args(["--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service"]);
        }
        wrapped.arg(command.get_program()).args(command.get_args()).args(["-admin-bind", &format!("127.0.0.1:{port}")]);
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        wrapped
    };
    let refused = unprivileged(false).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && why.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{why}");
    if !is_root() {
        // Nobody can give a capability who has none: setpriv says so, and nothing was started.
        assert!(!unprivileged(true).output().unwrap().status.success());
        return;
    }
    let process = Process::start("aralez with a capability", unprivileged(true), std::time::Duration::ZERO).unwrap();
    let ready = eventually("a ready sidecar", SOON, async || {
        anyhow::ensure!(clients::get(&Address::port(port), "/ready").await?.status == 200);
        Ok(())
    });
    ready.await.unwrap();
    assert!(of_threads(process.id(), "Uid").iter().flatten().all(|uid| *uid == user));
}
