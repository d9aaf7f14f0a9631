//! Consul and Nomad, one agent of each, on the host of a test.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aralez_integration::book;
use aralez_integration::components;
use aralez_integration::consul::{Agent as Consul, Options};
use aralez_integration::net::Address;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::lab::HOST;

/// From a job to what it brings about: allocations, networks, registrations, checks that run every ten seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Both agents. The control plane of Nomad is asked through its own program.
pub struct Agent {
    pub consul: Consul,
    token: Option<String>,
    program: PathBuf,
    folder: tempfile::TempDir,
    _process: Process,
}

impl Agent {
    /// Starts both and waits until jobs can be placed.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// With ACLs in Consul that deny by default: services and tasks get their tokens for their identity as Nomad's workloads.
    pub async fn with_acls() -> Self {
        let agent = Self::with(Options::acl()).await;
        let keys = format!("http://{HOST}:4646/.well-known/jwks.json");
        println!("{}", agent.nomad(&["setup", "consul", "-y", "-jwks-url", &keys]).unwrap());
        agent
    }

    async fn with(mut options: Options) -> Self {
        // Where it is by default on a host, so that nobody needs to be told.
        options.config["client_addr"] = json!(format!("127.0.0.1 {HOST}"));
        options.config["ports"] = json!({"http": 8500, "grpc": 8502});
        let token = options.token.clone();
        let consul = Consul::start(options).await.unwrap();
        let (program, folder) = (components::nomad().unwrap(), tempfile::tempdir().unwrap());
        let config = folder.path().join("nomad.hcl");
        fs::write(&config, configuration(token.as_deref())).unwrap();
        let mut command = Command::new(&program);
        command.args(["agent", "-dev", "-log-level=INFO"]).arg(format!("-config={}", config.display()));
        // Nomad runs `consul connect envoy -bootstrap` for every sidecar.
        command.env("PATH", in_front(components::consul().unwrap().parent().unwrap()));
        let process = Process::start("nomad agent", command, Duration::ZERO).unwrap();
        let agent = Self { consul, token, program, folder, _process: process };
        let ready = eventually("a client that takes jobs", PATIENCE, async || {
            let nodes = agent.api("/v1/nodes")?;
            ensure!(nodes[0]["Status"] == "ready" && nodes[0]["SchedulingEligibility"] == "eligible", "{nodes}");
            Ok(())
        });
        ready.await.unwrap();
        agent
    }

    /// Runs `nomad` with these arguments, and the program under test for the variable `aralez` of jobs that have it; what it printed.
    pub fn nomad(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("NOMAD_ADDR", format!("http://{HOST}:4646"))
            .env("NOMAD_VAR_aralez", components::aralez()?)
            .envs(self.token.iter().map(|token| ("CONSUL_HTTP_TOKEN", token)));
        let output = command.output().context("start nomad")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "nomad {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// `GET path`.
    pub fn api(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.nomad(&["operator", "api", path])?)?)
    }

    /// Runs a job file with these variables.
    pub fn run(&self, job: &str, variables: &[&str]) {
        let file = self.folder.path().join("job.nomad.hcl");
        fs::write(&file, job).unwrap();
        let variables = variables.iter().flat_map(|variable| ["-var", variable]);
        let line: Vec<&str> = ["job", "run", "-detach"].into_iter().chain(variables).chain([file.to_str().unwrap()]).collect();
        println!("{}", self.nomad(&line).unwrap());
    }

    /// Runs a line of the book, in the folder of the sources and with the programs under test.
    pub fn shell(&self, line: &str) {
        let programs = [components::aralez().unwrap(), components::consul().unwrap(), self.program.clone()];
        let mut path: Vec<PathBuf> = programs.iter().map(|program| program.parent().unwrap().to_owned()).collect();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(book::repository().unwrap()).env("NOMAD_ADDR", format!("http://{HOST}:4646"));
        let output = shell.env("PATH", std::env::join_paths(path).unwrap()).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }

    /// The running allocations of a group, as `/v1/allocation/<id>` has them, when there are `count`.
    pub async fn allocations(&self, job: &str, group: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} of {group} running");
        let running = eventually(&what, PATIENCE, async || {
            let all = self.api(&format!("/v1/job/{job}/allocations"))?;
            let all = all.as_array().context("no list")?.iter();
            let ours: Vec<_> = all.filter(|alloc| alloc["TaskGroup"] == group && alloc["DesiredStatus"] == "run").collect();
            ensure!(ours.len() == count && ours.iter().all(|alloc| alloc["ClientStatus"] == "running"), "{ours:#?}");
            ours.iter().map(|alloc| self.allocation(id(alloc))).collect()
        });
        running.await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// One allocation.
    pub fn allocation(&self, id: &str) -> Result<Value> {
        self.api(&format!("/v1/allocation/{id}"))
    }

    /// One allocation, once it is complete.
    pub async fn ended(&self, id: &str) -> Value {
        let ended = eventually("the end of the allocation", PATIENCE, async || {
            let allocation = self.allocation(id)?;
            ensure!(allocation["ClientStatus"] == "complete", "{}: {:#}", allocation["ClientStatus"], allocation["TaskStates"]);
            Ok(allocation)
        });
        ended.await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What a task wrote to standard error.
    pub fn log(&self, allocation: &str, task: &str) -> String {
        self.nomad(&["alloc", "logs", "-stderr", "-task", task, allocation]).unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// The `PATH` with a folder in front.
pub fn in_front(folder: &Path) -> OsString {
    let mut path = folder.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    path
}

/// The id of an allocation.
pub fn id(allocation: &Value) -> &str {
    allocation["ID"].as_str().unwrap()
}

/// Where a port of an allocation is on the host.
pub fn port(allocation: &Value, label: &str) -> Address {
    let ports = allocation["AllocatedResources"]["Shared"]["Ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["Label"] == label).unwrap();
    Address::Tcp(format!("{}:{}", port["HostIP"].as_str().unwrap(), port["Value"]).parse().unwrap())
}

/// A file of `nomad/`.
pub fn shipped(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// The folder of the jobs.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("nomad")
}

/// Nomad's configuration. `token` manages Consul's ACLs.
fn configuration(token: Option<&str>) -> String {
    let identities = r#"
  service_identity {
    aud = ["consul.io"]
    ttl = "1h"
  }
  task_identity {
    aud = ["consul.io"]
    ttl = "1h"
  }"#;
    format!(
        r#"
bind_addr = "{HOST}"
client {{
  cni_path          = "{plugins}"
  network_interface = "host0"
  options = {{
    "driver.allowlist"     = "raw_exec,exec,docker"
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }}
  chroot_env {{
{chroot}  }}
  meta {{
    "connect.sidecar_image" = "aralez:0.1.0"
  }}
}}
plugin "docker" {{
  config {{
    infra_image = "pause:1"
  }}
}}
plugin "raw_exec" {{
  config {{
    enabled = true
  }}
}}
consul {{
  address      = "127.0.0.1:8500"
  grpc_address = "127.0.0.1:8502"{acl}
}}
"#,
        plugins = components::cni_plugins().unwrap().display(),
        chroot = chroot().iter().map(|file| format!("    \"{file}\" = \"{file}\"\n")).collect::<String>(),
        acl = token.map_or_else(String::new, |token| format!("\n  token = \"{token}\"{identities}")),
    )
}

/// What the program under test needs where the driver `exec` locks it in: itself, its libraries, the names of users. By default that is all of
/// `/usr` and `/etc`.
fn chroot() -> Vec<String> {
    let aralez = components::aralez().unwrap().display().to_string();
    let output = Command::new("ldd").arg(&aralez).output().expect("ldd, of `apt-get install libc-bin`");
    let libraries = String::from_utf8(output.stdout).unwrap();
    let files = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain(["/etc/passwd", "/etc/group", &aralez]);
    files.map(str::to_owned).collect()
}
