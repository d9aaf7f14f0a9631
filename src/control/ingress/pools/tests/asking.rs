//! What servers speak, and single probes of them.

use std::{net::SocketAddr, time::Duration};

use aralez_integration::{
    apps::{App, h2c_echo, http_echo, https_echo},
    web_pki::WebCa,
};

use super::saying;
use crate::{
    control::ingress::pools::{
        detect::detect,
        dial::{Dialer, Failure},
        probe,
    },
    model::{
        credentials::certificates,
        ingress::pool::{HealthCheck, Probe, ProxyHeader, Scheme, ServerTls},
        listener::Address,
    },
};

const PATIENCE: Duration = Duration::from_millis(700);

fn dialer(address: SocketAddr, tls: &ServerTls) -> Dialer {
    Dialer::new(Address::Tcp(address), "127.0.0.1", tls, None).unwrap()
}

fn at(app: &App) -> SocketAddr {
    app.address.to_string().parse().unwrap()
}

async fn found(address: SocketAddr) -> Result<Scheme, Failure> {
    detect(&dialer(address, &ServerTls::default()), "127.0.0.1", "/", PATIENCE).await
}

async fn https() -> (WebCa, App) {
    let ca = WebCa::new();
    let pair = ca.issue(&["127.0.0.1"]);
    let app = https_echo("tls", &pair.crt, &pair.key).await.unwrap();
    (ca, app)
}

#[tokio::test]
async fn each_protocol_is_told_by_what_it_answers() {
    let (either, h2c, (_ca, tls)) = (http_echo("either").await.unwrap(), h2c_echo("grpc").await.unwrap(), https().await);
    assert_eq!(found(at(&either)).await, Ok(Scheme::Http), "HTTP/1.1 wins over HTTP/2 in clear: a WebSocket never rides that");
    assert_eq!(found(at(&h2c)).await, Ok(Scheme::H2c));
    assert_eq!(found(at(&tls)).await, Ok(Scheme::Https), "whatever its certificate");
    for answer in
        ["HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.0 503 Busy\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 301 Moved\r\n\r\n"]
    {
        let (address, _server) = saying(Some(answer)).await;
        assert_eq!(found(address).await, Ok(Scheme::Http), "{answer}");
    }
}

#[tokio::test]
async fn what_answers_nothing_known_is_not_told() {
    let (silent, _task) = saying(None).await;
    assert_eq!(found(silent).await, Err(Failure::Silent));
    let (odd, _task) = saying(Some("220 mail.example ESMTP\r\n")).await;
    assert!(matches!(found(odd).await, Err(Failure::Answer(_))));
    let gone = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    assert!(matches!(found(gone).await, Err(Failure::Unreachable(_))));
}

#[tokio::test]
async fn a_probe_judges_by_the_status_over_every_protocol() {
    let (either, h2c, (_ca, tls)) = (http_echo("either").await.unwrap(), h2c_echo("grpc").await.unwrap(), https().await);
    let trusting = ServerTls { verify: false, ..ServerTls::default() };
    let probe = HealthCheck::default().probe;
    for (app, scheme) in
        [(&either, Scheme::Http), (&either, Scheme::H2c), (&h2c, Scheme::Grpc), (&tls, Scheme::Https), (&tls, Scheme::Grpcs)]
    {
        for (status, passes) in [(200, true), (404, true), (500, false), (503, false)] {
            app.answer_always(status);
            let outcome = probe::ask(&dialer(at(app), &trusting), scheme, &probe, "127.0.0.1", PATIENCE).await;
            assert_eq!(outcome.is_ok(), passes, "{scheme:?} {status}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (other, target) = (http_echo("other").await.unwrap(), Box::leak(Box::<String>::default()));
    *target = format!("HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", other.address);
    let (address, _task) = saying(Some(target)).await;
    let only_2xx = Probe::Http { method: "GET".into(), path: "/".into(), host: None, expect: vec![200..=299] };
    let outcome = probe::ask(&dialer(address, &ServerTls::default()), Scheme::Http, &only_2xx, "127.0.0.1", PATIENCE).await;
    assert_eq!((outcome, other.connections()), (Err(Failure::Answer("it answered 302".to_owned())), 0));
}

#[tokio::test]
async fn no_answer_and_no_connection_are_failures() {
    let (silent, _task) = saying(None).await;
    let probe = HealthCheck::default().probe;
    let ask = async |address, probe: &Probe| probe::ask(&dialer(address, &ServerTls::default()), Scheme::Http, probe, "x", PATIENCE).await;
    assert_eq!(ask(silent, &probe).await, Err(Failure::Silent));
    assert_eq!(ask(silent, &Probe::Tcp).await, Ok(()));
    let gone = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    assert!(matches!(ask(gone, &Probe::Tcp).await, Err(Failure::Unreachable(_))));
}

#[tokio::test]
async fn a_certificate_counts_only_from_a_known_authority_and_for_the_name() {
    let (ca, tls) = https().await;
    let roots = certificates("root", &ca.root_pem()).unwrap();
    let probe = HealthCheck::default().probe;
    let ask =
        async |tls_settings: ServerTls| probe::ask(&dialer(at(&tls), &tls_settings), Scheme::Https, &probe, "127.0.0.1", PATIENCE).await;
    assert!(matches!(ask(ServerTls::default()).await, Err(Failure::Unverified(_))));
    assert_eq!(ask(ServerTls { roots: roots.clone(), ..ServerTls::default() }).await, Ok(()));
    let named = ServerTls { roots, name: Some("other.test".into()), ..ServerTls::default() };
    assert!(matches!(ask(named).await, Err(Failure::Unverified(_))));
    assert_eq!(ask(ServerTls { verify: false, ..ServerTls::default() }).await, Ok(()));
}

#[tokio::test]
async fn grpc_servers_are_asked_whether_they_serve() {
    let app = h2c_echo("grpc").await.unwrap();
    let probe = Probe::Grpc { service: "shop.Orders".into() };
    let ask = async || probe::ask(&dialer(at(&app), &ServerTls::default()), Scheme::Http, &probe, "127.0.0.1", PATIENCE).await;
    for (answer, passes) in [("\0\0\0\0\x02\x08\x01", true), ("\0\0\0\0\x02\x08\x02", false), ("", false)] {
        app.answer_text(answer);
        assert_eq!(ask().await.is_ok(), passes, "{answer:?}");
    }
    app.answer_text("\0\0\0\0\x02\x08\x01");
    app.answer_always(404);
    assert!(ask().await.is_err());
}

#[tokio::test]
async fn probes_begin_with_the_proxy_header_that_servers_wait_for() {
    use tokio::io::AsyncReadExt;
    for (version, begin) in
        [(ProxyHeader::V1, &b"PROXY UNKNOWN\r\nHEAD / "[..]), (ProxyHeader::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0HEAD / ")]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialer = Dialer::new(Address::Tcp(listener.local_addr().unwrap()), "x", &ServerTls::default(), Some(version)).unwrap();
        let probe = HealthCheck::default().probe;
        let asking = tokio::spawn(async move { probe::ask(&dialer, Scheme::Http, &probe, "x", PATIENCE).await });
        let mut seen = vec![0; begin.len()];
        listener.accept().await.unwrap().0.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, begin);
        asking.abort();
    }
}
