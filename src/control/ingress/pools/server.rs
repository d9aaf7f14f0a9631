//! One server: what it speaks, and whether it is healthy. Shared by all pools that ask the same of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{
    detect::detect,
    dial::{Dialer, Failure},
    notes::{Note, Notes},
    observed::Observed,
    probe,
};
use crate::model::{
    ingress::pool::{HealthCheck, Probe, ProxyHeader, Scheme, ServerTls},
    listener::Address,
};

/// A server that passes a bare connection is looked at again this often, since that says nothing of what it speaks.
const LOOK_AGAIN: u32 = 30;
/// The shortest pause between two probes, whatever the file says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// A server, by all that is asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// Its name as configured, without the port.
    pub name: Arc<str>,
    /// What is spoken; `None` is found out.
    pub scheme: Option<Scheme>,
    /// How TLS to it is checked.
    pub tls: Arc<ServerTls>,
    /// The PROXY header that connections to it begin with.
    pub proxy_header: Option<ProxyHeader>,
    /// How it is probed.
    pub check: HealthCheck,
}

impl Server {
    /// `Host` of probes, and what it is called in the log.
    pub fn host(&self) -> String {
        match &self.address {
            Address::Tcp(address) => match self.name.parse() {
                Ok(ip) => SocketAddr::new(ip, address.port()).to_string(),
                Err(_) => format!("{}:{}", self.name, address.port()),
            },
            Address::Unix(_) => self.name.to_string(),
        }
    }

    /// Its name and address, for the log and for metrics.
    pub fn label(&self) -> String {
        match &self.address {
            Address::Tcp(address) if self.name.parse() == Ok(address.ip()) => address.to_string(),
            Address::Tcp(address) => format!("{}:{}/{}", self.name, address.port(), address.ip()),
            Address::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What it speaks.
    pub scheme: Scheme,
    /// Whether it may be chosen.
    pub healthy: bool,
    /// Whether it was asked already.
    pub settled: bool,
}

impl Judgement {
    /// Before anything was asked: healthy, so that a restart is no outage.
    pub fn first(scheme: Option<Scheme>) -> Self {
        Self { scheme: scheme.unwrap_or(Scheme::Http), healthy: true, settled: false }
    }
}

/// Probes in a row. The first one decides alone, later ones must repeat themselves.
#[derive(Debug, Default)]
struct Standing {
    healthy: Option<bool>,
    /// Probes in a row that say the contrary.
    contrary: u32,
}

impl Standing {
    /// Notes a probe; gives whether the server is healthy.
    fn note(&mut self, passed: bool, check: &HealthCheck) -> bool {
        let healthy = *self.healthy.get_or_insert(passed);
        if healthy == passed {
            self.contrary = 0;
            return healthy;
        }
        self.contrary += 1;
        let enough = if passed { check.healthy_after } else { check.unhealthy_after };
        if self.contrary >= enough {
            (self.healthy, self.contrary) = (Some(passed), 0);
            return passed;
        }
        healthy
    }
}

/// Probes a server until it is dropped. The first probe starts at once.
pub async fn watch(server: Server, now: Arc<Observed<Judgement>>, notes: Arc<Notes>) {
    let label = server.label();
    let note = notes.note("servers", label.clone());
    let dialer = match Dialer::new(server.address.clone(), &server.name, &server.tls, server.proxy_header) {
        Ok(dialer) => dialer,
        Err(why) => {
            note.set(
                format!("a certificate or key for TLS to it cannot be used: {why}"),
                "correct `tls_ca`, or the client certificate and key",
            );
            return now.set(Judgement { healthy: false, settled: true, ..Judgement::first(server.scheme) });
        }
    };
    let host = server.host();
    let mut spoken = server.scheme;
    let mut standing = Standing::default();
    for probes in 0_u32.. {
        let again = server.check.probe == Probe::Tcp && server.scheme.is_none() && probes.is_multiple_of(LOOK_AGAIN);
        let outcome = attempt(&server, &dialer, &host, &mut spoken, again).await;
        let healthy = standing.note(outcome.is_ok(), &server.check);
        tell(&note, &outcome);
        let before = now.get();
        let next = Judgement { scheme: spoken.unwrap_or(before.scheme), healthy, settled: true };
        if before.settled && before.scheme != next.scheme {
            info!(server = label, was = ?before.scheme, speaks = ?next.scheme, "a server speaks something else");
        } else if !before.settled && server.scheme.is_none() {
            debug!(server = label, speaks = ?next.scheme, "what a server speaks");
        }
        match &outcome {
            Err(why) if before.healthy && !healthy => warn!(server = label, %why, "a server is unhealthy"),
            Ok(()) if !before.healthy && healthy => info!(server = label, "a server is healthy again"),
            _ => {}
        }
        now.set(next);
        // Servers that were started together drift apart.
        sleep(server.check.interval.max(SHORTEST_PAUSE).mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

/// One probe. What is spoken is found out before the first one, and again after one that failed.
async fn attempt(server: &Server, dialer: &Dialer, host: &str, spoken: &mut Option<Scheme>, again: bool) -> Result<(), Failure> {
    let HealthCheck { probe, timeout, .. } = &server.check;
    let (path, asked) = match probe {
        Probe::Http { path, host: asked, .. } => (path.as_ref(), asked.as_deref().unwrap_or(host)),
        _ => ("/", host),
    };
    let known = *spoken;
    if known.is_none() || again {
        *spoken = Some(detect(dialer, asked, path, *timeout).await.or_else(|why| known.ok_or(why))?);
    }
    let scheme = spoken.unwrap_or(Scheme::Http);
    let outcome = probe::ask(dialer, scheme, probe, host, *timeout).await;
    let may_differ = server.scheme.is_none() && known.is_some() && !matches!(outcome, Ok(()) | Err(Failure::Unreachable(_)));
    if may_differ
        && let Ok(other) = detect(dialer, asked, path, *timeout).await
        && other != scheme
    {
        *spoken = Some(other);
        return probe::ask(dialer, other, probe, host, *timeout).await;
    }
    outcome
}

/// A certificate that nobody vouches for stays so until somebody acts: that is a problem, not a server that is down.
fn tell(note: &Note, outcome: &Result<(), Failure>) {
    match outcome {
        Err(why @ Failure::Unverified(_)) => note.set(
            why.to_string(),
            "name its CA by `tls_ca`, or the name in its certificate by `tls_server_name`, or do without verification by `tls_verify: false`",
        ),
        _ => note.clear(),
    }
}
