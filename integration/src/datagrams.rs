//! A receiver of UDP datagrams, as a statsd daemon is one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// The largest UDP datagram.
const LARGEST: usize = 65_536;
/// Lines shown when the wanted one did not come.
const SHOWN: usize = 40;

/// Lines that come in datagrams on a port of 127.0.0.1.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// Listens on a port that the kernel chooses.
    ///
    /// # Errors
    /// When binding fails.
    pub async fn bind() -> Result<Self> {
        Ok(Self { socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// The next line for which `wanted` holds; `what` names it.
    ///
    /// # Errors
    /// When none has come within `limit`: with the last lines that did.
    pub async fn line(&self, what: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut datagram = vec![0; LARGEST];
        let mut seen: Vec<String> = Vec::new();
        while let Ok(length) = timeout_at(deadline, self.socket.recv(&mut datagram)).await {
            let text = String::from_utf8_lossy(datagram.get(..length?).unwrap_or_default()).into_owned();
            for line in text.lines() {
                if wanted(line) {
                    return Ok(line.to_owned());
                }
                seen.push(line.to_owned());
            }
        }
        let shown = seen.split_off(seen.len().saturating_sub(SHOWN));
        bail!("no line in {limit:?} with {what}; the last of {}:\n{}", seen.len() + shown.len(), shown.join("\n"))
    }
}
