//! Fetches from servers of all tempers.

use openssl::{
    asn1::Asn1Time,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    ssl::{Ssl, SslAcceptor, SslMethod},
    x509::{X509, extension::SubjectAlternativeName},
};
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinHandle};

use super::*;
use crate::{
    control::consul::testing::{Agent, Reply, Seen},
    model::secret::Secret,
};

fn remote(url: String) -> RemoteKeys {
    RemoteKeys {
        shown: url.split('?').next().unwrap().into(),
        url: Secret::new(url),
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        lifetime: Duration::from_secs(300),
        asynchronous: false,
        retries: 2,
        back_off: (Duration::from_secs(2), Duration::from_secs(3)),
        trust: Trust::System,
    }
}

async fn served(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Agent, RemoteKeys) {
    let server = Agent::start(reply).await;
    let keys = remote(format!("http://{}/keys?key=s3cret", server.address));
    (server, keys)
}

fn now(status: u16, body: &str) -> Reply {
    Reply::Now(status, Vec::new(), body.to_owned())
}

#[tokio::test]
async fn only_a_200_of_bearable_size_is_taken() {
    let (_server, keys) = served(|seen| now(200, &format!("{} {}", seen.line, seen.params["key"]))).await;
    assert_eq!(fetch(&keys).await.unwrap(), b"GET /keys s3cret");
    let (_server, keys) = served(|_| now(404, "no")).await;
    assert_eq!(fetch(&keys).await.unwrap_err(), "it answered 404");
    let (_server, keys) = served(|_| now(200, &"x".repeat(LARGEST + 1))).await;
    assert_eq!(fetch(&keys).await.unwrap_err(), "it is larger than 1 MiB");
}

#[tokio::test]
async fn a_silent_or_absent_server_is_given_up_on_in_time() {
    let (_server, keys) = served(|_| Reply::Held).await;
    let impatient = RemoteKeys { timeout: Duration::from_millis(50), ..keys };
    assert_eq!(fetch(&impatient).await.unwrap_err(), "no answer within 50ms");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let why = fetch(&remote(format!("http://{nobody}/keys?key=s3cret"))).await.unwrap_err();
    assert!(why.contains("refused") && !why.contains("s3cret"), "{why}");
}

#[tokio::test]
async fn a_redirect_is_followed_within_its_scheme_only() {
    let to = |location: &'static str| {
        move |seen: &Seen| match seen.line.as_str() {
            "GET /moved" => now(200, "keys"),
            _ => Reply::Now(302, vec![("location", location.to_owned())], String::new()),
        }
    };
    let (_server, keys) = served(to("/moved")).await;
    assert_eq!(fetch(&keys).await.unwrap(), b"keys");
    let (_server, keys) = served(to("https://127.0.0.1:1/moved")).await;
    assert!(fetch(&keys).await.unwrap_err().contains("another scheme"));
    let (_server, keys) = served(to("/round")).await;
    assert!(fetch(&keys).await.unwrap_err().contains("too often"));
}

/// A TLS server of 127.0.0.1 that answers one key set to each connection, and the certificate that it shows, PEM.
async fn tls_server() -> (String, Vec<u8>, JoinHandle<()>) {
    let key = PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    let name = SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(name).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&certificate).unwrap();
    acceptor.set_private_key(&key).unwrap();
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/keys", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_openssl::SslStream::new(Ssl::new(acceptor.context()).unwrap(), stream).unwrap();
            // A client that does not trust us leaves here.
            if std::pin::Pin::new(&mut stream).accept().await.is_ok() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nkeys").await.unwrap();
                let _ = stream.shutdown().await;
            }
        }
    });
    (url, certificate.to_pem().unwrap(), serve)
}

#[tokio::test]
async fn only_a_trusted_server_is_asked() {
    let (url, pem, _server) = tls_server().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &pem).unwrap();
    let trusting = |trust| RemoteKeys { trust, ..remote(url.clone()) };
    assert_eq!(fetch(&trusting(Trust::Pem(pem))).await.unwrap(), b"keys");
    assert_eq!(fetch(&trusting(Trust::File(file.path().to_owned()))).await.unwrap(), b"keys");
    let (_, stranger, _other) = tls_server().await;
    for (trust, word) in [
        (Trust::System, "certificate"),
        (Trust::Pem(stranger), "certificate"),
        (Trust::Pem(b"nothing".to_vec()), "no certificate in it"),
        (Trust::File("/nonexistent/ca.pem".into()), "/nonexistent/ca.pem"),
        (Trust::Variable("ARALEZ_TEST_IS_NOT_SET".to_owned()), "ARALEZ_TEST_IS_NOT_SET"),
    ] {
        let why = fetch(&trusting(trust)).await.unwrap_err();
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn keys_are_fetched_before_they_are_too_old_and_after_failures_as_the_policy_says() {
    let seconds = |failures, jitter| pause(&remote(String::new()), failures, jitter).as_secs_f64().round();
    assert_eq!([seconds(0, 0.0), seconds(0, 1.0)], [225.0, 285.0]);
    let after: Vec<f64> = (1..=9).map(|failures| seconds(failures, 1.0)).collect();
    assert_eq!(after, [2.0, 3.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    assert_eq!([seconds(1, 0.0), seconds(u32::MAX, 0.0)], [1.0, 15.0]);
}

#[tokio::test(start_paused = true)]
async fn many_askings_are_one_and_none_is_before_its_time() {
    let (newer, begun) = (Notify::new(), Instant::now());
    newer.notify_one();
    newer.notify_one();
    asked(&newer, begun + BETWEEN_ASKED).await;
    assert_eq!(begun.elapsed(), BETWEEN_ASKED);
    assert!(tokio::time::timeout(BETWEEN_ASKED, asked(&newer, begun)).await.is_err(), "it was asked twice");
}
