//! What servers speak is found out, off the request path.

use aralez_integration::apps::{App, h2c_echo, http_echo, https_echo};
use aralez_integration::clients;
use futures_util::{SinkExt, StreamExt};

use super::{Edge, Setup};
use aralez_integration::web_pki::WebCa;

fn paths(paths: &[(&str, &App, &str)]) -> String {
    let mut yaml = "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n".to_owned();
    for (path, app, more) in paths {
        yaml += &format!("      {path}: {{servers: ['{}']{more}}}\n", app.address);
    }
    yaml
}

#[tokio::test]
async fn servers_of_any_protocol_need_no_scheme() {
    let ca = WebCa::new();
    let pair = ca.issue(&["127.0.0.1"]);
    let tls = https_echo("tls", &pair.crt, &pair.key).await.unwrap();
    let (either, grpc) = (http_echo("either").await.unwrap(), h2c_echo("grpc").await.unwrap());
    let yaml = paths(&[("/", &either, ""), ("/grpc", &grpc, ""), ("/tls", &tls, ", tls_ca: ca.pem")]);
    let edge = Setup::new(&yaml).file("ca.pem", ca.root_pem()).start().await;
    // The very first requests: nobody answers 502 while protocols are found out.
    for (path, app, version) in
        [("/debug?env=dump", "either", "HTTP/1.1"), ("/grpc/debug?env=dump", "grpc", "HTTP/2.0"), ("/tls/debug?env=dump", "tls", "HTTP/")]
    {
        let answer = edge.get("shop.test", path).await;
        assert_eq!((answer.status.as_u16(), answer.headers["x-app"].to_str().unwrap()), (200, app), "{path}");
        assert!(answer.text().contains(version), "{path}: {}", answer.text());
    }
    let mut socket = clients::websocket(&edge.http, "/chat").await.unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap().into_text().unwrap().as_str(),
        "hello",
        "a server that speaks HTTP/2 too gets its WebSockets"
    );
}

#[tokio::test]
async fn tls_that_cannot_be_verified_is_refused_with_advice() {
    let ca = WebCa::new();
    let pair = ca.issue(&["127.0.0.1"]);
    let tls = https_echo("tls", &pair.crt, &pair.key).await.unwrap();
    let edge = Edge::start(&paths(&[("/", &tls, ""), ("/trusted", &tls, ", tls_verify: false")])).await;
    assert_eq!(edge.get("shop.test", "/trusted").await.status, 200);
    assert_eq!(edge.get("shop.test", "/").await.status, 503);
    let snapshot = edge.aralez.admin("/snapshot").await.unwrap().text();
    for words in ["its certificate cannot be verified", "tls_ca", "tls_verify: false"] {
        assert!(snapshot.contains(words), "{words} is not in {snapshot}");
    }
}
