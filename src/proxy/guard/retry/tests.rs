#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

const ALL: [RetryOn; 12] = [
    RetryOn::ServerError,
    RetryOn::GatewayError,
    RetryOn::Reset,
    RetryOn::ConnectFailure,
    RetryOn::EnvoyRatelimited,
    RetryOn::Retriable4xx,
    RetryOn::RefusedStream,
    RetryOn::Cancelled,
    RetryOn::DeadlineExceeded,
    RetryOn::Internal,
    RetryOn::ResourceExhausted,
    RetryOn::Unavailable,
];

fn answer(status: u16) -> Outcome {
    Outcome::Answer { status, grpc: None, ratelimited: false }
}

fn grpc(code: u16) -> Outcome {
    Outcome::Answer { status: 200, grpc: Some(code), ratelimited: false }
}

fn on(on: &[RetryOn]) -> RetryPolicy {
    RetryPolicy { retries: 1, on: on.to_vec(), statuses: Vec::new() }
}

/// The conditions that repeat a try on their own.
fn conditions(outcome: Outcome) -> Vec<&'static str> {
    let repeats =
        |condition: &&RetryOn| matches!(decide(Some(&on(&[**condition])), 0, outcome, false), Decision::Repeat { by_policy: true, .. });
    ALL.iter().filter(repeats).map(|condition| word(*condition)).collect()
}

#[test]
fn each_condition_covers_what_it_covers_in_envoy() {
    let table: [(Outcome, &[&str]); 17] = [
        (answer(200), &[]),
        (answer(404), &[]),
        (answer(409), &["retriable-4xx"]),
        (answer(500), &["5xx"]),
        (answer(501), &["5xx"]),
        (answer(502), &["5xx", "gateway-error"]),
        (answer(503), &["5xx", "gateway-error"]),
        (answer(504), &["5xx", "gateway-error"]),
        (answer(599), &["5xx"]),
        (grpc(1), &["cancelled"]),
        (grpc(4), &["deadline-exceeded"]),
        (grpc(8), &["resource-exhausted"]),
        (grpc(13), &["internal"]),
        (grpc(14), &["unavailable"]),
        (Outcome::ConnectFailure, &["5xx", "gateway-error", "reset", "connect-failure"]),
        (Outcome::Unprocessed, &["5xx", "gateway-error", "reset", "refused-stream"]),
        (Outcome::Reset, &["5xx", "gateway-error", "reset"]),
    ];
    for (outcome, expected) in table {
        assert_eq!(conditions(outcome), expected, "{outcome:?}");
    }
    assert_eq!(conditions(Outcome::Timeout), conditions(Outcome::Reset));
    assert_eq!(conditions(grpc(2)), [""; 0], "gRPC UNKNOWN");
}

#[test]
fn a_rate_limited_answer_is_repeated_only_on_its_own_condition() {
    let limited = Outcome::Answer { status: 503, grpc: None, ratelimited: true };
    assert_eq!(conditions(limited), ["envoy-ratelimited"]);
    let by_status = RetryPolicy { statuses: vec![503], ..on(&[]) };
    assert_eq!(decide(Some(&by_status), 0, limited, true), Decision::Stop("answered"));
}

#[test]
fn statuses_are_conditions_too() {
    let policy = RetryPolicy { statuses: vec![418], ..on(&[]) };
    let repeat = Decision::Repeat { why: "retriable-status-codes", by_policy: true, budgeted: true, pause: true };
    assert_eq!(decide(Some(&policy), 0, answer(418), false), repeat);
    assert_eq!(decide(Some(&policy), 0, answer(503), true), Decision::Stop("answered"));
}

#[test]
fn without_a_policy_only_what_is_safe_is_repeated() {
    let repeat = |why, budgeted| Decision::Repeat { why, by_policy: false, budgeted, pause: false };
    for idempotent in [false, true] {
        assert_eq!(decide(None, 0, Outcome::ConnectFailure, idempotent), repeat("not_connected", false));
        assert_eq!(decide(None, 0, Outcome::Unprocessed, idempotent), repeat("not_processed", false));
        assert_eq!(decide(None, 0, Outcome::Timeout, idempotent), Decision::Stop("timeout"));
        assert_eq!(decide(None, 0, answer(503), idempotent), Decision::Stop("answered"));
    }
    assert_eq!(decide(None, 0, Outcome::Reset, true), repeat("idempotent", true));
    assert_eq!(decide(None, 0, Outcome::Reset, false), Decision::Stop("may_have_been_processed"));
}

#[test]
fn a_policy_decides_alone_about_what_it_covers() {
    let policy = on(&[RetryOn::Reset]);
    assert!(matches!(
        decide(Some(&policy), 0, Outcome::Reset, false),
        Decision::Repeat { by_policy: true, budgeted: true, pause: true, .. }
    ));
    assert_eq!(decide(Some(&policy), 1, Outcome::Reset, true), Decision::Stop("retries_exhausted"));
    assert_eq!(decide(Some(&policy), 1, Outcome::ConnectFailure, true), Decision::Stop("retries_exhausted"));
    let other = on(&[RetryOn::Retriable4xx]);
    assert!(matches!(decide(Some(&other), 0, Outcome::ConnectFailure, false), Decision::Repeat { by_policy: false, .. }));
    assert_eq!(decide(Some(&other), 0, Outcome::Reset, false), Decision::Stop("may_have_been_processed"));
}

#[test]
fn backing_off_reaches_further_each_time_up_to_the_cap() {
    let reach = |nth| backoff(nth, 1.0).as_millis();
    assert_eq!([1, 2, 3, 4, 5, 40, u32::MAX].map(reach), [25, 75, 175, 250, 250, 250, 250]);
    assert_eq!(backoff(3, 0.0), Duration::ZERO);
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (100u16..600, proptest::option::of(0u16..20), any::<bool>()).prop_map(|(status, grpc, ratelimited)| Outcome::Answer {
            status,
            grpc,
            ratelimited
        }),
        Just(Outcome::ConnectFailure),
        Just(Outcome::Unprocessed),
        Just(Outcome::Reset),
        Just(Outcome::Timeout),
    ]
}

proptest! {
    /// Whatever the endpoint may have worked on is repeated for a method that is not idempotent only when the operator asked for it, and within the
    /// number he gave.
    #[test]
    fn nothing_is_done_twice_unasked(
        outcome in any_outcome(),
        conditions in prop::collection::vec(prop::sample::select(ALL.to_vec()), 0..4),
        retries in 0u32..4,
        made in 0u32..6,
    ) {
        let policy = RetryPolicy { retries, on: conditions, statuses: vec![503] };
        if let Decision::Repeat { by_policy, budgeted, .. } = decide(Some(&policy), made, outcome, false) {
            prop_assert!(by_policy || matches!(outcome, Outcome::ConnectFailure | Outcome::Unprocessed));
            prop_assert!(!by_policy || made < retries);
            prop_assert_eq!(budgeted, !matches!(outcome, Outcome::ConnectFailure | Outcome::Unprocessed));
        }
    }

    #[test]
    fn a_back_off_is_within_its_reach(nth in any::<u32>(), draw in 0.0f64..1.0) {
        prop_assert!(backoff(nth, draw) <= LONGEST);
    }
}
