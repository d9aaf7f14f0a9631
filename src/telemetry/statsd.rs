//! Metrics as StatsD and DogStatsD lines, sent at intervals in datagrams.
//!
//! A counter is sent as what it grew by (`|c`), a gauge as it stands (`|g`), a histogram as two counters: how many values were seen
//! (`….count`) and their sum (`….sum`, milliseconds where the metric is in seconds). Counters that did not grow are not sent.

mod lines;

use std::{env, io, sync::Arc, time::Duration};

use tokio::{
    net::{UdpSocket, UnixDatagram},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::lines::{Lines, Packets};
use super::{Telemetry, metrics::Scope};
use crate::model::metrics::{Dialect, Push, PushTarget};

/// The one variable that may stand inside an address, as in Consul.
const HOST_IP: [&str; 2] = ["${HOST_IP}", "$HOST_IP"];

/// Sends the metrics of a scope until `stop`, and then a last time. What cannot be sent is lost; the log says so when it begins.
pub async fn push(telemetry: Arc<Telemetry>, scope: Scope, push: Push, stop: CancellationToken) {
    let scope = if push.dialect == Dialect::Statsd { scope.untagged() } else { scope };
    let mut lines = Lines::new(push.dialect, &push.prefix);
    // What was counted before is not ours to tell.
    lines.since(&telemetry.metrics.scoped(&scope));
    let mut ticks = interval(push.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut socket = None;
    let mut failing = false;
    while {
        let running = stop.run_until_cancelled(ticks.tick()).await.is_some();
        let packets = lines.since(&telemetry.metrics.scoped(&scope));
        let sent = send(&mut socket, &push.target, &packets).await;
        if let (Err(why), false) = (&sent, failing) {
            tracing::warn!(target_address = ?push.target, %why, "metrics cannot be sent");
        }
        failing = sent.is_err();
        running
    } {}
}

/// A connected datagram socket.
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// Sends datagrams on the socket, which is opened when it is not there and dropped when it fails.
async fn send(socket: &mut Option<Socket>, target: &PushTarget, packets: &Packets) -> io::Result<()> {
    let open = match socket.take() {
        Some(open) => open,
        None => connect(&resolved(target, |name| env::var(name).ok())?).await?,
    };
    for packet in packets.iter() {
        match &open {
            Socket::Udp(udp) => udp.send(packet.as_bytes()).await?,
            Socket::Unix(unix) => unix.send(packet.as_bytes()).await?,
        };
    }
    *socket = Some(open);
    Ok(())
}

/// The address with the variables of the environment in their places.
fn resolved(target: &PushTarget, variable: impl Fn(&str) -> Option<String>) -> io::Result<PushTarget> {
    let value = |name: &str| variable(name).ok_or_else(|| io::Error::other(format!("${name} is not set in the environment")));
    match target {
        PushTarget::Variable(name) => match PushTarget::parse(&value(name)?).map_err(io::Error::other)? {
            PushTarget::Variable(_) => Err(io::Error::other(format!("${name} names another variable"))),
            address => Ok(address),
        },
        PushTarget::Udp(address) => match HOST_IP.iter().find(|written| address.contains(**written)) {
            Some(written) => Ok(PushTarget::Udp(address.replace(written, &value("HOST_IP")?).into())),
            None => Ok(target.clone()),
        },
        PushTarget::Unix(_) => Ok(target.clone()),
    }
}

async fn connect(target: &PushTarget) -> io::Result<Socket> {
    match target {
        PushTarget::Udp(address) => {
            let remote = tokio::net::lookup_host(&**address).await?.next().ok_or_else(|| io::Error::other("the host has no address"))?;
            let any: std::net::IpAddr =
                if remote.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
            let udp = UdpSocket::bind((any, 0)).await?;
            udp.connect(remote).await?;
            Ok(Socket::Udp(udp))
        }
        PushTarget::Unix(path) => {
            let unix = UnixDatagram::unbound()?;
            unix.connect(path)?;
            Ok(Socket::Unix(unix))
        }
        PushTarget::Variable(name) => Err(io::Error::other(format!("${name} was not read"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_where_consul_reads_them() {
        let variable = |name: &str| match name {
            "HOST_IP" => Some("10.0.0.9".to_owned()),
            "URL" => Some("udp://10.0.0.1:8125".to_owned()),
            "LOOP" => Some("$LOOP".to_owned()),
            _ => None,
        };
        let udp = |address: &str| PushTarget::Udp(address.into());
        let read = |target: PushTarget| resolved(&target, variable).map_err(|e| e.to_string());
        assert_eq!(read(PushTarget::Variable("URL".into())), Ok(udp("10.0.0.1:8125")));
        assert_eq!(read(udp("${HOST_IP}:8125")), Ok(udp("10.0.0.9:8125")));
        assert_eq!(read(udp("$HOST_IP:8125")), Ok(udp("10.0.0.9:8125")));
        assert_eq!(read(udp("$OTHER:8125")), Ok(udp("$OTHER:8125")));
        for (bad, why) in [("NONE", "not set"), ("LOOP", "another variable"), ("HOST_IP", "neither")] {
            assert!(read(PushTarget::Variable(bad.into())).unwrap_err().contains(why), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_receiver_that_comes_late_gets_what_comes_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dsd.sock");
        let (target, mut socket) = (PushTarget::Unix(path.clone()), None);
        let packets = Packets::of(["a:1|c".to_owned()]);
        assert!(send(&mut socket, &target, &packets).await.is_err());
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(&mut socket, &target, &packets).await.unwrap();
        let mut buffer = [0; 64];
        let read = receiver.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"a:1|c");
    }
}
