//! The reverse proxy beside a cluster.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::clients;
use aralez_integration::components;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;
use aralez_integration::web_pki::{self, Pair};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;

/// From a change to its effect, at the most, on a crowded machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A running reverse proxy, with its files in a folder of its own.
pub struct Edge {
    pub http: Address,
    tls: Address,
    admin: Address,
    folder: TempDir,
    _process: Process,
}

impl Edge {
    /// With the token of a service account, `namespace/name`; `keys` are more of the section `kubernetes`, `rest` is what follows it.
    pub fn start(cluster: &Cluster, account: &str, keys: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [http, tls, admin] = [(); 3].map(|()| free_port().unwrap());
        fs::write(folder.path().join("token"), cluster.token(account)).unwrap();
        fs::create_dir(folder.path().join("certificates")).unwrap();
        let (port, ca) = (cluster.port, cluster.ca());
        let routes = format!(
            "provider: kubernetes\nkubernetes:\n  server: https://127.0.0.1:{port}\n  token_file: token\n  ca_file: {}\n{keys}{rest}",
            ca.display()
        );
        fs::write(folder.path().join("upstreams.yaml"), routes).unwrap();
        let main = format!(
            "proxy_address_http: 127.0.0.1:{http}\nproxy_address_tls: 127.0.0.1:{tls}\nproxy_certificates: certificates\nupstreams_conf: upstreams.yaml\n"
        );
        fs::write(folder.path().join("main.yaml"), main).unwrap();
        let mut command = Command::new(components::aralez().unwrap());
        command.arg("-c").arg(folder.path().join("main.yaml")).args(["-admin-bind", &format!("127.0.0.1:{admin}")]);
        Self::run(command, [http, tls, admin], folder)
    }

    /// As the container of the applied Deployment: its arguments, its ConfigMap, and what a pod is told of its cluster. [`mount_account`] comes first.
    pub fn in_a_pod(cluster: &Cluster) -> Self {
        let object = |kind: &str| -> Value {
            let text = cluster.kubectl(&["get", kind, "aralez", "--namespace", "aralez", "-o", "json"], None).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let (config, deployment) = (object("configmap"), object("deployment"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        fs::create_dir(folder.path().join("certificates")).unwrap();
        for (name, text) in config["data"].as_object().unwrap() {
            fs::write(folder.path().join(name), text.as_str().unwrap().replace("/certificates", &format!("{path}/certificates"))).unwrap();
        }
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let ports = ["http", "https", "admin"].map(|name| {
            let port = container["ports"].as_array().unwrap().iter().find(|port| port["name"] == name).unwrap();
            u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap()
        });
        let mut command = pod_command(cluster, folder.path());
        command.args(container["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap().replace("/etc/aralez", &path)));
        let Output { status, stdout, stderr } =
            pod_command(cluster, folder.path()).arg("check").arg(folder.path().join("main.yaml")).output().unwrap();
        assert!(status.success() && stdout.is_empty() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
        Self::run(command, ports, folder)
    }

    fn run(command: Command, ports: [u16; 3], folder: TempDir) -> Self {
        let process = Process::start("aralez", command, Duration::ZERO).unwrap();
        let [http, tls, admin] = ports.map(Address::port);
        Self { http, tls, admin, folder, _process: process }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        let ready = eventually("readiness", LIMIT, async || {
            let answer = self.admin("/ready").await?;
            ensure!(answer.status == 200, "{} {}", answer.text(), self.admin("/watches").await?.text());
            Ok(())
        });
        ready.await.unwrap();
    }

    /// `GET` on the admin API.
    pub async fn admin(&self, path: &str) -> Result<clients::Response> {
        clients::get(&self.admin, path).await
    }

    /// Waits until what the admin API answers has these words.
    pub async fn says(&self, path: &str, words: &[&str]) {
        let what = format!("{words:?} at {path}");
        let said = eventually(&what, LIMIT, async || {
            // JSON has its quotes escaped.
            let text = self.admin(path).await?.text().replace("\\\"", "\"");
            ensure!(words.iter().all(|word| text.contains(word)), "{text}");
            Ok(())
        });
        said.await.unwrap();
    }

    /// A path of a host.
    pub async fn get(&self, host: &str, path: &str) -> Result<clients::Response> {
        clients::once(&self.http, Request::get(path).header("host", host).body(Bytes::new())?).await
    }

    /// Whether this app answers a path of a host.
    pub async fn answers(&self, host: &str, path: &str, app: &str) -> Result<()> {
        let answer = self.get(host, path).await?;
        ensure!(answer.status == 200 && answer.headers["x-app"] == app, "{host}{path}: {} {:?}", answer.status, answer.headers);
        Ok(())
    }

    /// Waits until this app answers a path of a host.
    pub async fn served(&self, host: &str, path: &str, app: &str, limit: Duration) {
        eventually(&format!("{host}{path} of {app}"), limit, async || self.answers(host, path, app).await).await.unwrap();
    }

    /// Waits until a host is shown this certificate.
    pub async fn shows(&self, host: &str, pair: &Pair) {
        let shown = eventually("the certificate", LIMIT, async || {
            let shown = web_pki::shown(&self.tls, host).await?.to_pem()?;
            ensure!(pair.crt.starts_with(std::str::from_utf8(&shown)?), "another certificate");
            Ok(())
        });
        shown.await.unwrap();
    }

    /// `aralez check -cluster` of its files: what it prints, and whether all is well.
    pub fn check(&self) -> (bool, String) {
        let mut command = Command::new(components::aralez().unwrap());
        let Output { status, stdout, stderr } =
            command.args(["check", "-cluster", "-c"]).arg(self.folder.path().join("main.yaml")).output().unwrap();
        (status.success(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    }
}

fn pod_command(cluster: &Cluster, home: &Path) -> Command {
    let mut command = Command::new(components::aralez().unwrap());
    command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", cluster.port.to_string());
    command.env("HOME", home).env_remove("KUBECONFIG");
    command
}

/// Puts the service account `namespace/name` where a pod finds it, or a new token of it, as kubelet does: by the swap of a link. The first time it takes
/// the place of `/var/run`, which in here is nobody else's.
pub fn mount_account(cluster: &Cluster, account: &str, version: u32) {
    let folder = Path::new(ACCOUNT);
    if version == 1 {
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/var/run"]).status().expect("mount, of util-linux");
        assert!(status.success(), "{status}");
        fs::create_dir_all(folder).unwrap();
        for name in ["token", "ca.crt", "namespace"] {
            symlink(format!("..data/{name}"), folder.join(name)).unwrap();
        }
    }
    let (namespace, _) = account.split_once('/').unwrap();
    let data = format!("..{version}");
    fs::create_dir(folder.join(&data)).unwrap();
    fs::write(folder.join(&data).join("token"), cluster.token(account)).unwrap();
    fs::copy(cluster.ca(), folder.join(&data).join("ca.crt")).unwrap();
    fs::write(folder.join(&data).join("namespace"), namespace).unwrap();
    symlink(&data, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}
