//! OCSP stapling, as a client sees it that asks for it.

use std::{fs, time::Duration};

use anyhow::ensure;
use aralez_integration::{clients, wait::eventually};
use openssl::ssl::{Ssl, SslContext, SslMethod, StatusType};
use tokio_openssl::SslStream;

use super::{Edge, Setup};
use aralez_integration::web_pki::WebCa;

const SOON: Duration = Duration::from_secs(30);
const DAY: i64 = 86_400;

/// The answer that comes with the certificate for a client that asks for it, or does not.
async fn stapled(edge: &Edge, asks: bool) -> anyhow::Result<Option<Vec<u8>>> {
    let mut session = Ssl::new(&SslContext::builder(SslMethod::tls_client())?.build())?;
    session.set_hostname("a.test")?;
    if asks {
        session.set_status_type(StatusType::OCSP)?;
    }
    let mut stream = SslStream::new(session, edge.tls.connect().await?)?;
    std::pin::Pin::new(&mut stream).connect().await?;
    Ok(stream.ssl().ocsp_status().map(<[u8]>::to_vec))
}

async fn becomes(edge: &Edge, what: &str, wanted: Option<&[u8]>) {
    let seen = eventually(what, SOON, async || {
        let seen = stapled(edge, true).await?;
        ensure!(seen.as_deref() == wanted, "{:?} bytes are stapled", seen.map(|answer| answer.len()));
        Ok(())
    });
    seen.await.unwrap();
}

/// Waits until the status page has these words about the answer's file; none: until it has nothing about it.
async fn told(edge: &Edge, what: &str, words: Option<&str>) {
    let told = eventually(what, SOON, async || {
        let status = clients::get(&edge.api, "/status").await?.text();
        ensure!(words.map_or(!status.contains("a.ocsp"), |words| status.contains("a.ocsp") && status.contains(words)), "{status}");
        Ok(())
    });
    told.await.unwrap();
}

#[tokio::test]
async fn an_answer_is_stapled_while_a_client_would_take_it() {
    let (ca, stranger) = (WebCa::new(), WebCa::new());
    let (pair, other) = (ca.issue(&["a.test"]), ca.issue(&["a.test"]));
    let chain = format!("{}{}", pair.crt, ca.root_pem());
    let first = ca.ocsp(&pair, false, DAY);
    let setup = Setup::new("upstreams: {DEFAULT: {paths: {/: {servers: ['127.0.0.1:1'], healthcheck: false}}}}\n").tls();
    let edge = setup.file("certs/a.crt", &chain).file("certs/a.key", &pair.key).file("certs/a.ocsp", &first).start().await;
    let write = |answer: &[u8]| fs::write(edge.path("certs/a.ocsp"), answer).unwrap();
    assert_eq!(stapled(&edge, true).await.unwrap(), Some(first), "from the start");
    assert_eq!(stapled(&edge, false).await.unwrap(), None, "only for those who ask");

    let renewed = ca.ocsp(&pair, false, 2 * DAY);
    write(&renewed);
    becomes(&edge, "the renewed answer", Some(&renewed)).await;

    let whole = ca.ocsp(&pair, false, 3 * DAY);
    let faults: [(&str, &[u8], &str); 7] = [
        ("an answer that has ended", &ca.ocsp(&pair, false, -60), "too old"),
        ("an answer about another certificate", &ca.ocsp(&other, false, DAY), "about another certificate"),
        ("an answer of a stranger", &stranger.ocsp(&pair, false, DAY), "about another certificate"),
        ("an answer with another's signature", &[&whole[..whole.len() - 8], &[0; 8]].concat(), "not signed by the issuer"),
        ("a revoked certificate", &ca.ocsp(&pair, true, DAY), "does not say that the certificate is good"),
        ("half an answer", &whole[..whole.len() / 2], "no OCSP answer"),
        ("a server's \"try later\"", &[0x30, 3, 0x0a, 1, 3], "had no answer"),
    ];
    for (what, answer, words) in faults {
        write(answer);
        told(&edge, what, Some(words)).await;
        becomes(&edge, what, None).await;
        write(&renewed);
        becomes(&edge, "the good answer again", Some(&renewed)).await;
        told(&edge, "the fault to be forgotten", None).await;
    }
    fs::write(edge.path("certs/a.crt"), &pair.crt).unwrap();
    told(&edge, "the issuer to be missed", Some("lacks the issuer's")).await;
    becomes(&edge, "nothing that could not be checked", None).await;
}

/// Nothing in the folder changes: time alone does it.
#[tokio::test]
async fn an_answer_that_ends_is_stapled_no_more_and_told_of() {
    let ca = WebCa::new();
    let pair = ca.issue(&["a.test"]);
    let edge = Setup::new("upstreams: {DEFAULT: {paths: {/: {servers: ['127.0.0.1:1'], healthcheck: false}}}}\n").tls();
    let edge = edge.file("certs/a.crt", format!("{}{}", pair.crt, ca.root_pem())).file("certs/a.key", &pair.key).start().await;
    // Long enough to be seen on a busy machine.
    let short = ca.ocsp(&pair, false, 12);
    fs::write(edge.path("certs/a.ocsp"), &short).unwrap();
    becomes(&edge, "the answer", Some(&short)).await;
    becomes(&edge, "its end", None).await;
    told(&edge, "its end to be told", Some("too old")).await;
}
