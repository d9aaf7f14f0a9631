//! The binary under test as a child process.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aralez_integration::clients::{self, Response};
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::{Process, Signal};
use aralez_integration::wait::eventually;

use super::fake_agent::FakeAgent;

/// From the start of the process to its first complete snapshot, on a busy machine.
const START: Duration = Duration::from_secs(30);

/// How to start `aralez connect`.
pub struct Launch {
    command: Command,
    name: String,
    admin: Address,
}

impl Launch {
    /// For a service instance; the admin API on a free port.
    pub fn sidecar_for(agent: &FakeAgent, service_id: &str) -> Launch {
        Launch::connect(&["-sidecar-for", service_id]).env("CONSUL_HTTP_ADDR", &agent.address())
    }

    /// With these arguments and no agent given.
    pub fn connect(arguments: &[&str]) -> Launch {
        let port = free_port().unwrap();
        let mut command = aralez();
        command.arg("connect").args(arguments).args(["-admin-bind", &format!("127.0.0.1:{port}")]);
        Launch { command, name: format!("aralez connect {}", arguments.join(" ")), admin: Address::port(port) }
    }

    /// The reverse proxy with this `main.yaml`; the admin API on a free port.
    pub fn serve(main: &Path) -> Launch {
        let port = free_port().unwrap();
        let mut command = aralez();
        command.arg("-c").arg(main).args(["-admin-bind", &format!("127.0.0.1:{port}")]);
        Launch { command, name: "aralez -c".to_owned(), admin: Address::port(port) }
    }

    /// The mesh of this file in one process; the admin API on a free port.
    pub fn dev(mesh: &Path) -> Launch {
        let port = free_port().unwrap();
        let mut command = aralez();
        command.arg("dev").arg(mesh).args(["-admin-bind", &format!("127.0.0.1:{port}")]);
        Launch { command, name: "aralez dev".to_owned(), admin: Address::port(port) }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: &str) -> Launch {
        self.command.arg(argument);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.command.env(name, value);
        self
    }

    /// Writes the whole log to `path` instead, where [`Aralez::log`] keeps the last of it only.
    pub fn log_to(self, path: &Path) -> Launch {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(r#"log=$1; shift; exec "$@" >"$log" 2>&1"#).arg("sh").arg(path);
        self.within(shell)
    }

    /// Puts `folder`, with what it holds, on a disk of its own of so many KiB. Only the process sees that; it is below `/proc/PID/root` for others.
    pub fn on_disk(self, folder: &Path, kib: u32) -> Launch {
        let script = r#"set -e
            held=$(mktemp -d); cp -a "$1/." "$held"
            mount -t tmpfs -o "size=$2k" none "$1"; cp -a "$held/." "$1"
            rm -r "$held"; shift 2; exec "$@""#;
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(folder).arg(kib.to_string());
        self.within(shell)
    }

    /// Lets another program start it, which gets the command as its last arguments and becomes it.
    fn within(mut self, mut outer: Command) -> Launch {
        outer.arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        self.command = outer;
        self
    }

    /// The command as it is, to be started in another way; and where the admin API will be.
    pub fn command(self) -> (Command, Address) {
        (self.command, self.admin)
    }

    /// Starts the process and does not wait.
    pub fn spawn(self) -> Aralez {
        let process = Process::start(self.name, self.command, Duration::ZERO).unwrap();
        Aralez { process, admin: self.admin }
    }

    /// Starts the process and waits until `/ready` answers 200.
    pub async fn start(self) -> Aralez {
        let mut aralez = self.spawn();
        aralez.ready().await;
        aralez
    }
}

/// The binary, with nothing of this process's settings of Consul, Nomad and OpenTelemetry.
pub fn aralez() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aralez"));
    let ours = |name: &str| ["CONSUL_", "CONNECT_", "ARALEZ_", "NOMAD_", "OTEL_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

/// A running sidecar. Dropping it kills it; the log of a failed test is printed.
pub struct Aralez {
    process: Process,
    admin: Address,
}

impl Aralez {
    /// Waits until `/ready` answers 200.
    pub async fn ready(&mut self) {
        let admin = self.admin.clone();
        let ready = eventually("a ready sidecar", START, async || {
            if let Some(status) = self.process.exited()? {
                return Ok(Err(status));
            }
            let answer = clients::get(&admin, "/ready").await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(Ok(()))
        });
        if let Err(status) = ready.await.unwrap() {
            panic!("the sidecar ended with {status}");
        }
    }

    /// Waits until `/ready` answers 503 with a body that contains each of `words`, and returns it in lower case.
    pub async fn not_ready_for(&self, words: &[&str]) -> String {
        eventually(&format!("/ready to name {words:?}"), START, async || {
            let answer = self.admin("/ready").await?;
            let text = answer.text().to_lowercase();
            ensure!(answer.status == 503, "{}: {text}", answer.status);
            match words.iter().find(|word| !text.contains(**word)) {
                None => Ok(text),
                Some(word) => bail!("no {word} in {text}"),
            }
        })
        .await
        .unwrap()
    }

    /// `GET` on the admin API.
    pub async fn admin(&self, path: &str) -> Result<Response> {
        clients::get(&self.admin, path).await
    }

    /// Asserts that it still runs and answers `/live`.
    pub async fn assert_alive(&mut self) {
        let ended = self.process.exited().unwrap();
        assert!(ended.is_none(), "ended with {}", ended.unwrap());
        assert_eq!(self.admin("/live").await.unwrap().status, 200);
        assert!(!self.log().contains("panicked at"), "a panic in the log");
    }

    /// Waits until the log contains `text`; returns the whole of it.
    pub async fn logged(&self, text: &str, limit: Duration) -> String {
        let what = format!("{text:?} in the log");
        let log = eventually(&what, limit, async || {
            let log = self.log();
            log.contains(text).then_some(log).context("not yet")
        });
        log.await.unwrap()
    }

    /// What it logged: stdout and stderr, at most the last 64 KiB.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where its admin API is.
    pub fn admin_address(&self) -> &Address {
        &self.admin
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.process.exited().unwrap()
    }

    /// Waits for its end.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        self.process.exit(limit).await.unwrap()
    }
}
