//! `GET /status.json`: all that is worth seeing at a glance, as one value. The status page shows it.
//!
//! Moments are texts of RFC 3339; counts are of this process, from its start, so that rates come from two answers.

mod balancing;
mod listener;

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;

pub use self::{
    balancing::{ClusterStatus, EndpointState, EndpointStatus, InFlight},
    listener::{IntentionsStatus, LegStatus, ListenerStatus, RouteStatus, RuleStatus},
};
use super::{AdminState, ready};
use crate::{
    model::{
        ingress::CertificatePair,
        listener::{Listener, Role},
    },
    snapshot::{Problem, Snapshot},
    telemetry::{self, metrics::Reload, refusals::Refused},
};

/// What a process is and does.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Its version.
    pub version: &'static str,
    /// The name of its host.
    pub host: &'static str,
    /// Its process id.
    pub pid: u32,
    /// When this was made: what the ages of everything else count from.
    #[serde(with = "time::serde::rfc3339")]
    pub now: OffsetDateTime,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    /// How long it has run, in seconds.
    pub uptime_seconds: f64,
    /// Whether it may be given work.
    pub ready: bool,
    /// What is missing before it is ready, in words.
    pub missing: Vec<String>,
    /// The identity of each sidecar; none of a reverse proxy.
    pub identities: Vec<IdentityStatus>,
    /// The certificates that clients of a reverse proxy are shown.
    pub certificates: Vec<CertificateStatus>,
    /// Where it listens, and all that belongs to each listener.
    pub listeners: Vec<ListenerStatus>,
    /// What was refused.
    pub refusals: RefusalsStatus,
    /// What it follows: `name`, `last_success`, `last_error` and `failures` in a row of each, as `/watches` has them.
    pub watches: serde_json::Value,
    /// The configuration in force, and how reading it anew fared.
    pub configuration: ConfigurationStatus,
}

/// Who a sidecar is.
#[derive(Debug, Serialize)]
pub struct IdentityStatus {
    /// The sidecar, by its proxy id.
    pub sidecar: String,
    /// Its service.
    pub service: String,
    /// The SPIFFE ID in its leaf.
    pub id: String,
    /// The leaf's serial number, hexadecimal.
    pub serial: String,
    /// How many roots it trusts.
    pub roots: usize,
    /// How long the leaf holds.
    #[serde(flatten)]
    pub validity: Validity,
}

/// A certificate of names.
#[derive(Debug, Serialize)]
pub struct CertificateStatus {
    /// The name of its files.
    pub name: String,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// How long it holds.
    #[serde(flatten)]
    pub validity: Validity,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Validity {
    /// From when on.
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    /// Until when.
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    /// For how long in all, in seconds.
    pub lifetime_seconds: i64,
    /// For how long yet, in seconds; negative once it is over.
    pub remaining_seconds: i64,
}

/// What was refused by this process.
#[derive(Debug, Serialize)]
pub struct RefusalsStatus {
    /// How often.
    pub total: u64,
    /// The last hundred, the newest first.
    pub last: Vec<Refused>,
}

/// Where the configuration stands.
#[derive(Debug, Serialize)]
pub struct ConfigurationStatus {
    /// Counts the snapshots of the process, from 1; 0 before the first.
    pub generation: u64,
    /// Since when the one in force is.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// The version of a reverse proxy's routes.
    pub version: Option<String>,
    /// What of it cannot be used, and what to do.
    pub problems: Vec<Problem>,
    /// How many settings have no effect; `/snapshot` lists them.
    pub ignored: usize,
    /// How reading each part of a reverse proxy's configuration anew fared.
    pub reloads: Vec<Reload>,
}

pub(super) async fn json(State(state): State<AdminState>) -> Json<Status> {
    Json(Status::of(&state))
}

impl Status {
    /// How things stand now.
    pub fn of(state: &AdminState) -> Self {
        let (snapshot, now, telemetry) = (state.snapshots.current(), OffsetDateTime::now_utc(), &state.telemetry);
        let (missing, (started, since_start)) = (ready::missing(state), telemetry.started);
        let (total, last) = telemetry.refusals.last();
        let (since, version) = telemetry.metrics.reloads.in_force();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            host: telemetry::hostname(),
            pid: std::process::id(),
            now,
            started: started.into(),
            uptime_seconds: since_start.elapsed().as_secs_f64(),
            ready: missing.is_empty(),
            missing,
            identities: identities(&snapshot, now),
            certificates: certificates(&snapshot, now),
            listeners: listener::all(state, &snapshot),
            refusals: RefusalsStatus { total, last },
            watches: (state.watches)(),
            configuration: ConfigurationStatus {
                generation: snapshot.generation,
                since,
                version,
                problems: snapshot.problems.clone(),
                ignored: snapshot.ignored.len(),
                reloads: telemetry.metrics.reloads.last(),
            },
        }
    }
}

impl Validity {
    /// Of two moments in seconds since the Unix epoch.
    fn new(not_before: i64, not_after: i64, now: OffsetDateTime) -> Self {
        let moment = |seconds| OffsetDateTime::from_unix_timestamp(seconds).ok();
        Self {
            not_before: moment(not_before),
            not_after: moment(not_after),
            lifetime_seconds: not_after.saturating_sub(not_before),
            remaining_seconds: not_after.saturating_sub(now.unix_timestamp()),
        }
    }
}

/// One identity for each sidecar: all its listeners have the same.
fn identities(snapshot: &Snapshot, now: OffsetDateTime) -> Vec<IdentityStatus> {
    let of = |listener: &Listener| {
        let identity = listener.identity.as_ref()?;
        Some(IdentityStatus {
            sidecar: listener.key.sidecar.to_string(),
            service: listener.service.to_string(),
            id: identity.leaf.id.to_string(),
            serial: identity.leaf.serial.clone(),
            roots: identity.roots.certificates.len(),
            validity: Validity::new(identity.leaf.not_before, identity.leaf.not_after, now),
        })
    };
    let mut identities: Vec<_> = snapshot.listeners.values().filter_map(|listener| of(listener)).collect();
    // Keys are sorted by sidecar.
    identities.dedup_by(|a, b| a.sidecar == b.sidecar);
    identities
}

fn certificates(snapshot: &Snapshot, now: OffsetDateTime) -> Vec<CertificateStatus> {
    let pairs = snapshot.listeners.values().filter_map(|listener| match &listener.role {
        Role::Ingress(ingress) => Some(&ingress.tls.as_ref()?.certificates.pairs),
        _ => None,
    });
    let of = |pair: &CertificatePair| CertificateStatus {
        name: pair.name.to_string(),
        names: pair.names.iter().map(ToString::to_string).collect(),
        validity: Validity::new(pair.not_before, pair.not_after, now),
    };
    pairs.flatten().map(|pair| of(pair)).collect()
}

#[cfg(test)]
mod tests;
