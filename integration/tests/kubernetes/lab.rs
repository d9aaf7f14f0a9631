//! A network of its own for a test, since Kubernetes takes no loopback address for a pod's. It ends with all its processes.

use std::env;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The address of pods.
pub const PODS: Ipv4Addr = Ipv4Addr::new(10, 211, 0, 2);

/// Set for the test program that runs inside.
const INSIDE: &str = "ARALEZ_TEST_INSIDE";

/// Runs `test`, which is the test called `name`, inside: the test program starts itself once more, as the first process of new namespaces.
pub fn inside<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if env::var_os(INSIDE).is_some() {
        for command in [vec!["link", "set", "lo", "up"], vec!["addr", "add", &format!("{PODS}/32"), "dev", "lo"]] {
            let status = Command::new("ip").args(command).status().expect("ip, of `apt-get install iproute2`");
            assert!(status.success(), "{status}");
        }
        return tokio::runtime::Runtime::new().unwrap().block_on(test());
    }
    // Each has a control plane of its own: one at a time.
    static ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(env::current_exe().unwrap());
    let status = unshare.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").status().expect("unshare, of util-linux");
    assert!(status.success(), "{name} inside its namespaces, which need root: {status}");
}
