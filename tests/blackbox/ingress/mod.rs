//! The reverse proxy, `aralez -c main.yaml`, as its users meet it.

mod acme;
mod api;
mod api_tls;
mod auth;
mod balance;
mod check;
mod detect;
mod disk;
mod examples;
mod filters;
mod health;
mod identity;
mod kubernetes;
mod limits;
mod mesh;
mod ocsp;
mod reload;
mod routing;
mod servers;
mod size;
mod sticky;
mod streams;
mod tls;
mod weaknesses;

use std::{fmt::Write as _, fs, path::PathBuf};

use aralez_integration::{
    clients::{self, Response},
    net::Address,
    ports::free_port,
};
use bytes::Bytes;
use http::{Method, Request};
use tempfile::TempDir;

use crate::support::sidecar::{Aralez, Launch, aralez};

/// The master key of all tests.
pub const MASTER_KEY: &str = "5aeff7f9-7b94-447c-af60-e8c488544a3e";

/// How to start a reverse proxy: its files in a folder of its own.
pub struct Setup {
    folder: TempDir,
    main: String,
    http: u16,
    tls: u16,
    api: u16,
}

impl Setup {
    /// With this `upstreams.yaml`, an http listener and the configuration API.
    pub fn new(upstreams: &str) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("upstreams.yaml"), upstreams).unwrap();
        let [http, tls, api] = [(); 3].map(|()| free_port().unwrap());
        let main = format!(
            "proxy_address_http: 127.0.0.1:{http}\nconfig_address: 127.0.0.1:{api}\nconfig_api_enabled: true\nmaster_key: {MASTER_KEY}\n\
             upstreams_conf: upstreams.yaml\nlog_level: debug\nthreads: 2\n"
        );
        Setup { folder, main, http, tls, api }
    }

    /// Where its plain and its TLS listener will be.
    pub fn addresses(&self) -> (Address, Address) {
        (Address::port(self.http), Address::port(self.tls))
    }

    /// Where its configuration API will be.
    pub fn api(&self) -> Address {
        Address::port(self.api)
    }

    /// What it says of files that it refuses: `path:line:column: what`, a line each.
    pub fn refused(self) -> String {
        let main = self.folder.path().join("main.yaml");
        fs::write(&main, &self.main).unwrap();
        let output = aralez().arg("-c").arg(&main).args(["-admin-bind", "off"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Adds lines to `main.yaml`.
    pub fn main(mut self, lines: &str) -> Setup {
        writeln!(self.main, "{}", lines.trim_end()).unwrap();
        self
    }

    /// Writes another thing into `main.yaml` in the place of what it has.
    pub fn replace_main(mut self, from: &str, to: &str) -> Setup {
        assert!(self.main.contains(from), "{from} is not in\n{}", self.main);
        self.main = self.main.replace(from, to);
        self
    }

    /// Adds a TLS listener whose certificates are in the folder `certs`; see [`Setup::file`].
    pub fn tls(self) -> Setup {
        let lines = format!("proxy_address_tls: 127.0.0.1:{}\nproxy_certificates: certs", self.tls);
        self.main(&lines)
    }

    /// Writes a file below the folder; folders are made.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Setup {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Edge {
        let mut edge = self.spawn();
        edge.aralez.ready().await;
        edge
    }

    /// Starts it with its folder on a disk of so many KiB, and waits until it is ready; see [`Edge::disk`].
    pub async fn start_on_disk(self, kib: u32) -> Edge {
        let folder = self.folder.path().to_owned();
        let mut edge = self.launch(|launch| launch.on_disk(&folder, kib));
        edge.aralez.ready().await;
        edge
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Edge {
        self.launch(|launch| launch)
    }

    fn launch(self, how: impl FnOnce(Launch) -> Launch) -> Edge {
        let main = self.folder.path().join("main.yaml");
        fs::write(&main, &self.main).unwrap();
        let [http, tls, api] = [self.http, self.tls, self.api].map(Address::port);
        Edge { aralez: how(Launch::serve(&main)).spawn(), http, tls, api, folder: self.folder }
    }
}

/// A running reverse proxy.
pub struct Edge {
    /// The process, with its admin API.
    pub aralez: Aralez,
    /// Its plain listener.
    pub http: Address,
    /// Its TLS listener, if it has one.
    pub tls: Address,
    /// Its configuration API.
    pub api: Address,
    folder: TempDir,
}

impl Edge {
    /// With this `upstreams.yaml`, ready.
    pub async fn start(upstreams: &str) -> Edge {
        Setup::new(upstreams).start().await
    }

    /// A path below its folder: `upstreams.yaml`, `main.yaml`, …
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its folder, of [`Setup::start_on_disk`].
    pub fn disk(&self) -> PathBuf {
        let process = PathBuf::from(format!("/proc/{}/root", self.aralez.id()));
        process.join(self.folder.path().strip_prefix("/").unwrap())
    }

    /// `GET` of a path of a host on the plain listener, on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> Response {
        self.send(request(Method::GET, host, path, &[])).await
    }

    /// A request on the plain listener, on a connection of its own.
    pub async fn send(&self, request: Request<Bytes>) -> Response {
        clients::once(&self.http, request).await.unwrap()
    }
}

/// A request without a body.
pub fn request(method: Method, host: &str, path: &str, fields: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Bytes::new()).unwrap()
}

/// Pushes an `upstreams.yaml`; `query` is empty, or begins with `?`.
pub async fn push(edge: &Edge, query: &str, text: &str) -> Response {
    let (head, _) = request(Method::POST, "127.0.0.1", &format!("/conf{query}"), &[("x-api-key", MASTER_KEY)]).into_parts();
    clients::once(&edge.api, Request::from_parts(head, Bytes::from(text.to_owned()))).await.unwrap()
}
