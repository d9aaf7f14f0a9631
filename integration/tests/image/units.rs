//! The units under a real systemd: a Debian with the package boots in a container, a script inside says what it saw.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use aralez_integration::components;
use aralez_integration::process::Process;

use crate::deb::package;
use crate::lab::output;

const BOOT: Duration = Duration::from_secs(300);
const PROBE: &str = "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\n\
                     ExecStart=/bin/bash -c '/bin/bash /root/probe > /root/seen'\nExecStopPost=/bin/systemctl --no-block poweroff\n";

#[tokio::test]
async fn systemd_starts_reloads_and_restarts_the_services() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path());
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let base = components::debian("bookworm", &["systemd-sysv"]).unwrap();
    output(Command::new("tar").arg("-xf").arg(base).arg("-C").arg(&root));
    fs::copy(package, root.join("root/aralez.deb")).unwrap();
    output(Command::new("chroot").arg(&root).args(["dpkg", "--install", "/root/aralez.deb"]));

    fs::write(root.join("srv/index.html"), "<h1>here</h1>\n").unwrap();
    fs::write(root.join("etc/aralez/upstreams.yaml"), "upstreams: {DEFAULT: {paths: {/: {files: {root: /srv}}}}}\n").unwrap();
    fs::create_dir(root.join("etc/aralez/sidecar")).unwrap();
    fs::write(root.join("etc/aralez/sidecar/web-1.env"), "ARALEZ_FLAGS=\"-admin-bind 127.0.0.1:19001\"\n").unwrap();
    fs::write(root.join("root/probe"), include_str!("probe.sh")).unwrap();
    let units = root.join("etc/systemd/system");
    fs::write(units.join("probe.service"), PROBE).unwrap();
    fs::create_dir_all(units.join("default.target.wants")).unwrap();
    symlink("../probe.service", units.join("default.target.wants/probe.service")).unwrap();

    let mut nspawn = Command::new("systemd-nspawn");
    nspawn.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--boot", "--directory"]).arg(&root);
    let mut machine = Process::start("systemd-nspawn (`apt-get install systemd-container`)", nspawn, Duration::ZERO).unwrap();
    machine.exit(BOOT).await.unwrap();

    let seen = fs::read_to_string(root.join("root/seen")).unwrap();
    assert_eq!(seen, include_str!("probe.expected"), "{}", machine.log());
}
