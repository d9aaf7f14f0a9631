//! What is known: inputs come in, an immutable [`Snapshot`] comes out.
//!
//! `compile` is pure. It isolates trouble part by part: one bad upstream never holds back a rotated leaf or a new deny.
//! `publish` swaps one pointer; readers never wait.

mod check;
mod compile;
mod inputs;
mod problem;
mod publish;

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

pub(crate) use self::check::leaf as leaf_fits;
pub use self::{
    compile::{Compiled, compile},
    inputs::{Credentials, IngressInputs, Inputs, PoolServices, SidecarInputs, TokenInputs, UpstreamInputs},
    problem::{Ignored, Problem},
    publish::{Publisher, Status, Subscriber, channel},
};
use crate::model::{
    listener::{Listener, ListenerKey},
    metrics::MetricsConfig,
};

/// Everything that decides where a byte may go, at one moment. Immutable and complete.
#[derive(Debug, Default, Serialize)]
pub struct Snapshot {
    /// Counts the snapshots of this process, from 1.
    pub generation: u64,
    /// The listeners that should exist, each with all that it needs.
    pub listeners: BTreeMap<ListenerKey, Arc<Listener>>,
    /// Where the metrics of each sidecar go.
    pub metrics: BTreeMap<Arc<str>, Arc<MetricsConfig>>,
    /// What could not be used, and what to do about it.
    pub problems: Vec<Problem>,
    /// What was said and means nothing here.
    pub ignored: Vec<Ignored>,
}
