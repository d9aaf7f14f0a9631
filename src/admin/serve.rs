//! Connections to the APIs: how long their clients may take, and how many there are at once.
//!
//! `axum::serve` (0.8) gives hyper no timer, and without one a head has no deadline.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, serve::Listener};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// How long a client may take for the head of its next request, what it waits before that included.
const HEAD: Duration = Duration::from_secs(10);
/// Connections of one listener at once; the next ones wait in the kernel's queue.
const MOST: usize = 256;

/// Serves a router, whose handlers find the client's address in [`ConnectInfo`], until `shutdown` ends and the requests in flight are answered.
pub(super) async fn serve(mut listener: impl Listener<Addr = SocketAddr>, router: Router, shutdown: impl Future<Output = ()>) {
    let (places, connections, ending) = (Arc::new(Semaphore::new(MOST)), TaskTracker::new(), CancellationToken::new());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let accepting = async {
        while let Ok(place) = places.clone().acquire_owned().await {
            let (stream, client) = listener.accept().await;
            let router = router.clone();
            let answering = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(client));
                let answering = router.clone().oneshot(request);
                async { Ok::<_, Infallible>(answering.await.unwrap_or_else(|never| match never {})) }
            });
            let (connection, ending) = (http.serve_connection(TokioIo::new(stream), answering), ending.clone());
            connections.spawn(async move {
                let _place = place;
                let mut connection = pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = ending.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(why) = ended {
                    tracing::debug!(%client, %why, "a connection to the API broke off");
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    drop(listener);
    ending.cancel();
    connections.close();
    connections.wait().await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::{Instant, sleep, timeout},
    };

    use super::*;

    /// In the tests' time, which passes when nothing else happens.
    const LONG: Duration = Duration::from_secs(600);

    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new().route("/", get(|ConnectInfo(client): ConnectInfo<SocketAddr>| async move { client.to_string() }));
        (address, stop.clone(), tokio::spawn(serve(listener, router, stop.cancelled_owned())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_in_is_cut() {
        let (address, ..) = start().await;
        for beginning in ["", "GET / HTTP/1.1\r\nx-slow: "] {
            let begun = Instant::now();
            let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
            write.write_all(beginning.as_bytes()).await.unwrap();
            let dripping = async {
                while beginning.is_empty() || write.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_secs(3)).await;
                }
                LONG
            };
            let mut answer = Vec::new();
            let ended = async {
                tokio::select! {
                    _ = read.read_to_end(&mut answer) => {}
                    _ = dripping => {}
                }
            };
            timeout(LONG, ended).await.expect("it is cut");
            assert!(begun.elapsed() >= HEAD && begun.elapsed() < HEAD * 2, "{beginning:?}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_connections_than_there_are_places_wait() {
        let (address, ..) = start().await;
        let mut idle = Vec::new();
        for _ in 0..MOST {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let begun = Instant::now();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&next.local_addr().unwrap().to_string()), "{answer}");
        assert!(begun.elapsed() >= HEAD - Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn an_idle_connection_ends_with_the_listener() {
        let (address, stop, serving) = start().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        stop.cancel();
        serving.await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
