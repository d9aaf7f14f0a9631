//! How many idle connections to servers are kept.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::{sync::watch, time::timeout};

use super::*;

const AT_ONCE: usize = 6;
/// No idle connection to a server is kept for as long.
const APP_IDLE: Duration = Duration::from_secs(4);

/// What an app saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Connections in all.
    made: usize,
    /// Those that are open.
    open: usize,
    /// Requests in all.
    asked: usize,
}

/// An app that answers its first requests once there are [`AT_ONCE`].
async fn app() -> (SocketAddr, watch::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = watch::channel(Seen::default());
    let tell = Arc::new(tell);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let tell = tell.clone();
            tell.send_modify(|seen| (seen.made, seen.open) = (seen.made + 1, seen.open + 1));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = client.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        tell.send_modify(|seen| seen.asked += 1);
                        tell.subscribe().wait_for(|seen| seen.asked >= AT_ONCE).await.unwrap();
                        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                    }
                }
                tell.send_modify(|seen| seen.open -= 1);
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_idle_connections_are_kept_as_the_setting_says() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    for pool in [0, 1, 3] {
        let (app, mut seen) = app().await;
        let edge = Edge::start(&Setup { pool, ..to(edge::server(app, "app", Scheme::Http), ServerTls::default(), None) }).await;
        let answers = join_all((0..AT_ONCE).map(|_| edge.plain(REQUEST))).await;
        let idle = Instant::now();
        assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:?}");
        timeout(Duration::from_secs(20), seen.wait_for(|seen| seen.open == pool)).await.expect("the others are closed").unwrap();
        assert!(pool > 0 || idle.elapsed() < APP_IDLE, "not by the pool");
        assert!(edge.plain(REQUEST).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(seen.borrow().made, if pool == 0 { AT_ONCE + 1 } else { AT_ONCE }, "with a pool for {pool}");
        edge.stop().await;
    }
}
