//! The usual scene: `web` calls `db`, each behind a sidecar.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aralez_integration::clients::{self, HttpClient};
use aralez_integration::consul::Agent;
use aralez_integration::net::{Address, Stream};
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How soon a change told to the agent must show in the traffic.
pub const SOON: Duration = Duration::from_secs(2);
/// For things that must happen, at no stated pace.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `prefix` made unique among the tests that share an agent.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Two services and their sidecars; `web` has the one upstream `db`.
#[derive(Debug)]
pub struct Pair {
    pub web: Service,
    pub db: Service,
    /// Where `web`'s app finds `db`.
    pub upstream: Address,
    pub web_sidecar: Sidecar,
    pub db_sidecar: Sidecar,
}

impl Pair {
    /// Registers both with `protocol` everywhere and starts both sidecars. The caller's sidecar starts when `db` is healthy: its
    /// first snapshot must be complete, so the first request must work.
    pub async fn start(agent: &Agent, protocol: &str, app: &Address) -> Self {
        let db = Service::new(unique("db"), app).unwrap().protocol(protocol);
        let upstream = Upstream::new(&db.name).unwrap().protocol(protocol);
        let web = caller(upstream).protocol(protocol);
        Self::launch(agent, web, db).await
    }

    /// The same with registrations of the caller's making; `web.upstreams[0]` is `db`.
    pub async fn launch(agent: &Agent, web: Service, db: Service) -> Self {
        agent.register(&db).await.unwrap();
        agent.register(&web).await.unwrap();
        let db_sidecar = Sidecar::start(agent, &db).await.unwrap();
        agent.healthy(&db.name, 1).await.unwrap();
        let web_sidecar = Sidecar::start(agent, &web).await.unwrap();
        Self { upstream: web.upstreams[0].address(), web, db, web_sidecar, db_sidecar }
    }
}

/// A service `web` that only calls. Nobody calls its app, so none listens there.
pub fn caller(upstream: Upstream) -> Service {
    let nobody = Address::port(aralez_integration::ports::free_port().unwrap());
    Service::new(unique("web"), &nobody).unwrap().upstream(upstream)
}

/// `name` under `folder` as a path.
pub fn socket(folder: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    Path::new(folder.path()).join(name)
}

/// Sends `text` on an echo connection and wants it back.
pub async fn echoes(stream: &mut Stream, text: &[u8]) -> Result<()> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.context("no echo in time")??;
    ensure!(back == text, "sent {text:?}, got {back:?}");
    Ok(())
}

/// One echo over a TCP connection of its own.
pub async fn tcp_works(address: &Address) -> Result<()> {
    echoes(&mut address.connect().await?, b"hello").await
}

/// Sends `bytes` and returns what came until the other side closed or reset.
pub async fn until_closed(address: &Address, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = address.connect().await?;
    let mut received = Vec::new();
    // A reset may already show in the write.
    if stream.write_all(bytes).await.is_ok() {
        let reading = async { while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {} };
        timeout(Duration::from_secs(10), reading).await.context("the connection stayed open")?;
    }
    Ok(received)
}

/// A tcp upstream that accepts and closes without a byte.
pub async fn tcp_refused(address: &Address) -> Result<()> {
    let received = until_closed(address, b"hello").await?;
    ensure!(received.is_empty(), "received {:?}", String::from_utf8_lossy(&received));
    Ok(())
}

/// `GET /` answers `status`, on a connection of its own.
pub async fn http_answers(address: &Address, status: u16) -> Result<()> {
    let answer = clients::get(address, "/").await?;
    ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
    Ok(())
}

/// ECHO-OK: `POST hello` answers 2xx with `hello`.
pub async fn echo_ok(address: &Address) -> Result<()> {
    let answer = clients::post(address, "/", "hello").await?;
    ensure!(answer.status.is_success() && answer.text().contains("hello"), "{}: {}", answer.status, answer.text());
    Ok(())
}

/// The rows of a table that did not hold, all of them in one error.
pub fn all_hold(rows: Vec<(String, Result<()>)>) -> Result<()> {
    let count = rows.len();
    let failed: Vec<_> = rows.into_iter().filter_map(|(row, outcome)| Some(format!("{row}: {:#}", outcome.err()?))).collect();
    ensure!(failed.is_empty(), "{} of {count} rows failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// Name of the app that wrote this `env=dump`.
pub fn app_in(dump: &str) -> Result<&str> {
    dump.lines().find_map(|line| line.strip_prefix("FORTIO_NAME=")).with_context(|| format!("not a dump: {dump}"))
}

/// One turn of a load on a kept-alive HTTP/1.1 connection: `GET /` answers 200.
pub async fn kept_alive_get(client: Option<HttpClient>, address: &Address) -> Result<HttpClient> {
    let mut client = match client.filter(HttpClient::is_open) {
        Some(client) => client,
        None => HttpClient::http1(address).await?,
    };
    let answer = client.get("/").await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(client)
}
