//! `nomad/docker.nomad.hcl`, on a Docker daemon of the test's own, with ACLs in Consul.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::components;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;

use crate::agent::{Agent, PATIENCE, id, in_front, shipped};
use crate::lab;
use crate::mesh::drained;

/// `NAME CHANGE FILE…`: an image of these files of this machine and of the libraries that they need; no registry can be reached.
const IMAGE: &str = r#"
name=$1 change=$2 root=$(mktemp -d); shift 2
libraries() { find -L "$@" -type f \( -perm /100 -o -name '*.so' \) -exec ldd {} + 2>/dev/null | grep -o '/[^ :]*'; }
{ find -L "$@" -type f; libraries "$@"; } | sort -u | xargs cp --parents --dereference --target-directory="$root"
chmod --recursive a+rX "$root"
tar --create --directory="$root" . | docker import --change "$change" - "$name"
rm -r "$root"
"#;

struct Docker {
    programs: PathBuf,
    _state: tempfile::TempDir,
    _daemon: Process,
}

impl Docker {
    /// Starts the daemon, where Nomad looks for it. Networks are Nomad's business.
    async fn start() -> Self {
        let (programs, state) = (components::docker().unwrap(), tempfile::tempdir().unwrap());
        let mut command = Command::new(programs.join("dockerd"));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(state.path().join(name));
        }
        command.args(["--bridge=none", "--iptables=false", "--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs"]);
        command.env("PATH", in_front(&programs));
        let docker = Self { programs, _state: state, _daemon: Process::start("dockerd", command, Duration::ZERO).unwrap() };
        eventually("the Docker daemon", PATIENCE, async || docker.sh("docker version", &[])).await.unwrap();
        docker
    }

    fn sh(&self, script: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("sh");
        let output = command.args(["-ec", script, "sh"]).args(arguments).env("PATH", in_front(&self.programs)).output()?;
        ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn image(&self, name: &str, change: &str, files: &[&str]) {
        self.sh(IMAGE, &[&[name, change], files].concat()).unwrap();
    }
}

#[test]
fn containers_of_the_image_are_sidecars_by_task_and_in_the_place_of_envoy() {
    lab::inside("docker::containers_of_the_image_are_sidecars_by_task_and_in_the_place_of_envoy", || async {
        let docker = Docker::start().await;
        let aralez = components::aralez().unwrap().display().to_string();
        docker.image("pause:1", r#"CMD ["/usr/bin/sleep", "infinity"]"#, &["/usr/bin/sleep"]);
        let python =
            Command::new("/usr/bin/python3").args(["-c", "import sysconfig; print(sysconfig.get_path('stdlib'), end='')"]).output();
        let library = String::from_utf8(python.expect("`apt-get install python3`").stdout).unwrap();
        docker.image("python:3-slim", "ENV PATH=/usr/bin", &["/usr/bin/python3", &library]);
        docker.image("aralez:0.1.0", &format!("USER 10101:10101\nENTRYPOINT [{aralez:?}]"), &[&aralez]);

        let agent = Agent::with_acls().await;
        agent.consul.intention("web", "api", "allow").await.unwrap();
        agent.run(&shipped("docker.nomad.hcl"), &[]);
        let [api, web] =
            [agent.allocations("mesh-docker", "api", 1).await.remove(0), agent.allocations("mesh-docker", "web", 1).await.remove(0)];
        let called = eventually("a call from web to api", PATIENCE, async || {
            let log = agent.log(id(&api), "app");
            ensure!(log.contains("\"GET / HTTP/1.1\" 200"), "{log}{}", agent.log(id(&web), "connect-proxy-web"));
            Ok(())
        });
        called.await.unwrap();
        stops_in_order(&agent, id(&api)).await;
    });
}

/// An allocation that is stopped ends its app first, then the sidecar, which drains.
async fn stops_in_order(agent: &Agent, stopped: &str) {
    agent.nomad(&["alloc", "stop", "-detach", stopped]).unwrap();
    let allocation = agent.ended(stopped).await;
    let tasks = &allocation["TaskStates"];
    let [app, sidecar] = ["app", "connect-proxy-api"].map(|task| tasks[task]["FinishedAt"].as_str().unwrap());
    assert!(app < sidecar, "{tasks:#}");
    drained(agent, stopped, "SIGTERM");
}
