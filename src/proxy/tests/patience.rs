//! How long clients may take, and how much they may say before they are heard.

use std::time::Instant;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

use super::*;

/// No default is as short as this.
const PATIENCE: Duration = Duration::from_millis(400);
const SOON: Duration = Duration::from_secs(10);
/// The preface, empty settings, and the beginning of a HEADERS frame of 256 bytes.
const UNFINISHED_HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x01\0\x01\0\0\0\0\x01";

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

async fn mesh(protocol: Protocol) -> Mesh {
    Mesh::with("api", protocol, http_app().await, Patience { head: PATIENCE, http2_idle: PATIENCE }).await
}

/// A connection to either kind of listener.
async fn both(mesh: &Mesh) -> [Box<dyn Duplex>; 2] {
    let caller = id("web").to_string();
    [Box::new(TcpStream::connect(mesh.upstream).await.unwrap()), Box::new(peer(mesh, &mesh.ca, &[&caller]).await.unwrap())]
}

/// Sends `begin`, and `more` again and again; what came back until the other side closed, and after how long.
async fn until_cut(stream: Box<dyn Duplex>, begin: &[u8], more: &[u8], pace: Duration) -> (String, Duration) {
    let (mut read, mut write) = tokio::io::split(stream);
    let begun = Instant::now();
    let sending = async {
        let mut sent = write.write_all(begin).await;
        while sent.is_ok() && !more.is_empty() {
            sleep(pace).await;
            sent = async { write.write_all(more).await.and(write.flush().await) }.await;
        }
        std::future::pending::<()>().await
    };
    let mut received = Vec::new();
    let reading = async { while read.read_buf(&mut received).await.is_ok_and(|count| count > 0) {} };
    let cut = async {
        tokio::select! {
            () = reading => {}
            () = sending => {}
        }
    };
    timeout(SOON, cut).await.expect("the connection is cut");
    (String::from_utf8_lossy(&received).into_owned(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_drips_in_is_cut_on_both_listeners() {
    let mesh = mesh(Protocol::Http).await;
    for stream in both(&mesh).await {
        let (answer, took) = until_cut(stream, b"GET / HTTP/1.1\r\nHost: api\r\nx-slow: ", b"x", Duration::from_millis(30)).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\nrequest header timeout"), "{answer}");
        assert!(took >= PATIENCE, "{took:?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_lines_before_a_request_are_no_request() {
    let mesh = mesh(Protocol::Http).await;
    for stream in both(&mesh).await {
        let (answer, _) = until_cut(stream, b"\r\n\r\n", b"\r\n", Duration::from_millis(30)).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    for mut stream in both(&mesh).await {
        stream.write_all(b"\r\n\r\nGET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_end_is_refused_at_60_kib() {
    let mesh = mesh(Protocol::Http).await;
    for stream in both(&mesh).await {
        let (answer, _) = until_cut(stream, b"GET / HTTP/1.1\r\nHost: api\r\nx-long: ", &[b'x'; 8192], Duration::ZERO).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    for (length, status) in [(60 * 1024, 431), (59 * 1024, 200)] {
        for mut stream in both(&mesh).await {
            let request = format!("GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\nx-long: {}\r\n\r\n", "x".repeat(length));
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = Vec::new();
            timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().ok();
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{length}: {answer:.100}");
        }
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_told_so_at_once() {
    let mesh = mesh(Protocol::Http).await;
    let client_hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    let stream = TcpStream::connect(mesh.upstream).await.unwrap();
    let (answer, _) = until_cut(Box::new(stream), client_hello, b"", Duration::ZERO).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_head_that_drips_in_is_cut_on_both_listeners() {
    let mesh = mesh(Protocol::Http2).await;
    for stream in both(&mesh).await {
        let (_, took) = until_cut(stream, UNFINISHED_HTTP2, b"x", Duration::from_millis(30)).await;
        assert!(took >= PATIENCE, "{took:?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let (app, silent) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Duration::from_secs(1));
    let mesh =
        Mesh::with("api", Protocol::Http2, app.local_addr().unwrap(), Patience { http2_idle: PATIENCE, ..Patience::default() }).await;
    for stream in both(&mesh).await {
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let (answer, _) = client.send_request(http::Request::get("http://api/").body(()).unwrap(), true).unwrap();
        assert!(timeout(silent, answer).await.is_err(), "no answer, and no end either");
        // The answer was dropped: the stream is reset, and nothing is in flight.
        timeout(SOON, connection).await.expect("the idle connection is closed").unwrap().ok();
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_head_of_more_than_64_kib_is_refused_alone() {
    let mesh = mesh(Protocol::Http2).await;
    for stream in both(&mesh).await {
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let long = http::Request::get("http://api/").header("x-long", "x".repeat(100 * 1024)).body(()).unwrap();
        let (answer, _) = client.send_request(long, true).unwrap();
        let answer = timeout(SOON, answer).await.unwrap();
        assert!(answer.as_ref().is_ok_and(|a| a.status() == 431) || answer.is_err_and(|e| e.is_reset()), "refused");
        let mut client = client.ready().await.unwrap();
        let (answer, _) = client.send_request(http::Request::get("http://api/").body(()).unwrap(), true).unwrap();
        assert!(timeout(SOON, answer).await.unwrap().is_ok(), "the connection goes on");
    }
    mesh.stop().await;
}
