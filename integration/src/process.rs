//! Child processes: started with their log in a file, signalled by PID, ended with their handle.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, setrlimit};
use tempfile::NamedTempFile;

use crate::wait::eventually;

/// How much of a log is printed when a test fails, in bytes.
const TAIL: u64 = 64 * 1024;

/// A running child. Dropping it ends it; if the owning test is panicking, its log is printed first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: NamedTempFile,
    grace: Duration,
}

impl Process {
    /// Starts `command` with stdin closed, stdout and stderr in one log file. On drop it gets `grace` between SIGTERM and SIGKILL;
    /// with a grace of zero it is killed at once.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: impl Into<String>, mut command: Command, grace: Duration) -> Result<Self> {
        raise_file_limit();
        let log = NamedTempFile::new()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(open_end(&log)?)
            .stderr(open_end(&log)?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { name: name.into(), child, log, grace })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the child has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended: {status}", self.name);
        }
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Kills the child with SIGKILL and collects it.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The exit status if the child has ended.
    ///
    /// # Errors
    /// When the operating system refuses to tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the child to end by itself.
    ///
    /// # Errors
    /// When it is still running after `limit`.
    pub async fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        eventually(&what, limit, async || self.child.try_wait()?.context("still running")).await
    }

    /// Everything the child wrote to stdout and stderr so far (at most the last 64 KiB).
    pub fn log(&self) -> String {
        read_tail(&self.log).unwrap_or_else(|error| format!("<log unreadable: {error}>"))
    }

    fn stop(&mut self) -> Result<()> {
        if !self.grace.is_zero() && self.signal(Signal::TERM).is_ok() {
            let deadline = Instant::now() + self.grace;
            while Instant::now() < deadline {
                if self.exited()?.is_some() {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot stop {}: {error:#}", self.name);
        }
        if thread::panicking() {
            eprintln!("---- log of {} ----\n{}---- end of {} ----", self.name, self.log(), self.name);
        }
    }
}

/// A handle that appends, so that stdout and stderr do not overwrite each other.
fn open_end(log: &NamedTempFile) -> Result<File> {
    Ok(File::options().append(true).open(log.path())?)
}

fn read_tail(log: &NamedTempFile) -> Result<String> {
    let mut file = log.reopen()?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lifts the soft limit of open files to the hard one, for this process and the children it starts: a thousand connections through
/// two sidecars need more than the usual 1,024. A refusal shows in the test that needs them.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
