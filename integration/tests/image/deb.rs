//! The Debian package: made by cargo-deb as `Cargo.toml` says, installed into a folder that plays a machine, and removed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aralez_integration::components;

use crate::lab::{output, repository};

/// Makes the package in `folder`.
pub fn package(folder: &Path) -> PathBuf {
    let (program, package) = (folder.join("dist/aralez"), folder.join("aralez.deb"));
    fs::create_dir(folder.join("dist")).unwrap();
    fs::copy(components::aralez().unwrap(), program).unwrap();
    let mut cargo_deb = Command::new(components::cargo_deb().unwrap());
    cargo_deb.args(["--no-build", "--fast", "--manifest-path"]).arg(repository().join("Cargo.toml"));
    output(cargo_deb.arg("--output").arg(&package).env("CARGO_TARGET_DIR", folder));
    package
}

/// A machine with nothing on it but the package manager's books.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("var/lib/dpkg/status"), "").unwrap();
        Machine(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The scripts run from outside with `DPKG_ROOT`: there is no shell inside.
    fn dpkg(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(self.0.path()).args(["--force-script-chrootless", "--force-depends", "--no-triggers"]);
        output(dpkg.args(arguments));
    }
}

#[test]
fn the_package_brings_units_manual_completions_and_a_user_and_keeps_changed_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path());
    let field = |name: &str| output(Command::new("dpkg-deb").arg("--field").arg(&package).arg(name)).trim().to_owned();
    assert_eq!((field("Package"), field("Version")), ("aralez".to_owned(), concat!(env!("CARGO_PKG_VERSION"), "-1").to_owned()));
    assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));

    let machine = Machine::new();
    machine.dpkg([OsStr::new("--install"), package.as_os_str()]);
    let wanted = [
        "usr/lib/systemd/system/aralez.service",
        "usr/lib/systemd/system/aralez.socket",
        "usr/lib/systemd/system/aralez-sidecar@.service",
        "usr/lib/sysusers.d/aralez.conf",
        "usr/share/man/man1/aralez.1.gz",
        "usr/share/man/man1/aralez-connect.1.gz",
        "usr/share/bash-completion/completions/aralez",
        "usr/share/zsh/vendor-completions/_aralez",
        "usr/share/fish/vendor_completions.d/aralez.fish",
        "usr/share/doc/aralez/copyright",
        "etc/aralez/upstreams.yaml",
    ];
    for name in wanted {
        assert!(machine.path(name).is_file(), "{name} is missing");
    }
    let version = output(Command::new(machine.path("usr/bin/aralez")).arg("--version"));
    assert_eq!(version, concat!("aralez ", env!("CARGO_PKG_VERSION"), "\n"));
    output(Command::new(machine.path("usr/bin/aralez")).arg("check").arg(machine.path("etc/aralez/main.yaml")));
    assert!(fs::read_to_string(machine.path("etc/passwd")).unwrap().contains("aralez:"), "the service's user");

    let wants = machine.path("etc/systemd/system/multi-user.target.wants");
    assert!(!wants.exists(), "nothing is on that was not asked for");
    for unit in ["aralez.service", "aralez-sidecar@web-1.service"] {
        output(Command::new("systemctl").arg("--root").arg(machine.path("")).args(["--quiet", "enable", unit]));
        assert!(wants.join(unit).is_symlink(), "{unit}");
    }

    fs::write(machine.path("etc/aralez/main.yaml"), "# mine").unwrap();
    machine.dpkg([OsStr::new("--install"), package.as_os_str()]);
    machine.dpkg(["--remove", "aralez"]);
    assert!(!machine.path("usr/bin/aralez").exists());
    assert_eq!(fs::read_to_string(machine.path("etc/aralez/main.yaml")).unwrap(), "# mine");
    machine.dpkg(["--purge", "aralez"]);
    assert!(!machine.path("etc/aralez").exists() && !machine.path("usr/share/doc/aralez").exists());
}
