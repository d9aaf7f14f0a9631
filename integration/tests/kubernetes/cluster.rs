//! etcd, an API server and `kubectl`; no controller and no node.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aralez_integration::book;
use aralez_integration::components;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;
use openssl::rsa::Rsa;
use serde_json::{Value, json};

/// In which the API server must be up.
const START: Duration = Duration::from_secs(120);

/// The manifests that users apply.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubernetes");

/// A cluster's control plane.
pub struct Cluster {
    /// Where its files are.
    folder: tempfile::TempDir,
    /// Its secure port on 127.0.0.1.
    pub port: u16,
    store: String,
    server: Option<Process>,
    _etcd: Process,
}

impl Cluster {
    /// Starts it and waits until namespaces can be used.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("sa.key"), Rsa::generate(2048).unwrap().private_key_to_pem().unwrap()).unwrap();
        fs::write(path("tokens.csv"), "admin-token,admin,1,system:masters\n").unwrap();
        let [client, peer, port] = [(); 3].map(|()| free_port().unwrap());
        let (store, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut etcd = Command::new(components::etcd().unwrap());
        etcd.arg("--data-dir").arg(path("etcd")).args(["--listen-client-urls", &store, "--advertise-client-urls", &store]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")]);
        let etcd = Process::start("etcd", etcd, Duration::ZERO).unwrap();
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "admin",
            "clusters": [{"name": "lab", "cluster": {"server": format!("https://127.0.0.1:{port}"), "certificate-authority": "certs/apiserver.crt"}}],
            "users": [{"name": "admin", "user": {"token": "admin-token"}}],
            "contexts": [{"name": "admin", "context": {"cluster": "lab", "user": "admin"}}]});
        fs::write(path("admin.json"), config.to_string()).unwrap();
        let mut cluster = Self { folder, port, store, server: None, _etcd: etcd };
        cluster.up().await;
        cluster
    }

    /// Starts the API server and waits for it.
    pub async fn up(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut server = Command::new(components::kubernetes("kube-apiserver").unwrap());
        server.args([
            format!("--etcd-servers={}", self.store),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", path("certs")),
            format!("--token-auth-file={}", path("tokens.csv")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--service-account-key-file={}", path("sa.key")),
        ]);
        server.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16"]);
        server.args(["--anonymous-auth=false", "--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc"]);
        server.args(["--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount"]);
        self.server = Some(Process::start("kube-apiserver", server, Duration::ZERO).unwrap());
        let ready = eventually("the API server", START, async || {
            self.kubectl(&["get", "--raw", "/readyz"], None)?;
            self.kubectl(&["get", "namespace", "default"], None)
        });
        ready.await.unwrap();
    }

    /// Kills the API server.
    pub fn down(&mut self) {
        self.server = None;
    }

    /// Runs `kubectl` as administrator; what it printed.
    pub fn kubectl(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(components::kubernetes("kubectl")?);
        command.arg("--kubeconfig").arg(self.folder.path().join("admin.json")).args(arguments).env("HOME", self.folder.path());
        command.current_dir(book::repository()?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        child.stdin.take().context("stdin")?.write_all(input.unwrap_or_default().as_bytes())?;
        let output = child.wait_with_output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {why}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies an object.
    pub fn apply(&self, object: &Value) {
        self.kubectl(&["apply", "-f", "-"], Some(&object.to_string())).unwrap();
    }

    /// Applies everything in `examples/kubernetes`, roles first; gives the files.
    pub fn apply_manifests(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = fs::read_dir(MANIFESTS).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort_by_key(|path| !path.ends_with("rbac.yaml"));
        for path in &paths {
            self.kubectl(&["apply", "-f", path.to_str().unwrap()], None).unwrap();
        }
        paths
    }

    /// A new token of a service account, `namespace/name`.
    pub fn token(&self, account: &str) -> String {
        let (namespace, name) = account.split_once('/').unwrap();
        self.kubectl(&["create", "token", name, "--namespace", namespace], None).unwrap().trim().to_owned()
    }

    /// The file of its CA.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("certs/apiserver.crt")
    }

    /// Waits until the status of an Ingress has this address.
    pub async fn shows_status(&self, ingress: &str, address: &str) {
        let written = eventually("the status", START, async || {
            let shown = self.kubectl(&["get", "ingress", ingress, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"], None)?;
            ensure!(shown == address, "{shown:?}");
            Ok(())
        });
        written.await.unwrap();
    }

    /// Runs the commands of a section of the book, which are all of `kubectl`.
    pub fn follow(&self, page: &str, section: &str) {
        for step in book::steps(page, section).unwrap() {
            let words: Vec<&str> = step.line.split_whitespace().collect();
            let ["kubectl", arguments @ ..] = words.as_slice() else { panic!("{}", step.line) };
            self.kubectl(arguments, None).unwrap();
        }
    }
}
