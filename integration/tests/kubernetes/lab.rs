//! A network of its own for a test, since Kubernetes takes no loopback address for a pod's. It ends with all its processes.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use aralez_integration::{components, netns};

/// The address of pods.
pub const PODS: Ipv4Addr = Ipv4Addr::new(10, 211, 0, 2);

/// Runs `test`, which is the test called `name`, inside.
pub fn inside<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if !netns::is_inside() {
        // There is no way out from inside: what has to be fetched or built is made before.
        for made in [components::etcd(), components::kubernetes("kube-apiserver"), components::kubernetes("kubectl")] {
            made.unwrap();
        }
        let aralez = components::aralez().unwrap();
        // Each has a control plane of its own: one at a time.
        static ONE: Mutex<()> = Mutex::new(());
        let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        return netns::again(name, &[("ARALEZ_BIN", aralez.as_ref())]).unwrap();
    }
    for command in [vec!["link", "set", "lo", "up"], vec!["addr", "add", &format!("{PODS}/32"), "dev", "lo"]] {
        let status = Command::new("ip").args(command).status().expect("ip, of `apt-get install iproute2`");
        assert!(status.success(), "{status}");
    }
    tokio::runtime::Runtime::new().unwrap().block_on(test());
}
