//! A network of its own for a test: any port is free there, and nothing from outside comes in.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Set for the test program that [`again`] started.
const INSIDE: &str = "ARALEZ_TEST_INSIDE";

/// Whether this is the test program that [`again`] started.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Starts the calling test program once more, for its test called `name` alone, as the first process of network, mount and process namespaces of its
/// own: what it starts, mounts and makes there ends with it, and it ends with the caller, whatever becomes of that. Needs root and util-linux.
///
/// # Errors
/// When the test fails there, or the operating system refuses.
pub fn again(name: &str, variables: &[(&str, &OsStr)]) -> Result<()> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(env::current_exe()?).args(["--exact", name, "--nocapture"]).env(INSIDE, "1").envs(variables.iter().copied());
    let status = command.status().context("start setpriv (`apt-get install util-linux`)")?;
    ensure!(status.success(), "{name} inside its namespaces, which need root: {status}");
    Ok(())
}

/// A network namespace with a loopback device. Needs root and iproute2. Removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one; its name begins with `label`.
    ///
    /// # Errors
    /// When the operating system refuses, or there is no `ip` program.
    pub fn new(label: &str) -> Result<Self> {
        let made = Self { name: format!("{label}-{:08x}", fastrand::u32(..)) };
        ip(&["netns", "add", &made.name])?;
        ip(&["-netns", &made.name, "link", "set", "lo", "up"])?;
        Ok(made)
    }

    fn path(&self) -> PathBuf {
        ["/run/netns", &self.name].iter().collect()
    }

    /// Moves the calling thread there, and with it the threads and children that it starts from now on.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(self.path())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("enter the network namespace")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("cannot remove the network namespace: {error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("start ip (`apt-get install iproute2`)")?;
    ensure!(output.status.success(), "ip {arguments:?} (are you root?): {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
