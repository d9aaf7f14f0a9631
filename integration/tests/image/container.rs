//! The container image: what is in it, and how it runs where nothing is allowed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use aralez_integration::apps::http_echo;
use aralez_integration::clients;
use aralez_integration::net::Address;
use aralez_integration::netns::Netns;
use aralez_integration::process::{Process, Signal};
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::lab::{Lab, output};

/// For whatever takes no time but the machine's.
const SOON: Duration = Duration::from_secs(60);
const CONTAINER: &str = "edge";

fn config(lab: &Lab, image: &str) -> Value {
    let inspected: Value = serde_json::from_str(&output(lab.buildah().args(["inspect", "--type", "image", image]))).unwrap();
    inspected["Docker"]["config"].clone()
}

/// The names of all files of the image.
fn files(lab: &Lab, image: &str) -> Vec<String> {
    let container = output(lab.podman().args(["create", image]));
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    output(lab.podman().args(["export", container.trim(), "--output"]).arg(&archive));
    let listed = output(Command::new("tar").arg("-tf").arg(archive));
    listed.lines().filter(|name| !name.ends_with('/')).map(str::to_owned).collect()
}

/// The line `field:` of the process's status in `/proc`.
fn status(pid: &str, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap().to_owned()
}

/// What the image says about itself.
fn is_described(lab: &Lab, image: &str) {
    let config = config(lab, image);
    assert_eq!(config["User"], "10101:10101");
    assert_eq!((&config["Entrypoint"], &config["Cmd"]), (&json!(["/usr/bin/aralez"]), &json!(["-c", "/etc/aralez/main.yaml"])));
    assert_eq!(config["ExposedPorts"], json!({"8080/tcp": {}, "8443/tcp": {}, "21000/tcp": {}}));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/usr/bin/aralez", "status"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!((label("title"), label("version"), label("revision")), (json!("aralez"), json!("0.0.1"), json!("abc")));
}

fn holds_little(lab: &Lab, image: &str) {
    let files = files(lab, image);
    for wanted in ["usr/bin/aralez", "etc/ssl/certs/ca-certificates.crt"] {
        assert!(files.iter().any(|file| file == wanted), "{wanted} is not in {files:?}");
    }
    assert!(files.len() < 20 && !files.iter().any(|file| file.ends_with("/sh")), "{files:?}");
}

/// `docker run` as docs/install.md says, with the files of `conf`, in the network of the calling thread.
fn start(lab: &Lab, image: &str, conf: &Path) -> Process {
    let mut run = lab.podman();
    run.args(["run", "--rm", "--name", CONTAINER, "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"]);
    run.args(["--security-opt=no-new-privileges", "--memory=128m"]);
    // Where tests run there may be no systemd, which times the checks, and no right to lift limits.
    run.args(["--health-interval=disable", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
    run.arg("--network=host").arg(format!("--volume={}:/etc/aralez:ro", conf.display())).arg(image);
    Process::start("podman run", run, SOON).unwrap()
}

/// Nothing is allowed to the process, and nothing can be written.
fn is_confined(lab: &Lab) {
    let pid = output(lab.podman().args(["inspect", "--format", "{{.State.Pid}}", CONTAINER]));
    let pid = pid.trim();
    assert_eq!(status(pid, "Uid"), "10101\t10101\t10101\t10101");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().starts_with("ro"), "{root}");
}

/// What the image's own health check says, run in the container.
fn is_healthy(lab: &Lab) -> bool {
    let check = lab.podman().args(["healthcheck", "run", CONTAINER]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(said.is_empty(), "{said}");
    check.status.success()
}

#[tokio::test]
async fn the_image_serves_read_only_without_any_right_and_drains() {
    let lab = Lab::new();
    let image = lab.image();
    is_described(&lab, image);
    holds_little(&lab, image);

    let network = Netns::new("aralez-image").unwrap();
    network.enter().unwrap();
    let app = http_echo("app").await.unwrap();
    let conf = tempfile::tempdir().unwrap();
    fs::set_permissions(conf.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(conf.path().join("main.yaml"), "proxy_address_http: 0.0.0.0:8080\nupstreams_conf: upstreams.yaml\n").unwrap();
    let upstreams = json!({"upstreams": {"DEFAULT": {"paths": {"/": {"servers": [app.address.to_string()]}}}}});
    fs::write(conf.path().join("upstreams.yaml"), upstreams.to_string()).unwrap();
    let mut container = start(&lab, image, conf.path());
    let edge = Address::port(8080);
    let answer = eventually("an answer through the container", SOON, async || {
        let answer = clients::get(&edge, "/hello").await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(answer)
    });
    assert_eq!(answer.await.unwrap().headers["x-app"], "app");
    is_confined(&lab);
    assert!(is_healthy(&lab));

    // What is in flight is answered, then it ends by itself.
    app.hold();
    let before = app.requests();
    let waiting = tokio::spawn(async { clients::get(&Address::port(8080), "/held").await });
    eventually("the request at the app", SOON, async || (app.requests() > before).then_some(()).context("not there")).await.unwrap();
    container.signal(Signal::TERM).unwrap();
    eventually("a closed door", SOON, async || edge.connect().await.err().map(drop).context("still open")).await.unwrap();
    assert!(!is_healthy(&lab), "it drains");
    app.release();
    assert_eq!(waiting.await.unwrap().unwrap().status, 200);
    assert_eq!(container.exit(SOON).await.unwrap().code(), Some(0), "{}", container.log());
}
