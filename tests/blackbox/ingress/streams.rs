//! Streams of HTTP/2 that are open while the routes change around theirs.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::{
    apps::{App, http_echo},
    net::Stream,
    wait::eventually,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::timeout};

use super::{Edge, Setup, push};
use aralez_integration::web_pki::{WebCa, secure};

const STREAMS: u64 = 500;
const RELOADS: usize = 24;
/// Connections of each kind, in clear and over TLS.
const CONNECTIONS: u64 = 5;
const LONG: Duration = Duration::from_secs(60);

/// The route of the streams as ever, and another that says its version.
fn routes(app: &App, version: usize) -> String {
    format!(
        "upstreams:\n  slow.test: {{paths: {{/: {{servers: ['http://{0}'], idle_timeout: false, healthcheck: false}}}}}}\n  \
         fast.test: {{paths: {{/v{version}: {{redirect_to: 'https://elsewhere.test'}}}}}}\n",
        app.address
    )
}

async fn open(stream: Stream) -> http2::SendRequest<Full<Bytes>> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    // How it ends shows in its streams.
    tokio::spawn(async move { drop(connection.await) });
    sender
}

async fn connect(edge: &Edge, tls: bool) -> Stream {
    if !tls {
        return edge.http.connect().await.unwrap();
    }
    let prepared = secure(&edge.tls, Some("slow.test"), |context| Ok(context.set_alpn_protos(b"\x02h2")?));
    Box::new(prepared.await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_open_streams_outlive_reloads() {
    let (app, pair) = (http_echo("app").await.unwrap(), WebCa::new().issue(&["slow.test"]));
    let setup = Setup::new(&routes(&app, 0)).tls().file("certs/a.crt", &pair.crt).file("certs/a.key", &pair.key);
    let edge = setup.start().await;
    app.hold();
    let mut answers = JoinSet::new();
    for nth in 0..CONNECTIONS * 2 {
        let (tls, sender) = (nth % 2 == 0, open(connect(&edge, nth % 2 == 0).await).await);
        let scheme = if tls { "https" } else { "http" };
        for stream in 0..STREAMS / (CONNECTIONS * 2) {
            let (mut sender, said) = (sender.clone(), format!("stream {stream} of connection {nth}"));
            let request = Request::post(format!("{scheme}://slow.test/")).body(Full::from(said.clone())).unwrap();
            answers.spawn(async move {
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                anyhow::Ok((status, answer.into_body().collect().await?.to_bytes() == said))
            });
        }
    }
    let all_open = eventually("all streams to reach the app", LONG, async || {
        ensure!(app.requests() == STREAMS, "{} of them", app.requests());
        Ok(())
    });
    all_open.await.unwrap();

    for version in 1..=RELOADS {
        let answer = push(&edge, "", &routes(&app, version)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(edge.get("fast.test", &format!("/v{version}")).await.status, 301, "reload {version} is in force");
    }
    assert!(answers.try_join_next().is_none(), "a stream ended before its answer");

    app.release();
    let mut complete = 0;
    while let Some(answer) = timeout(LONG, answers.join_next()).await.unwrap() {
        assert_eq!(answer.unwrap().unwrap(), (http::StatusCode::OK, true));
        complete += 1;
    }
    println!("{complete} streams complete after {RELOADS} reloads");
    assert_eq!((complete, app.requests()), (STREAMS, STREAMS), "each was sent once");
}
