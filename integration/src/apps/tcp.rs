//! TCP echo.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{App, Counters};
use crate::net::{Address, Listener, Stream};

/// What the echo still says after the client has closed its sending side: proof that half-closed connections stay open the other way.
pub const FAREWELL: &[u8] = b"\nfarewell\n";

/// Starts a TCP echo on loopback. It returns every byte as it comes; after the client's FIN it sends [`FAREWELL`] and closes.
///
/// # Errors
/// When it cannot listen.
pub async fn tcp_echo() -> Result<App> {
    let (listener, address) = Listener::loopback().await?;
    Ok(serve(listener, address))
}

/// The same on a Unix socket.
///
/// # Errors
/// When it cannot listen there.
pub fn tcp_echo_on(socket: &Path) -> Result<App> {
    let (listener, address) = Listener::unix(socket)?;
    Ok(serve(listener, address))
}

fn serve(listener: Listener, address: Address) -> App {
    let counters = Arc::new(Counters::default());
    let seen = counters.clone();
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok(stream) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(echo(stream));
        }
    });
    App { address, counters, orders: Arc::default(), accepting }
}

/// Ends without a word when the connection breaks: the client is the judge.
async fn echo(mut stream: Stream) -> Option<()> {
    let mut buffer = vec![0; 16 * 1024];
    while let count @ 1.. = stream.read(&mut buffer).await.ok()? {
        stream.write_all(buffer.get(..count)?).await.ok()?;
    }
    stream.write_all(FAREWELL).await.ok()?;
    stream.shutdown().await.ok()
}
