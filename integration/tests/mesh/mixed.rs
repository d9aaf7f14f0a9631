//! Envoy at one end, Aralez at the other, in both directions. Intentions are in force, and they decide on paths wherever there are any.

use anyhow::{Context, Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::clients::{self, GrpcCall, HttpClient};
use aralez_integration::consul::Agent;
use aralez_integration::envoy::Envoy;
use aralez_integration::net::Address;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::sidecar::Sidecar;
use aralez_integration::wait::eventually;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::interop;
use crate::scene::{PATIENCE, caller, echoes, tcp_refused, tcp_works, unique};

/// More than all buffers and windows on the way hold together.
const LARGE: usize = 20 * 1024 * 1024;

/// Who stands before a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Aralez,
    Envoy,
}

/// A running sidecar of either kind, held for its life.
#[derive(Debug)]
pub enum Running {
    Aralez { _sidecar: Sidecar },
    Envoy { _sidecar: Envoy },
}

impl Kind {
    /// Starts the sidecar of a registered service.
    pub async fn start(self, agent: &Agent, service: &Service) -> Running {
        match self {
            Self::Aralez => Running::Aralez { _sidecar: Sidecar::start(agent, service).await.unwrap() },
            Self::Envoy => Running::Envoy { _sidecar: Envoy::start(agent, service).await.unwrap() },
        }
    }
}

/// Who stands before the caller, and before the called.
#[derive(Clone, Copy, Debug)]
struct Ends {
    from: Kind,
    to: Kind,
}

/// `web` calls `db`.
struct Mixed {
    web: Service,
    db: Service,
    upstream: Address,
    _running: [Running; 2],
}

impl Mixed {
    /// `web` behind a sidecar of the kind `from`, `db` behind one of the kind `to`. The protocol is in central configuration too:
    /// Consul takes no permissions for a service that it believes to be tcp.
    async fn start(agent: &Agent, ends: Ends, protocol: &str, app: &Address) -> Self {
        let db = Service::new(unique("db"), app).unwrap().protocol(protocol);
        let web = caller(Upstream::new(&db.name).unwrap().protocol(protocol)).protocol(protocol);
        agent.config_entry(json!({"Kind": "service-defaults", "Name": db.name, "Protocol": protocol})).await.unwrap();
        agent.register(&db).await.unwrap();
        agent.register(&web).await.unwrap();
        let callee = ends.to.start(agent, &db).await;
        agent.healthy(&db.name, 1).await.unwrap();
        let caller = ends.from.start(agent, &web).await;
        Self { upstream: web.upstreams[0].address(), web, db, _running: [caller, callee] }
    }

    /// From now on `web` may call `/open…`, `/guarded` with the right header, and the gRPC services of the tests; nothing else.
    async fn guard(&self, agent: &Agent) {
        guard(agent, &self.web.name, &self.db.name).await;
    }
}

async fn guard(agent: &Agent, source: &str, destination: &str) {
    let permissions = json!([
        {"Action": "allow", "HTTP": {"PathPrefix": "/open"}},
        {"Action": "allow", "HTTP": {"PathExact": "/guarded", "Header": [{"Name": "x-pass", "Exact": "yes"}]}},
        {"Action": "allow", "HTTP": {"PathRegex": "/(echo[.]Echo|grpc[.]testing[.]TestService)/[A-Za-z]+", "Methods": ["POST"]}},
        {"Action": "deny", "HTTP": {"PathPrefix": "/"}},
    ]);
    let sources = json!([{"Name": source, "Permissions": permissions}]);
    agent.config_entry(json!({"Kind": "service-intentions", "Name": destination, "Sources": sources})).await.unwrap();
}

/// `GET path` (with `x-pass` if given) on this connection; the status.
async fn status(client: &mut HttpClient, path: &str, pass: Option<&str>) -> Result<u16> {
    let mut request = clients::request(http::Method::GET, path, "")?;
    if let Some(pass) = pass {
        request.headers_mut().insert("x-pass", pass.parse()?);
    }
    Ok(client.send(request).await?.status.as_u16())
}

/// The permissions of [`guard`] are in force, all of them.
async fn guarded(client: &mut HttpClient) -> Result<()> {
    for (path, pass, wanted) in [
        ("/forbidden", None, 403),
        ("/open/door", None, 200),
        ("/open/../forbidden", None, 403),
        ("/forbidden/%2e%2e/open", None, 200),
        ("/guarded", None, 403),
        ("/guarded", Some("no"), 403),
        ("/guarded?q=1", Some("yes"), 200),
    ] {
        let seen = status(client, path, pass).await?;
        ensure!(seen == wanted, "{path} with {pass:?}: {seen} instead of {wanted}");
    }
    Ok(())
}

async fn tcp(ends: Ends) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::tcp_echo().await.unwrap();
    let mixed = Mixed::start(&agent, ends, "tcp", &app.address).await;
    agent.intention(&mixed.web.name, &mixed.db.name, "allow").await.unwrap();

    // A callee that is healthy to Consul reaches an Envoy caller a little later.
    eventually("an echo", PATIENCE, async || tcp_works(&mixed.upstream).await).await.unwrap();
    let mut stream = mixed.upstream.connect().await.unwrap();
    echoes(&mut stream, b"hello").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move { write.write_all(&vec![b'x'; LARGE]).await.map(|()| write) });
    let mut back = vec![0; LARGE];
    read.read_exact(&mut back).await.unwrap();
    // Half-close: after our FIN the other direction still works.
    sending.await.unwrap().unwrap().shutdown().await.unwrap();
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, apps::FAREWELL);

    agent.intention(&mixed.web.name, &mixed.db.name, "deny").await.unwrap();
    eventually("a refusal", PATIENCE, async || tcp_refused(&mixed.upstream).await).await.unwrap();
}

/// One HTTP protocol: bodies both ways, and the permissions.
async fn http(ends: Ends, protocol: &str) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let mixed = Mixed::start(&agent, ends, protocol, &app.address).await;
    mixed.guard(&agent).await;
    let connect = async || match protocol {
        "http" => HttpClient::http1(&mixed.upstream).await,
        _ => HttpClient::http2(&mixed.upstream).await,
    };

    eventually("the permissions", PATIENCE, async || guarded(&mut connect().await?).await).await.unwrap();
    let mut client = connect().await.unwrap();
    for size in [0, 5, 100_000] {
        let answer = client.post("/open", vec![b'x'; size]).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, size));
        assert_eq!(answer.headers["x-app"], "db");
    }
    let counted = client.post("/open/count", vec![b'x'; LARGE]).await.unwrap();
    assert_eq!(counted.text(), LARGE.to_string());
    let downloaded = client.get(&format!("/open/bytes?n={LARGE}")).await.unwrap();
    assert_eq!(downloaded.body.len(), LARGE);
    let dump = client.get("/open/./x/../debug?env=dump").await.unwrap().text();
    let seen = dump.lines().next().unwrap_or_default().replace("http://localhost", "");
    assert!(seen.starts_with("GET /open/debug?env=dump HTTP/"), "the app must see the path that was allowed: {seen}");
    if protocol == "http2" {
        assert_eq!(client.post("/open", "hello").await.unwrap().trailers["x-echo-bytes"], "5");
    }
}

async fn grpc(ends: Ends) {
    let agent = Agent::shared().await.unwrap();
    let (_server, app) = interop::server().await;
    let mixed = Mixed::start(&agent, ends, "grpc", &app).await;
    mixed.guard(&agent).await;
    eventually("PERMISSION_DENIED", PATIENCE, async || denied(&mixed.upstream).await).await.unwrap();
    interop::passes(&mixed.upstream).await;
}

/// A method that nobody may call: refused in gRPC's own words.
async fn denied(upstream: &Address) -> Result<()> {
    const PERMISSION_DENIED: &str = "7";
    let (_, trailers) = GrpcCall::open(upstream, "/other.Service/Method").await?.finish().await?;
    let status = trailers.get("grpc-status").context("no grpc-status")?;
    ensure!(status == PERMISSION_DENIED, "{status:?}");
    Ok(())
}

async fn websocket(ends: Ends) {
    let agent = Agent::shared().await.unwrap();
    let app = apps::http_echo("db").await.unwrap();
    let mixed = Mixed::start(&agent, ends, "http", &app.address).await;
    mixed.guard(&agent).await;
    eventually("the permissions", PATIENCE, async || guarded(&mut HttpClient::http1(&mixed.upstream).await?).await).await.unwrap();

    let mut socket = clients::websocket(&mixed.upstream, "/open/chat").await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000]), Message::text("again")] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    let refused = clients::websocket(&mixed.upstream, "/chat").await.err().unwrap();
    assert!(format!("{refused:#}").contains("403"), "{refused:#}");
}

/// `db` is split between itself and `alt`, which is behind a sidecar of the caller's kind.
async fn splitter(ends: Ends) {
    let agent = Agent::shared().await.unwrap();
    let (app, alt_app) = (apps::http_echo("db").await.unwrap(), apps::http_echo("alt").await.unwrap());
    let alt = Service::new(unique("alt"), &alt_app.address).unwrap().protocol("http");
    agent.config_entry(json!({"Kind": "service-defaults", "Name": alt.name, "Protocol": "http"})).await.unwrap();
    agent.register(&alt).await.unwrap();
    let _alt = ends.from.start(&agent, &alt).await;
    agent.healthy(&alt.name, 1).await.unwrap();
    let mixed = Mixed::start(&agent, ends, "http", &app.address).await;
    mixed.guard(&agent).await;
    guard(&agent, &mixed.web.name, &alt.name).await;
    let leg = |service: Option<&str>, name: &str| {
        let (request, response) = (json!({"Set": {"x-leg": name}}), json!({"Add": {"x-from": name}}));
        json!({"Weight": 50, "Service": service, "RequestHeaders": request, "ResponseHeaders": response})
    };
    let legs = json!([leg(None, "db"), leg(Some(&alt.name), "alt")]);
    agent.config_entry(json!({"Kind": "service-splitter", "Name": mixed.db.name, "Splits": legs})).await.unwrap();

    for leg in ["db", "alt"] {
        eventually(&format!("the leg {leg}"), PATIENCE, async || {
            let answer = clients::get(&mixed.upstream, "/open/debug?env=dump").await?;
            ensure!(answer.headers.get("x-from").context("no split yet")? == leg, "the other leg");
            let dump = answer.text();
            ensure!(dump.contains(&format!("\nX-Leg: {leg}\n")) && dump.contains(&format!("\nFORTIO_NAME={leg}\n")), "{dump}");
            Ok(())
        })
        .await
        .unwrap();
    }
    eventually("the permissions on both legs", PATIENCE, async || {
        // Ten times, because each answer comes from either leg.
        for _ in 0..10 {
            guarded(&mut HttpClient::http1(&mixed.upstream).await?).await?;
        }
        Ok(())
    })
    .await
    .unwrap();
    let mut client = HttpClient::http1(&mixed.upstream).await.unwrap();
    let before = [&app, &alt_app].map(App::requests);
    for _ in 0..200 {
        assert_eq!(status(&mut client, "/open", None).await.unwrap(), 200);
        assert_eq!(status(&mut client, "/forbidden", None).await.unwrap(), 403);
    }
    // Binomial(200, 0.5): six standard deviations are 42.
    let after = [&app, &alt_app].map(App::requests);
    assert!((58..=142).contains(&(after[0] - before[0])), "{before:?} -> {after:?}");
    assert_eq!(after[0] - before[0] + after[1] - before[1], 200);
}

macro_rules! over_every_protocol {
    ($($(#[$doc:meta])* $name:ident: $from:ident -> $to:ident;)*) => {
        $($(#[$doc])* mod $name {
            use super::{Ends, Kind};

            const ENDS: Ends = Ends { from: Kind::$from, to: Kind::$to };

            #[tokio::test(flavor = "multi_thread")]
            async fn tcp() {
                super::tcp(ENDS).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn http() {
                super::http(ENDS, "http").await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn http2() {
                super::http(ENDS, "http2").await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn grpc() {
                super::grpc(ENDS).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn websocket() {
                super::websocket(ENDS).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn splitter() {
                super::splitter(ENDS).await;
            }
        })*
    };
}

over_every_protocol! {
    aralez_calls_envoy: Aralez -> Envoy;
    envoy_calls_aralez: Envoy -> Aralez;
    /// The lab itself: both ends are Envoy. What fails here is not Aralez.
    envoy_calls_envoy: Envoy -> Envoy;
}
