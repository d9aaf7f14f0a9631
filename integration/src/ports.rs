//! Free ports that stay free until they are used.
//!
//! A port got by binding port 0 lies in the kernel's ephemeral range, so any outgoing connection may take it between our look and
//! the child's bind. These ports come from below that range, and a locked file per port keeps other test processes away.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// Locks held until this process ends: a port is handed out once per process.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Finds a port on 127.0.0.1 that is free for TCP and UDP and that nobody else will be given.
///
/// # Errors
/// When the folder of locks cannot be written, or no port is free.
pub fn free_port() -> Result<u16> {
    let folder = std::env::temp_dir().join("aralez-integration-ports");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let range = below_ephemeral();
    for _ in 0..1000 {
        let port = fastrand::u16(range.clone());
        let lock = File::create(folder.join(port.to_string()))?;
        if lock.try_lock().is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
            return Ok(port);
        }
    }
    bail!("no free port in {range:?}")
}

/// Ports the kernel never gives to an outgoing connection.
fn below_ephemeral() -> Range<u16> {
    const LINUX_DEFAULT: u16 = 32_768;
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(LINUX_DEFAULT);
    if lowest > 12_000 { 10_000..lowest } else { 61_000..65_535 }
}
