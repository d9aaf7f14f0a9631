#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

use futures_util::{FutureExt, future::join_all};
use proptest::prelude::*;

use super::*;

fn limits(connections: u32, pending: u32, requests: u32) -> Limits {
    Limits { connections, pending, requests, ..Limits::default() }
}

/// Counts what is inside and remembers the most that ever was.
#[derive(Default)]
struct Peak {
    inside: AtomicU32,
    most: AtomicU32,
}

impl Peak {
    fn enter(&self) {
        self.most.fetch_max(self.inside.fetch_add(1, SeqCst) + 1, SeqCst);
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, SeqCst);
    }
}

#[test]
fn requests_beyond_the_limit_overflow_until_one_ends() {
    let breaker = Arc::new(Breaker::default());
    let two = limits(9, 9, 2);
    let (first, _second) = (breaker.request(&two).unwrap(), breaker.request(&two).unwrap());
    assert_eq!(breaker.request(&two).err(), Some(Overflow::Requests));
    drop(first);
    assert!(breaker.request(&two).is_ok());
}

#[test]
fn connections_beyond_the_limit_overflow_until_one_ends() {
    let breaker = Arc::new(Breaker::default());
    let one = limits(1, 9, 9);
    let first = breaker.connection(&one).unwrap();
    assert_eq!(breaker.connection(&one).err(), Some(Overflow::Connections));
    drop(first);
    assert!(breaker.connection(&one).is_ok());
}

#[test]
fn the_retry_budget_is_a_share_of_the_requests_and_never_below_three() {
    let breaker = Arc::new(Breaker::default());
    let limits = Limits::default();
    let few: Vec<_> = std::iter::from_fn(|| breaker.retry(&limits)).take(10).collect();
    assert_eq!(few.len(), 3, "without any request");
    drop(few);
    let _requests: Vec<_> = (0..50).map(|_| breaker.request(&limits).unwrap()).collect();
    let many: Vec<_> = std::iter::from_fn(|| breaker.retry(&limits)).take(50).collect();
    assert_eq!(many.len(), 10, "20 % of 50");
    drop(many);
    assert_eq!(breaker.load().retries, 0);
}

/// Waits until both threads have come here, `times` counting them all.
fn meet(times: &AtomicU32, round: u32) {
    times.fetch_add(1, SeqCst);
    for turn in 1u32.. {
        if times.load(SeqCst) >= 2 * round {
            return;
        }
        if turn % 2_000 == 0 {
            thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

/// Two threads ask for the one free place at the same moment, and keep what they get until both have asked.
fn race<S>(take: impl Fn() -> Option<S> + Sync) {
    const ROUNDS: u32 = 1_000;
    let (met, given) = (AtomicU32::new(0), AtomicU32::new(0));
    let run = || {
        for round in 1..=ROUNDS {
            meet(&met, 2 * round - 1);
            let slot = take();
            given.fetch_add(u32::from(slot.is_some()), SeqCst);
            meet(&met, 2 * round);
        }
    };
    thread::scope(|scope| {
        scope.spawn(run);
        scope.spawn(run);
    });
    assert_eq!(given.into_inner(), ROUNDS, "one place in each round");
}

#[test]
fn no_race_lifts_a_count_above_its_limit() {
    let breaker = Arc::new(Breaker::default());
    let limits = limits(1, 0, 1);
    race(|| breaker.request(&limits).ok());
    race(|| breaker.connection(&limits).ok());
    let _two = [breaker.retry(&limits), breaker.retry(&limits)];
    race(|| breaker.retry(&limits));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_queue_for_connections_and_all_get_through() {
    let breaker = Arc::new(Breaker::default());
    let limits = limits(3, 1_000, 1_000);
    let peak = Arc::new(Peak::default());
    let all = (0..500).map(|_| {
        let (breaker, peak) = (breaker.clone(), peak.clone());
        tokio::spawn(async move {
            let slot = breaker.exclusive_request(&limits, None).await.unwrap();
            peak.enter();
            tokio::task::yield_now().await;
            peak.leave();
            drop(slot);
        })
    });
    for done in join_all(all).await {
        done.unwrap();
    }
    assert_eq!(peak.most.load(SeqCst), 3);
    assert_eq!(breaker.load(), Load::default());
}

#[tokio::test]
async fn one_runs_one_waits_the_rest_overflow() {
    let breaker = Arc::new(Breaker::default());
    let limits = limits(1, 1, 9);
    let first = breaker.exclusive_request(&limits, None).await.unwrap();
    let mut second = Box::pin(breaker.exclusive_request(&limits, None));
    assert!(second.as_mut().now_or_never().is_none(), "it waits");
    assert_eq!(breaker.load().pending, 1);
    assert_eq!(breaker.exclusive_request(&limits, None).await.err(), Some(NotAdmitted::Overflow(Overflow::Pending)));
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(breaker.load(), Load::default());
}

#[tokio::test]
async fn who_waits_is_served_in_order_and_nobody_overtakes() {
    let breaker = Arc::new(Breaker::default());
    let limits = limits(1, 9, 9);
    let first = breaker.exclusive_request(&limits, None).await.unwrap();
    let mut second = Box::pin(breaker.exclusive_request(&limits, None));
    let mut third = Box::pin(breaker.exclusive_request(&limits, None));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(breaker.exclusive_request(&limits, None).now_or_never().is_none(), "a newcomer waits behind them");
    assert!(third.as_mut().now_or_never().is_none());
    let second = second.as_mut().now_or_never().expect("it is its turn").unwrap();
    drop(second);
    assert!(third.now_or_never().expect("it is its turn").is_ok());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_the_deadline_and_leaves_nothing_behind() {
    let breaker = Arc::new(Breaker::default());
    let limits = limits(1, 9, 9);
    let first = breaker.exclusive_request(&limits, None).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    assert_eq!(breaker.exclusive_request(&limits, Some(deadline)).await.err(), Some(NotAdmitted::Deadline));
    assert_eq!(Instant::now(), deadline);
    assert_eq!(breaker.load().pending, 0);
    drop(first);
    assert!(breaker.exclusive_request(&limits, None).now_or_never().is_some(), "the place is free");
}

#[tokio::test]
async fn the_limit_of_requests_holds_behind_the_gate_and_frees_the_connection() {
    let breaker = Arc::new(Breaker::default());
    let first = breaker.exclusive_request(&limits(2, 9, 1), None).await.unwrap();
    for _ in 0..5 {
        let overflow = breaker.exclusive_request(&limits(2, 9, 1), None).now_or_never().expect("nothing queues");
        assert_eq!(overflow.err(), Some(NotAdmitted::Overflow(Overflow::Requests)));
    }
    drop(first);
    assert!(breaker.exclusive_request(&limits(2, 9, 1), None).await.is_ok());
}

#[tokio::test]
async fn no_connections_is_an_overflow_at_once() {
    let breaker = Arc::new(Breaker::default());
    assert_eq!(breaker.exclusive_request(&limits(0, 9, 9), None).await.err(), Some(NotAdmitted::Overflow(Overflow::Connections)));
}

proptest! {
    /// One after the other, limits changing all the time: whoever finds room is let in at once, and nobody else; giving up the wait leaves no trace.
    #[test]
    fn a_gate_that_changes_its_size_lets_in_exactly_who_has_room(steps in prop::collection::vec((1u32..6, any::<bool>()), 1..200)) {
        let breaker = Arc::new(Breaker::default());
        let mut inside = Vec::new();
        for (size, comes) in steps {
            if comes {
                let room = (inside.len() as u32) < size;
                let slot = breaker.exclusive_request(&limits(size, 9, 99), None).now_or_never();
                prop_assert_eq!(slot.is_some(), room);
                inside.extend(slot.map(Result::unwrap));
            } else {
                inside.pop();
            }
            prop_assert_eq!(breaker.load().requests as usize, inside.len());
            prop_assert_eq!(breaker.load().pending, 0);
        }
    }
}
