//! Whether a failed try is repeated, and after how long. Pure: who asks knows whether the request can be sent again at all (its body is still at hand and
//! nothing of the answer has left).

use std::time::Duration;

use super::outcome::Outcome;
use crate::model::route::{RetryOn, RetryPolicy};

/// The first back-off is drawn from less than this: Envoy's default.
const BASE: Duration = Duration::from_millis(25);
/// No back-off is longer: Envoy's default, ten times the base.
const LONGEST: Duration = Duration::from_millis(250);

/// What becomes of a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is repeated.
    Repeat {
        /// Why, in stable words for the log.
        why: &'static str,
        /// Whether the operator's policy asks for it: then it is one of the policy's `retries`.
        by_policy: bool,
        /// Whether the endpoint may have begun to work on it: then the retry budget ([`super::Breaker::retry`]) has to admit it.
        budgeted: bool,
        /// Whether to wait ([`backoff`]) before.
        pause: bool,
    },
    /// It stands; why, in stable words for the log.
    Stop(&'static str),
}

/// Decides about a try that ended with `outcome`.
///
/// A policy of the operator decides alone about what it covers: for every method, as in Envoy, and at most `retries` times, of which `made` have
/// happened. What it does not cover, or without one: whatever was certainly not processed (connect failure, refused stream, GOAWAY) is repeated for every
/// method, a break before the answer only for an `idempotent` one (RFC 9110 §9.2.2); timeouts and answers stand.
pub fn decide(policy: Option<&RetryPolicy>, made: u32, outcome: Outcome, idempotent: bool) -> Decision {
    let untouched = matches!(outcome, Outcome::ConnectFailure | Outcome::Unprocessed);
    // To wait for another endpoint would help nobody: this one was never reached.
    let pause = outcome != Outcome::ConnectFailure;
    match policy.and_then(|p| covered(p, outcome).map(|why| (p, why))) {
        Some((policy, why)) if made < policy.retries => Decision::Repeat { why, by_policy: true, budgeted: !untouched, pause },
        Some(_) => Decision::Stop("retries_exhausted"),
        None => match outcome {
            Outcome::ConnectFailure => Decision::Repeat { why: "not_connected", by_policy: false, budgeted: false, pause: false },
            Outcome::Unprocessed => Decision::Repeat { why: "not_processed", by_policy: false, budgeted: false, pause: false },
            Outcome::Reset if idempotent => Decision::Repeat { why: "idempotent", by_policy: false, budgeted: true, pause: false },
            Outcome::Reset => Decision::Stop("may_have_been_processed"),
            Outcome::Timeout => Decision::Stop("timeout"),
            Outcome::Answer { .. } | Outcome::Connected => Decision::Stop("answered"),
        },
    }
}

/// The condition of the policy that the outcome meets, in the word that Consul and Envoy have for it.
fn covered(policy: &RetryPolicy, outcome: Outcome) -> Option<&'static str> {
    if let Outcome::Answer { ratelimited: true, .. } = outcome {
        // The far Envoy asks not to be asked again; only this condition overrules it, as in Envoy.
        return policy.on.contains(&RetryOn::EnvoyRatelimited).then_some(word(RetryOn::EnvoyRatelimited));
    }
    if let Outcome::Answer { status, .. } = outcome
        && policy.statuses.contains(&status)
    {
        return Some("retriable-status-codes");
    }
    policy.on.iter().find(|on| meets(**on, outcome)).map(|on| word(*on))
}

fn meets(on: RetryOn, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Answer { status, grpc, .. } => match on {
            RetryOn::ServerError => (500..600).contains(&status),
            RetryOn::GatewayError => (502..=504).contains(&status),
            RetryOn::Retriable4xx => status == 409,
            RetryOn::Cancelled => grpc == Some(1),
            RetryOn::DeadlineExceeded => grpc == Some(4),
            RetryOn::ResourceExhausted => grpc == Some(8),
            RetryOn::Internal => grpc == Some(13),
            RetryOn::Unavailable => grpc == Some(14),
            RetryOn::EnvoyRatelimited | RetryOn::Reset | RetryOn::ConnectFailure | RetryOn::RefusedStream => false,
        },
        Outcome::Connected => false,
        // Whatever is no answer is covered by these three, as in Envoy.
        _ if matches!(on, RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset) => true,
        Outcome::ConnectFailure => on == RetryOn::ConnectFailure,
        Outcome::Unprocessed => on == RetryOn::RefusedStream,
        Outcome::Reset | Outcome::Timeout => false,
    }
}

fn word(on: RetryOn) -> &'static str {
    match on {
        RetryOn::ServerError => "5xx",
        RetryOn::GatewayError => "gateway-error",
        RetryOn::Reset => "reset",
        RetryOn::ConnectFailure => "connect-failure",
        RetryOn::EnvoyRatelimited => "envoy-ratelimited",
        RetryOn::Retriable4xx => "retriable-4xx",
        RetryOn::RefusedStream => "refused-stream",
        RetryOn::Cancelled => "cancelled",
        RetryOn::DeadlineExceeded => "deadline-exceeded",
        RetryOn::Internal => "internal",
        RetryOn::ResourceExhausted => "resource-exhausted",
        RetryOn::Unavailable => "unavailable",
    }
}

/// How long to wait before the `nth` repetition (1 is the first), where `draw` in [0, 1) is drawn at random: from 0 up to 25 ms, 75 ms, 175 ms, and never
/// more than 250 ms, as in Envoy.
pub fn backoff(nth: u32, draw: f64) -> Duration {
    let reach = BASE.saturating_mul(2u32.saturating_pow(nth).saturating_sub(1)).min(LONGEST);
    reach.mul_f64(draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests;
