//! Certificates from their folder to the clients, through the real program.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::ensure;
use aralez_integration::{
    apps::{App, http_echo},
    net::Address,
    wait::eventually,
};
use openssl::ssl::{Ssl, SslContext, SslMethod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_openssl::SslStream;

use super::{Edge, Setup};
use aralez_integration::web_pki::{Pair, WebCa};

type Stream = SslStream<aralez_integration::net::Stream>;

async fn connect(address: &Address, name: Option<&str>) -> anyhow::Result<Stream> {
    let mut ssl = Ssl::new(&SslContext::builder(SslMethod::tls_client())?.build())?;
    if let Some(name) = name {
        ssl.set_hostname(name)?;
    }
    let mut stream = SslStream::new(ssl, address.connect().await?)?;
    std::pin::Pin::new(&mut stream).connect().await?;
    Ok(stream)
}

/// The leaf that a client is shown, PEM.
async fn shown(edge: &Edge, name: Option<&str>) -> String {
    leaf(&connect(&edge.tls, name).await.unwrap())
}

fn leaf(stream: &Stream) -> String {
    String::from_utf8(stream.ssl().peer_certificate().unwrap().to_pem().unwrap()).unwrap()
}

async fn get(stream: &mut Stream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

/// Writes a pair as most tools do: one file after the other.
fn put(edge: &Edge, name: &str, pair: &Pair) {
    fs::write(edge.path("certs").join(format!("{name}.crt")), &pair.crt).unwrap();
    fs::write(edge.path("certs").join(format!("{name}.key")), &pair.key).unwrap();
}

/// Waits until a name's certificate is this one.
async fn turns_to(edge: &Edge, name: &str, pair: &Pair) {
    let is_shown = async || {
        ensure!(shown(edge, Some(name)).await == pair.crt, "another certificate");
        Ok(())
    };
    eventually("the new certificate is shown", Duration::from_secs(15), is_shown).await.unwrap();
}

/// A reverse proxy with these pairs, before an app.
async fn start(pairs: &[(&str, &Pair)], main: &str) -> (Edge, App) {
    let app = http_echo("app").await.unwrap();
    let routes = format!("upstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: ['http://{}']}}\n", app.address);
    let mut setup = Setup::new(&routes).tls().main(main);
    for (name, pair) in pairs {
        setup = setup.file(&format!("certs/{name}.crt"), &pair.crt).file(&format!("certs/{name}.key"), &pair.key);
    }
    (setup.start().await, app)
}

#[tokio::test]
async fn a_renewed_pair_is_shown_without_a_failed_handshake_and_others_are_untouched() {
    let ca = WebCa::new();
    let (old, new, other) = (ca.issue(&["a.test"]), ca.issue(&["a.test"]), ca.issue(&["b.test", "*.wild.test"]));
    let (edge, _app) = start(&[("a", &old), ("b", &other)], "proxy_tls_grade: high").await;
    for (name, expected) in [(Some("A.Test"), &old), (Some("x.WILD.test"), &other), (Some("x.y.wild.test"), &old), (None, &old)] {
        assert_eq!(shown(&edge, name).await, expected.crt, "{name:?}");
    }
    let mut open = connect(&edge.tls, Some("a.test")).await.unwrap();
    let (done, shakes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = async {
        while !done.load(Ordering::Relaxed) {
            let mine = shown(&edge, Some("a.test")).await;
            assert!(mine == old.crt || mine == new.crt, "one of the two, and with its own key");
            assert_eq!(shown(&edge, Some("b.test")).await, other.crt);
            shakes.fetch_add(2, Ordering::Relaxed);
        }
    };
    let swap = async {
        for round in 0..6 {
            let next = if round % 2 == 0 { &new } else { &old };
            put(&edge, "a", next);
            turns_to(&edge, "a.test", next).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, swap);
    println!("{} handshakes over 6 renewals, none failed", shakes.load(Ordering::Relaxed));
    let answer = get(&mut open).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "the connection from before lives on: {answer}");
    assert!(answer.to_lowercase().contains("strict-transport-security: max-age=63072000"), "{answer}");
}

#[tokio::test]
async fn a_bad_pair_holds_nobody_back_and_the_last_one_removed_stays() {
    let ca = WebCa::new();
    let (a, b, renewed) = (ca.issue(&["a.test"]), ca.issue(&["b.test"]), ca.issue(&["a.test"]));
    let (edge, _app) = start(&[("a", &a), ("b", &b)], "").await;
    fs::write(edge.path("certs/b.key"), &b.key[..b.key.len() / 2]).unwrap();
    put(&edge, "a", &renewed);
    turns_to(&edge, "a.test", &renewed).await;
    assert_eq!(shown(&edge, Some("b.test")).await, b.crt, "b keeps its last good form");
    for file in ["a.crt", "a.key", "b.crt", "b.key"] {
        fs::remove_file(edge.path("certs").join(file)).unwrap();
    }
    edge.aralez.logged("last certificate was removed", Duration::from_secs(15)).await;
    assert_eq!(shown(&edge, Some("a.test")).await, renewed.crt, "what was there last is shown");
    let answer = get(&mut connect(&edge.tls, None).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.to_lowercase().contains("strict-transport"), "{answer}");
}

#[tokio::test]
async fn the_default_certificate_hsts_and_the_public_port_are_those_that_are_stated() {
    let ca = WebCa::new();
    let (a, z) = (ca.issue(&["a.test"]), ca.issue(&["z.test"]));
    let (edge, app) = start(&[("a", &a), ("z", &z)], "default_certificate: z\nhsts: 1h\npublic_https_port: 443").await;
    for (name, pair) in [(None, &z), (Some("nobody.test"), &z), (Some("A.test"), &a)] {
        assert_eq!(shown(&edge, name).await, pair.crt, "{name:?}");
    }
    let answer = get(&mut connect(&edge.tls, None).await.unwrap()).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 ") && answer.contains("strict-transport-security: max-age=3600\r\n"), "{answer}");
    assert!(!edge.get("a.test", "/").await.headers.contains_key("strict-transport-security"));
    let routes = format!("to_https: true\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: ['http://{}']}}\n", app.address);
    fs::write(edge.path("upstreams.yaml"), routes).unwrap();
    eventually("clients are sent to the public port", Duration::from_secs(20), async || {
        let answer = edge.get("a.test:8080", "/x?y=1").await;
        let to = answer.headers.get("location").and_then(|to| to.to_str().ok());
        ensure!(to == Some("https://a.test/x?y=1"), "{}: {to:?}", answer.status);
        Ok(())
    })
    .await
    .unwrap();
}
