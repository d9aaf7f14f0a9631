//! What is told about the traffic: logs, metrics, the access log.

pub mod record;
