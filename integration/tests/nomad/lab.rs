//! A host of its own for a test: it ends with all its processes, networks and mounts, whatever becomes of the test.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use aralez_integration::{components, netns};

/// The address of the host.
pub const HOST: &str = "10.211.0.1";

/// For temporary files: a short path, because Nomad makes sockets below it.
const SCRATCH: &str = "/run/lab";

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Runs `test`, which is the test called `name`, inside.
pub fn inside<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if netns::is_inside() {
        set_up();
        return tokio::runtime::Runtime::new().unwrap().block_on(test());
    }
    // There is no way out from inside: what has to be fetched or built is made before.
    for made in [components::consul(), components::nomad(), components::cni_plugins(), components::docker(), components::envoy()] {
        made.unwrap();
    }
    let aralez = components::aralez().unwrap();
    // One at a time: they share the machine's control groups.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = cgroups();
    let ended = netns::again(name, &[("TMPDIR", SCRATCH.as_ref()), ("ARALEZ_BIN", aralez.as_ref())]);
    let (after, mut left) = (cgroups(), Vec::new());
    left.extend(after.difference(&before));
    // Children before their parents.
    for folder in left.into_iter().rev() {
        fs::remove_dir(folder).unwrap();
    }
    ended.unwrap();
}

/// The network of a host: its address is on an ordinary device, and it forwards.
fn set_up() {
    let commands = [
        "mount -t tmpfs none /run".to_owned(),
        format!("mkdir /run/netns {SCRATCH}"),
        "ip link set lo up".to_owned(),
        "ip link add host0 type veth peer name wire0".to_owned(),
        format!("ip addr add {HOST}/24 dev host0"),
        "ip link set wire0 up".to_owned(),
        "ip link set host0 up".to_owned(),
        "ip route add default dev host0".to_owned(),
        "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
        "iptables -S".to_owned(),
    ];
    for command in commands {
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {why}(this needs root, and `apt-get install iproute2 iptables procps`)");
    }
}

/// The folders of the control groups of Nomad and Docker, of either version.
fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let controllers =
        fs::read_dir(CGROUPS).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()).unwrap_or_default();
    for folder in controllers.iter().map(PathBuf::as_path).chain([Path::new(CGROUPS)]) {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.filter_map(Result::ok).filter(is_ours) {
            collect(&entry.path(), &mut found);
        }
    }
    found
}

fn is_ours(entry: &DirEntry) -> bool {
    ["nomad", "docker"].iter().any(|name| entry.file_name().to_string_lossy().starts_with(name))
}

fn collect(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    if folder.is_dir() && found.insert(folder.to_owned()) {
        for entry in fs::read_dir(folder).unwrap().filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            collect(&entry.path(), found);
        }
    }
}
