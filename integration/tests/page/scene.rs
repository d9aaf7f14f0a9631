//! Something to see: a mesh with an intention that denies, and a reverse proxy with a server that is down, both under traffic.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::apps::{App, http_echo};
use aralez_integration::clients;
use aralez_integration::components;
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::Request;
use tempfile::TempDir;

/// Between two requests of one worker.
const PACE: Duration = Duration::from_millis(20);
/// From the start of the process to its being ready.
const START: Duration = Duration::from_secs(60);

/// A process with traffic.
pub struct Scene {
    /// The port of its admin API.
    pub admin: u16,
    _process: Process,
    loads: Vec<Load>,
    _apps: Vec<App>,
    _folder: TempDir,
}

impl Scene {
    /// `aralez dev`: `web` calls `api`, which `batch` may not call.
    pub async fn mesh() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let [web, batch, orders] = [free_port()?, free_port()?, free_port()?];
        let mesh = format!(
            "services:\n\
             - {{name: web, protocol: http, demo_port: 0, upstreams: [{{destination: api, local_bind_port: {web}}}, {{destination: orders, local_bind_port: {orders}}}]}}\n\
             - {{name: api, protocol: http, demo_port: 0}}\n\
             - {{name: orders, protocol: http, demo_port: 0}}\n\
             - {{name: batch, protocol: http, demo_port: 0, upstreams: [{{destination: api, local_bind_port: {batch}}}]}}\n\
             intentions:\n\
             - {{source: web, destination: api, action: allow}}\n\
             - {{source: batch, destination: api, action: deny}}\n\
             - {{source: web, destination: orders, action: allow}}\n"
        );
        let file = folder.path().join("mesh.yaml");
        fs::write(&file, mesh)?;
        let scene = Self::start(Command::new(components::aralez()?).arg("dev").arg(&file), folder, Vec::new()).await?;
        let asked = [(web, "/v1/items", 200), (orders, "/orders/12", 200), (web, "/v1/items?page=2", 200)];
        let refused = [(batch, "/v1/export?month=11", 403)];
        Ok(scene
            .under(asked.map(|(port, path, status)| (port, "api.mesh", path, status)), PACE)
            .under(refused.map(|(port, path, status)| (port, "api.mesh", path, status)), PACE * 60))
    }

    /// `aralez -c main.yaml`: a shop with a server that is down, a key, and a limit.
    pub async fn edge() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let apps = [http_echo("one").await?, http_echo("two").await?, http_echo("three").await?];
        let [http, down] = [free_port()?, free_port()?];
        let servers = |list: &[&App]| list.iter().map(|app| format!("\"http://{}\"", app.address)).collect::<Vec<_>>().join(", ");
        let check = "healthcheck: {path: /, interval: 1s}";
        let routes = format!(
            "provider: file\nupstreams:\n  shop.example:\n    paths:\n      \
             /: {{servers: [{0}], {check}, compression: true}}\n      \
             /api: {{servers: [{0}, \"http://127.0.0.1:{down}\"], {check}, rate_limit: {{rate: 500}}}}\n      \
             /admin: {{servers: [{1}], {check}, authorization: {{type: apikey, creds: never-shown}}}}\n  \
             www.shop.example:\n    paths:\n      /: {{redirect_to: \"https://shop.example\"}}\n",
            servers(&[&apps[0], &apps[1]]),
            servers(&[&apps[2]]),
        );
        fs::write(folder.path().join("upstreams.yaml"), routes)?;
        let file = folder.path().join("main.yaml");
        fs::write(&file, format!("proxy_address_http: 127.0.0.1:{http}\nupstreams_conf: upstreams.yaml\nthreads: 1\n"))?;
        let scene = Self::start(Command::new(components::aralez()?).arg("-c").arg(&file), folder, apps.into()).await?;
        let served =
            [(http, "shop.example", "/", 200), (http, "shop.example", "/api/items?q=1", 200), (http, "shop.example", "/api/cart", 200)];
        let refused = [(http, "shop.example", "/admin/users?key=guess", 401), (http, "other.example", "/wp-login.php", 404)];
        Ok(scene.under(served, PACE).under(refused, PACE * 60))
    }

    async fn start(command: &mut Command, folder: TempDir, apps: Vec<App>) -> Result<Self> {
        let admin = free_port()?;
        let mut whole = Command::new(command.get_program());
        whole.args(command.get_args()).args(["-admin-bind", &format!("127.0.0.1:{admin}")]);
        let process = Process::start("aralez", whole, Duration::ZERO)?;
        let ready = eventually("readiness", START, async || {
            let answer = clients::get(&Address::port(admin), "/ready").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(())
        });
        ready.await?;
        Ok(Self { admin, _process: process, loads: Vec::new(), _apps: apps, _folder: folder })
    }

    /// With requests, each of which is asked again and again and must have its status.
    fn under<const N: usize>(mut self, asked: [(u16, &'static str, &'static str, u16); N], pause: Duration) -> Self {
        self.loads.push(Load::start(1, move |at: Option<usize>| async move {
            let next = at.unwrap_or_default();
            let (port, host, path, status) = asked[next % N];
            tokio::time::sleep(pause).await;
            let request = Request::get(format!("http://{host}{path}")).header("host", host).body(Bytes::new())?;
            let answer = clients::once(&Address::port(port), request).await?;
            ensure!(answer.status == status, "{path}: {}", answer.status);
            Ok(next + 1)
        }));
        self
    }

    /// Ends the traffic, none of which may have gone wrong, and the process.
    pub async fn stop(self) -> Result<()> {
        for load in self.loads {
            load.stop().await?.flawless(1)?;
        }
        Ok(())
    }
}
