//! Reload: whatever way the files change, requests go by the old routes or the new ones, whole, and what is open goes on.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aralez_integration::{
    apps::{self, App},
    clients::{self, GrpcCall, HttpClient},
    load::Load,
    net::{Address, Stream},
    process::Signal,
    wait::eventually,
};
use futures_util::{SinkExt, StreamExt};
use http::Method;
use openssl::{ssl::SslConnector, ssl::SslMethod, x509::X509};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_openssl::SslStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{Edge, Setup, push, request};
use aralez_integration::web_pki::WebCa;

/// The bar of the contract.
const RELOADS: u64 = 200;
/// See [`RELOADS`].
const REQUESTS: u64 = 50_000;
/// By when a change must be in force, on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(10);
/// Beyond this the test gives up, whatever it has counted.
const LONGEST: Duration = Duration::from_secs(240);

/// Routes of which one says its number, while those of `localhost` never change; servers come and go.
fn routes(apps: &[App; 2], version: u64) -> String {
    let [app, more] = apps.each_ref().map(|app| app.address.to_string());
    let servers = if version.is_multiple_of(2) { format!("\"http://{app}\", \"http://{more}\"") } else { format!("\"http://{app}\"") };
    let filling: String =
        (0..50).map(|n| format!("  f{n}.test: {{paths: {{/: {{servers: [\"http://{app}\"], healthcheck: false}}}}}}\n")).collect();
    format!(
        "provider: file\nupstreams:\n  localhost:\n    paths:\n      /grpc: {{servers: [\"h2c://{app}\"], healthcheck: false}}\n      \
         /: {{servers: [\"http://{app}\"], healthcheck: false}}\n{filling}  load.test:\n    paths:\n      \
         /: {{servers: [{servers}], healthcheck: false, headers: [\"X-Version: {version}\"]}}\n"
    )
}

fn rename(path: &Path, text: &str) {
    fs::write(path.with_extension("new"), text).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

/// As Kubernetes swaps the files of a ConfigMap.
fn swap(path: &Path, text: &str, version: u64) {
    let folder = path.parent().unwrap();
    let name = format!("..{version}");
    fs::create_dir(folder.join(&name)).unwrap();
    fs::write(folder.join(&name).join("upstreams.yaml"), text).unwrap();
    symlink(&name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    symlink("..data/upstreams.yaml", folder.join("link")).unwrap();
    fs::rename(folder.join("link"), path).unwrap();
}

/// In two steps, as a slow editor writes.
fn in_place(path: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let (one, other) = text.split_at(text.len() / 2);
    file.write_all(one.as_bytes()).unwrap();
    file.write_all(other.as_bytes()).unwrap();
}

/// The version that a request of the load is served by; at once for a push.
async fn version(edge: &Edge) -> anyhow::Result<u64> {
    let answer = edge.get("load.test", "/").await;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(answer.headers.get("x-version").context("no version")?.to_str()?.parse()?)
}

async fn becomes(edge: &Edge, wanted: u64) {
    let seen = eventually("the new version", IN_FORCE, async || {
        let seen = version(edge).await?;
        ensure!(seen == wanted, "{seen} instead of {wanted}");
        Ok(())
    });
    seen.await.unwrap();
}

/// What is open all the while, on routes that do not change.
struct Open {
    websocket: WebSocketStream<Stream>,
    call: GrpcCall,
    download: Stream,
}

impl Open {
    async fn start(http: &Address) -> Self {
        let mut download = http.connect().await.unwrap();
        download.write_all(b"POST /download HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        Self { websocket: clients::websocket(http, "/ws").await.unwrap(), call: GrpcCall::open(http, "/grpc/x").await.unwrap(), download }
    }

    /// A piece goes through each.
    async fn use_all(&mut self, n: u64) {
        let piece = format!("piece-{n:06}-");
        self.websocket.send(Message::text(piece.clone())).await.unwrap();
        let back = timeout(IN_FORCE, self.websocket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(back.into_text().unwrap().as_str(), piece);
        self.call.send(piece.as_bytes()).await.unwrap();
        assert_eq!(self.call.receive().await.unwrap().unwrap(), piece.as_bytes());
        self.download.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(&piece) {
            let mut some = [0; 4096];
            let count = timeout(IN_FORCE, self.download.read(&mut some)).await.unwrap().unwrap();
            assert!(count > 0, "the download ended after {}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&some[..count]);
        }
    }

    /// All end as they should.
    async fn finish(mut self) {
        self.websocket.close(None).await.unwrap();
        let (rest, trailers) = self.call.finish().await.unwrap();
        assert!(rest.is_empty());
        assert_eq!(trailers["grpc-status"], "0");
        self.download.write_all(b"0\r\n\r\n").await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"0\r\n\r\n") {
            assert!(timeout(IN_FORCE, self.download.read_buf(&mut read)).await.unwrap().unwrap() > 0);
        }
    }
}

/// A fresh connection over TLS that trusts the authority, and one request on it; gives the serial of the certificate that was shown.
async fn handshake(tls: &Address, connector: &SslConnector) -> anyhow::Result<String> {
    let ssl = connector.configure()?.into_ssl("edge.test")?;
    let mut stream = SslStream::new(ssl, tls.connect().await?)?;
    Pin::new(&mut stream).connect().await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: load.test\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let shown = stream.ssl().peer_certificate().context("no certificate")?;
    Ok(shown.serial_number().to_bn()?.to_hex_str()?.to_string())
}

/// Makes handshakes until told to stop; gives how many, and how many certificates were seen.
async fn handshakes(tls: Address, connector: SslConnector, stop: Arc<AtomicBool>) -> (u64, usize) {
    let (mut count, mut seen) = (0, std::collections::HashSet::new());
    while !stop.load(Ordering::Relaxed) {
        seen.insert(handshake(&tls, &connector).await.unwrap());
        count += 1;
    }
    (count, seen.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_reloads_under_load_fail_no_request_and_end_nothing() {
    let apps = [apps::http_echo("app").await.unwrap(), apps::http_echo("more").await.unwrap()];
    let ca = WebCa::new();
    let first = ca.issue(&["edge.test"]);
    let setup = Setup::new(&routes(&apps, 0)).tls().file("certs/edge.crt", &first.crt).file("certs/edge.key", &first.key);
    let edge = setup.replace_main("log_level: debug", "log_level: info").start().await;
    becomes(&edge, 0).await;

    let mut open = Open::start(&edge.http).await;
    let address = edge.http.clone();
    let load = Load::start(3, move |known: Option<(HttpClient, u64)>| {
        let address = address.clone();
        async move {
            let (mut client, last) = match known {
                Some(known) => known,
                None => (HttpClient::http1(&address).await?, 0),
            };
            let answer = client.send(request(Method::GET, "load.test", "/", &[])).await?;
            ensure!(answer.status == 200, "{}", answer.status);
            let version = answer.headers.get("x-version").context("no version")?.to_str()?.parse()?;
            ensure!(version >= last, "version {version} after {last}");
            Ok((client, version))
        }
    });
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.cert_store_mut().add_cert(X509::from_pem(ca.root_pem().as_bytes()).unwrap()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let shaking = tokio::spawn(handshakes(edge.tls.clone(), connector.build(), stop.clone()));

    let (begun, file) = (Instant::now(), edge.path("upstreams.yaml"));
    let (mut reloads, mut slowest, mut pairs) = (0, Duration::ZERO, 0);
    while reloads < RELOADS || load.done() < REQUESTS {
        assert!(begun.elapsed() < LONGEST, "{reloads} reloads, {} requests", load.done());
        reloads += 1;
        let (text, changed) = (routes(&apps, reloads), Instant::now());
        match reloads % 4 {
            0 => in_place(&file, &text),
            1 => rename(&file, &text),
            2 => swap(&file, &text, reloads),
            _ => {
                let answer = push(&edge, "", &text).await;
                assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "Config, conf file, updated !\n"));
                assert_eq!(version(&edge).await.unwrap(), reloads, "answered before it was in force");
            }
        }
        becomes(&edge, reloads).await;
        slowest = slowest.max(changed.elapsed());
        open.use_all(reloads).await;
        if reloads.is_multiple_of(10) {
            let pair = ca.issue(&["edge.test"]);
            in_place(&edge.path("certs/edge.crt"), &pair.crt);
            in_place(&edge.path("certs/edge.key"), &pair.key);
            pairs += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (shaken, seen) = shaking.await.unwrap();
    let report = load.stop().await.unwrap();
    println!(
        "{reloads} reloads in {:?}: {} requests, {} failed; slowest {slowest:?}; {shaken} handshakes by {seen} of {} pairs",
        begun.elapsed(),
        report.ok,
        report.failed,
        pairs + 1
    );
    report.flawless(REQUESTS).unwrap();
    assert!(seen > pairs / 2, "certificates were swapped");
    open.finish().await;
}

/// Where the routes say `X-Version: <version>`.
fn versioned(app: &App, version: u64) -> String {
    format!(
        "provider: file\nupstreams:\n  load.test:\n    paths:\n      /: {{servers: [\"http://{}\"], healthcheck: false, headers: [\"X-Version: {version}\"]}}\n",
        app.address
    )
}

/// A way to break the routes' files, and what is said of it.
struct Fault {
    name: &'static str,
    make: fn(&Path, &str),
    said: &'static str,
}

const FAULTS: [Fault; 11] = [
    Fault { name: "bad YAML", make: |file, _| fs::write(file, "upstreams: [}").unwrap(), said: "upstreams.yaml:1:" },
    Fault {
        name: "unknown key",
        make: |file, text| fs::write(file, text.replace("servers", "serverz")).unwrap(),
        said: "upstreams.yaml:5:",
    },
    Fault {
        name: "a host twice",
        make: |file, text| fs::write(file, format!("{text}  LOAD.test: {{paths: {{/: {{servers: []}}}}}}\n")).unwrap(),
        said: "upstreams.yaml:6:",
    },
    Fault { name: "half a file", make: |file, text| fs::write(file, &text[..text.len() - 20]).unwrap(), said: "upstreams.yaml:" },
    Fault { name: "an empty file", make: |file, _| fs::write(file, "").unwrap(), said: "empty" },
    Fault { name: "10 MB", make: |file, text| fs::write(file, format!("{text}# {}", "x".repeat(10 << 20))).unwrap(), said: "larger than" },
    Fault {
        name: "aliases that multiply",
        make: |file, _| {
            let bomb: String = (1..12).map(|n| format!("l{n}: &l{n} [{}]\n", vec![format!("*l{}", n - 1); 9].join(", "))).collect();
            fs::write(file, format!("l0: &l0 [x]\n{bomb}")).unwrap();
        },
        said: "upstreams.yaml:",
    },
    Fault { name: "no UTF-8", make: |file, _| fs::write(file, b"provider: \xff\xfe").unwrap(), said: "UTF-8" },
    Fault { name: "no file", make: |file, _| fs::remove_file(file).unwrap(), said: "cannot be read" },
    Fault {
        name: "a link to nowhere",
        make: |file, _| {
            fs::remove_file(file).unwrap();
            symlink("nowhere", file).unwrap();
        },
        said: "cannot be read",
    },
    Fault {
        name: "a bad file in conf.d",
        make: |file, text| {
            fs::create_dir_all(file.with_file_name("conf.d")).unwrap();
            fs::write(file.with_file_name("conf.d").join("a.yaml"), "a.test: {pathz: {}}").unwrap();
            fs::write(file, text.replace("healthcheck: false", "healthcheck: false, rate_limit: 1000000")).unwrap();
        },
        said: "a.yaml:1:",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_changes_nothing_and_is_told_until_it_is_mended() {
    let app = apps::http_echo("app").await.unwrap();
    let edge = Edge::start(&versioned(&app, 0)).await;
    let address = edge.http.clone();
    let load = Load::start(1, move |client: Option<HttpClient>| {
        let address = address.clone();
        async move {
            let mut client = match client {
                Some(client) => client,
                None => HttpClient::http1(&address).await?,
            };
            let answer = client.send(request(Method::GET, "load.test", "/", &[])).await?;
            ensure!(answer.status == 200 && answer.headers.contains_key("x-version"), "{} {:?}", answer.status, answer.headers);
            Ok(client)
        }
    });
    let file = edge.path("upstreams.yaml");
    let mends: [fn(&Path, &str, u64); 4] = [
        |file, text, _| fs::write(file, text).unwrap(),
        |file, text, _| rename(file, text),
        swap,
        |file, text, _| {
            fs::remove_file(file).unwrap();
            fs::write(file, text).unwrap();
        },
    ];
    for (at, Fault { name, make, said }) in FAULTS.iter().enumerate() {
        let good = at as u64;
        make(&file, &versioned(&app, good + 1000));
        let told = eventually(name, IN_FORCE, async || {
            let status: serde_json::Value = serde_json::from_str(&clients::get(&edge.api, "/status").await?.text())?;
            let problems = status["config"]["problems"].to_string();
            ensure!(problems.contains(said), "{problems}");
            Ok(())
        });
        told.await.unwrap();
        let metrics = clients::get(&edge.api, "/metrics").await.unwrap().text();
        assert!(metrics.contains("aralez_config_last_reload_successful 0"), "{name}: {metrics}");
        assert_eq!(version(&edge).await.unwrap(), good, "{name}");
        if at == FAULTS.len() - 1 {
            fs::remove_file(edge.path("conf.d/a.yaml")).unwrap();
        }
        // The next one's ground; a link of before goes with it.
        mends[at % mends.len()](&file, &versioned(&app, good + 1), good);
        becomes(&edge, good + 1).await;
        let status = clients::get(&edge.api, "/status").await.unwrap().text();
        assert!(status.contains("\"problems\":[]"), "{name}: {status}");
    }
    let metrics = clients::get(&edge.api, "/metrics").await.unwrap().text();
    assert!(metrics.contains("aralez_config_last_reload_successful 1"), "{metrics}");
    load.stop().await.unwrap().flawless(100).unwrap();
    println!("{} faults, each refused and mended", FAULTS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_tells_what_only_a_restart_would_take() {
    let app = apps::http_echo("app").await.unwrap();
    let mut edge = Edge::start(&versioned(&app, 1)).await;
    let main = fs::read_to_string(edge.path("main.yaml")).unwrap();
    for (text, told) in [("grace_period: 7s\n", "grace_period"), ("nope: 1\n", "unknown key \"nope\"")] {
        fs::write(edge.path("main.yaml"), format!("{main}{text}")).unwrap();
        edge.aralez.signal(Signal::HUP);
        edge.aralez.logged(told, IN_FORCE).await;
    }
    edge.aralez.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_the_files_for_a_push_and_a_late_folder_is_found() {
    let app = apps::http_echo("app").await.unwrap();
    let mut edge = Edge::start(&versioned(&app, 1)).await;
    assert_eq!(push(&edge, "", &versioned(&app, 2)).await.status, 200);
    assert_eq!(version(&edge).await.unwrap(), 2);
    edge.aralez.signal(Signal::HUP);
    becomes(&edge, 1).await;
    fs::create_dir(edge.path("conf.d")).unwrap();
    let text = versioned(&app, 3);
    fs::write(edge.path("conf.d/late.yaml"), text.split_once("upstreams:\n").unwrap().1.replace("\n  ", "\n").trim_start()).unwrap();
    becomes(&edge, 3).await;
    fs::remove_dir_all(edge.path("conf.d")).unwrap();
    becomes(&edge, 1).await;
}
