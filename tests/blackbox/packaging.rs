//! What a package puts beside the program: units that systemd understands and rates as hardened, a configuration that stands,
//! completions that shells can read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::sidecar::aralez;

const SYSTEMD: &str = "systemd-analyze (`apt-get install systemd`)";
const UNITS: [&str; 3] = ["aralez.service", "aralez.socket", "aralez-sidecar@.service"];

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// The root of a machine where the package is installed: its units beside those of systemd, its program.
fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    for entry in fs::read_dir("/usr/lib/systemd/system").expect(SYSTEMD).map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), units.join(entry.file_name())).unwrap();
    }
    for unit in UNITS {
        fs::copy(packaging("systemd").join(unit), units.join(unit)).unwrap();
    }
    fs::create_dir(root.path().join("usr/bin")).unwrap();
    for program in ["aralez", "sh"] {
        fs::copy("/bin/true", root.path().join("usr/bin").join(program)).unwrap();
    }
    symlink("usr/bin", root.path().join("bin")).unwrap();
    root
}

fn systemd_analyze(root: &Path, arguments: &[&str]) -> (bool, String) {
    let output =
        Command::new("systemd-analyze").arg("--root").arg(root).args(arguments).env("SYSTEMD_COLORS", "0").output().expect(SYSTEMD);
    (output.status.success(), [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat())
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let machine = machine();
    let verify = ["--man=no", "verify", "aralez.service", "aralez.socket", "aralez-sidecar@web-1.service"];
    // What is not understood is only told, and ignored.
    assert_eq!(systemd_analyze(machine.path(), &verify), (true, String::new()));
}

#[test]
fn systemd_rates_the_services_as_well_protected() {
    let machine = machine();
    // In tenths, of 100: 18 and 14 when this was written; a service without settings has 96.
    for (unit, most) in [("aralez.service", "18"), ("aralez-sidecar@web-1.service", "16")] {
        let (good, report) =
            systemd_analyze(machine.path(), &["--no-pager", "--offline=true", "security", &format!("--threshold={most}"), unit]);
        assert!(good && report.contains("Overall exposure level"), "{unit}: {report}");
    }
}

#[test]
fn the_configuration_of_the_package_stands() {
    let checked = aralez().arg("check").arg(packaging("etc/main.yaml")).output().unwrap();
    assert_eq!((checked.status.code(), String::from_utf8_lossy(&checked.stderr)), (Some(0), "".into()));
}

#[test]
fn bash_completes_commands_and_flags() {
    let complete = |words: &str| {
        let script = r#"source "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _aralez aralez "${COMP_WORDS[-1]}" x; printf '%s\n' "${COMPREPLY[@]}""#;
        let output =
            Command::new("bash").args(["-c", script, "bash"]).arg(packaging("completions/aralez.bash")).arg(words).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("aralez conn"), "connect\n");
    assert_eq!(complete("aralez connect --sid"), "--sidecar-for\n");
    assert_eq!(complete("aralez --upg"), "--upgrade\n", "flags of serve need no verb");
    assert_eq!(complete("aralez connect --mesh-g"), "\n", "what is refused is not offered");
}
