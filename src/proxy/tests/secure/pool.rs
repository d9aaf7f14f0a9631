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

/// Requests that come together, and one after them: of all connections, those for `pool` are kept.
async fn is_kept(pool: usize) {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let (app, mut seen) = app().await;
    let edge = Edge::start(&Setup { pool, ..to(edge::server(app, "app", Scheme::Http), ServerTls::default(), None) }).await;
    let answers = join_all((0..AT_ONCE).map(|_| edge.plain(REQUEST))).await;
    let idle = Instant::now();
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")), "{answers:?}");
    let settled = timeout(Duration::from_secs(20), seen.wait_for(|seen| seen.open == pool)).await.is_ok();
    assert!(settled, "{} stay open with a pool for {pool}", seen.borrow().open);
    assert!(pool > 0 || idle.elapsed() < APP_IDLE, "not by the pool");
    assert!(edge.plain(REQUEST).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(seen.borrow().made, if pool == 0 { AT_ONCE + 1 } else { AT_ONCE }, "with a pool for {pool}");
    edge.stop().await;
}

/// On one thread: on several, Pingora (0.9.1) can overlook one that it evicts from so small a pool just while it comes in.
#[tokio::test]
async fn as_many_idle_connections_are_kept_as_the_setting_says() {
    for pool in [1, 3] {
        is_kept(pool).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_idle_connection_is_kept_where_none_is_wanted() {
    for _ in 0..20 {
        is_kept(0).await;
    }
}
