//! Images without a registry: what the Dockerfile builds on is made here from Debian packages; storage of the test's own.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use aralez_integration::components;
use tempfile::TempDir;

const NEEDS: &str = "apt-get install buildah podman runc conmon debootstrap iproute2";
/// What `FROM` names in the Dockerfile.
const RUST: &str = "localhost/rust:1.95-slim-bookworm";

/// The top of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What `command` prints; anything but success ends the test.
pub fn output(command: &mut Command) -> String {
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("{:?} not found: {NEEDS}", command.get_program()),
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (are you root?): {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A place for images and containers.
pub struct Lab {
    folder: TempDir,
}

impl Lab {
    /// An empty one.
    pub fn new() -> Lab {
        Lab { folder: tempfile::tempdir().unwrap() }
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--root").arg(self.folder.path().join("storage")).arg("--runroot").arg(self.folder.path().join("run"));
        command.args(["--storage-driver", "vfs"]);
        command
    }

    /// `buildah`, without namespaces: it needs none to build, and leaves nothing on the host.
    pub fn buildah(&self) -> Command {
        let mut command = self.tool("buildah");
        command.env("BUILDAH_ISOLATION", "chroot");
        command
    }

    /// `podman` on a host that may have no systemd and cgroups of version 1.
    pub fn podman(&self) -> Command {
        let mut command = self.tool("podman");
        command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command
    }

    /// Builds the Dockerfile, as it is, and gives the image's name. Without a ready program this takes a cargo build, with the toolchain
    /// and the fetched crates of this machine.
    pub fn image(&self) -> &'static str {
        const IMAGE: &str = "localhost/aralez:test";
        let mut build = self.buildah();
        build.args(["build", "--pull=never", "--format=docker", "--tag", IMAGE]);
        build.args(["--build-arg=VERSION=0.0.1", "--build-arg=REVISION=abc"]);
        match std::env::var_os("ARALEZ_BIN") {
            Some(program) => self.rust(Some(program.as_ref())),
            None => {
                self.rust(None);
                build.arg("--build-arg=PROFILE=release");
                for (name, place, options) in [("RUSTUP_HOME", "rustup", ":ro"), ("CARGO_HOME", "cargo", "")] {
                    let default = || Path::new(&std::env::var_os("HOME").unwrap()).join(format!(".{place}"));
                    let folder = std::env::var_os(name).map_or_else(default, PathBuf::from);
                    build.arg("--volume").arg(format!("{}:/usr/local/{place}{options}", folder.display()));
                }
            }
        }
        output(build.arg(repository()));
        IMAGE
    }

    /// The stand-in for the Rust image: Debian with a C compiler. With a `ready` program its cargo only hands that out, where
    /// all is there that a build would need.
    fn rust(&self, ready: Option<&Path>) {
        let base = components::debian("bookworm", &["ca-certificates", "gcc", "libc6-dev"]).unwrap();
        let container = self.run(["from", "scratch"]);
        self.run([OsStr::new("add"), container.as_ref(), base.as_ref(), "/".as_ref()]);
        if let Some(ready) = ready {
            let cargo = self.folder.path().join("cargo");
            let script =
                "#!/bin/sh\nset -e\nfor tool in cc cmake make perl; do command -v $tool; done\nexec install -D /ready target/dist/aralez\n";
            fs::write(&cargo, script).unwrap();
            self.run(["copy", "--chmod=755", &container, cargo.to_str().unwrap(), "/usr/local/cargo/bin/cargo"]);
            self.run([OsStr::new("copy"), container.as_ref(), ready.as_ref(), "/ready".as_ref()]);
        }
        let path = "--env=PATH=/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        self.run(["config", "--env=RUSTUP_HOME=/usr/local/rustup", "--env=CARGO_HOME=/usr/local/cargo", path, &container]);
        self.run(["commit", "--rm", &container, RUST]);
    }

    fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        output(self.buildah().args(arguments)).trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What is mounted could not be removed with the folder.
        let _best_effort = self.podman().args(["rm", "--all", "--force"]).output();
        let _best_effort = self.buildah().args(["rm", "--all"]).output();
    }
}
