#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, thread};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{
        cluster::{Endpoint, Health},
        listener::Address,
    },
    proxy::guard::ClusterState,
};

const SECOND: Duration = Duration::from_secs(1);
const FAILED: Outcome = Outcome::Answer { status: 500, grpc: None, ratelimited: false };
const SERVED: Outcome = Outcome::Answer { status: 200, grpc: None, ratelimited: false };

/// A cluster of so many healthy endpoints, and its time.
struct Scene {
    cluster: ClusterState,
    hosts: Vec<Arc<EndpointState>>,
    policy: PassiveHealth,
    start: Instant,
}

impl Scene {
    fn new(hosts: usize) -> Self {
        let start = Instant::now();
        let cluster = ClusterState::new(start);
        let endpoints: Vec<_> = (0..hosts).map(endpoint).collect();
        Self { hosts: cluster.follow(&endpoints, start), cluster, policy: PassiveHealth::default(), start }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + SECOND.mul_f64(seconds)
    }

    fn report(&self, host: usize, outcome: Outcome, seconds: f64) {
        self.cluster.outliers.report(&self.hosts[host], outcome, &self.policy, self.at(seconds), || 0);
    }

    fn fail(&self, host: usize, times: u32, seconds: f64) {
        (0..times).for_each(|_| self.report(host, FAILED, seconds));
    }

    fn is_ejected(&self, host: usize, seconds: f64) -> bool {
        self.hosts[host].is_ejected(self.at(seconds))
    }

    fn ejected(&self, seconds: f64) -> usize {
        (0..self.hosts.len()).filter(|host| self.is_ejected(*host, seconds)).count()
    }
}

fn endpoint(n: usize) -> Arc<Endpoint> {
    let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
    Arc::new(Endpoint { id: format!("node/{n}").into(), address, weight: 1, health: Health::Passing, dial: None })
}

#[test]
fn the_fifth_failure_in_a_row_ejects_until_the_first_tick_after_30_s() {
    let scene = Scene::new(10);
    scene.fail(3, 4, 1.0);
    assert_eq!(scene.ejected(1.0), 0);
    scene.fail(3, 1, 3.0);
    assert_eq!((scene.ejected(3.0), scene.is_ejected(3, 3.0)), (1, true));
    assert!(scene.is_ejected(3, 33.0) && scene.is_ejected(3, 39.999), "30 s are over, but there was no tick yet");
    assert!(!scene.is_ejected(3, 40.0));
}

#[test]
fn a_success_begins_the_row_anew() {
    let scene = Scene::new(10);
    scene.fail(0, 4, 1.0);
    scene.report(0, SERVED, 1.0);
    scene.fail(0, 4, 1.0);
    assert_eq!(scene.ejected(1.0), 0);
    scene.fail(0, 1, 1.0);
    assert_eq!(scene.ejected(1.0), 1);
}

#[test]
fn what_is_no_answer_counts_and_a_client_error_does_not() {
    let answer = |status, grpc| Outcome::Answer { status, grpc, ratelimited: false };
    let table = [
        (answer(500, None), true),
        (answer(599, None), true),
        (answer(200, Some(14)), true),
        (answer(200, Some(12)), true),
        (answer(200, Some(99)), true),
        (Outcome::ConnectFailure, true),
        (Outcome::Unprocessed, true),
        (Outcome::Reset, true),
        (Outcome::Timeout, true),
        (Outcome::Connected, false),
        (answer(200, None), false),
        (answer(404, None), false),
        (answer(429, None), false),
        (answer(200, Some(0)), false),
        (answer(200, Some(5)), false),
    ];
    for (outcome, counts) in table {
        let scene = Scene::new(10);
        scene.fail(0, 4, 1.0);
        scene.report(0, outcome, 1.0);
        assert_eq!(scene.is_ejected(0, 1.0), counts, "{outcome:?}");
    }
}

#[test]
fn gateway_failures_are_counted_beside() {
    let scene = Scene::new(10);
    scene.report(0, Outcome::Reset, 1.0);
    scene.report(0, Outcome::Timeout, 1.0);
    assert_eq!(scene.hosts[0].gateway_failures(), 2);
    scene.report(0, FAILED, 1.0);
    assert_eq!(scene.hosts[0].gateway_failures(), 0, "a 500 is none");
}

#[test]
fn ten_percent_of_three_are_none_and_of_ten_one() {
    for (hosts, ejected) in [(1, 0), (2, 0), (3, 0), (9, 0), (10, 1), (19, 1), (20, 2)] {
        let scene = Scene::new(hosts);
        (0..hosts).for_each(|host| scene.fail(host, 20, 1.0));
        assert_eq!(scene.ejected(1.0), ejected, "of {hosts}");
    }
    let scene = Scene { policy: PassiveHealth { max_ejection_percent: 100, ..PassiveHealth::default() }, ..Scene::new(2) };
    (0..2).for_each(|host| scene.fail(host, 5, 1.0));
    assert_eq!(scene.ejected(1.0), 2);
}

#[test]
fn a_row_that_could_not_eject_begins_anew() {
    let mut scene = Scene::new(2);
    scene.fail(0, 5, 1.0);
    scene.policy.max_ejection_percent = 50;
    scene.fail(0, 4, 1.0);
    assert_eq!(scene.ejected(1.0), 0);
    scene.fail(0, 1, 1.0);
    assert_eq!(scene.ejected(1.0), 1);
}

#[test]
fn each_ejection_lasts_longer_up_to_300_s_and_calm_intervals_forgive() {
    let scene = Scene::new(10);
    let mut now = 0.0;
    for lasts in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        scene.fail(0, 5, now);
        let end = now + f64::from(lasts);
        assert!(scene.is_ejected(0, end - 0.001) && !scene.is_ejected(0, end), "{lasts} s");
        now = end;
    }
    // Ten times the base; after six calm intervals four times, and this one makes five.
    scene.fail(0, 5, now + 60.0);
    assert!(scene.is_ejected(0, now + 60.0 + 149.0) && !scene.is_ejected(0, now + 60.0 + 150.0));
    // After all the calm in the world it begins with the base again.
    scene.fail(0, 5, now + 10_000.0);
    assert!(scene.is_ejected(0, now + 10_029.0) && !scene.is_ejected(0, now + 10_030.0));
}

#[test]
fn a_base_above_300_s_holds() {
    let scene = Scene { policy: PassiveHealth { base_ejection: SECOND * 400, ..PassiveHealth::default() }, ..Scene::new(10) };
    scene.fail(0, 5, 0.0);
    assert!(scene.is_ejected(0, 399.0) && !scene.is_ejected(0, 400.0));
}

#[test]
fn what_was_in_flight_at_the_ejection_says_nothing_new() {
    let scene = Scene::new(10);
    scene.fail(0, 9, 0.0);
    assert!(!scene.is_ejected(0, 30.0));
    scene.fail(0, 1, 30.0);
    assert_eq!(scene.ejected(30.0), 0, "the four failures after the ejection do not count");
}

#[test]
fn the_draw_decides_and_is_made_only_when_an_ejection_is_at_stake() {
    for (draw, enforcing, ejected) in [(0, 100, true), (99, 100, true), (29, 30, true), (30, 30, false), (0, 0, false)] {
        let scene = Scene::new(10);
        let policy = PassiveHealth { enforcing, ..scene.policy };
        let report = |draw: &dyn Fn() -> u32| scene.cluster.outliers.report(&scene.hosts[0], FAILED, &policy, scene.start, draw);
        (0..4).for_each(|_| assert_eq!(report(&|| panic!("nothing is at stake")), []));
        assert_eq!(report(&|| draw) == [Cause::Consecutive5xx], ejected, "{draw} of {enforcing}");
        assert_eq!(scene.is_ejected(0, 0.0), ejected, "{draw} of {enforcing}");
    }
}

#[test]
fn a_success_rate_far_below_the_others_ejects_at_the_end_of_the_interval() {
    let scene = Scene::new(10);
    for host in 0..10 {
        for n in 0..100 {
            scene.report(host, if host == 7 && n % 2 == 0 { FAILED } else { SERVED }, 4.0);
        }
    }
    scene.report(0, SERVED, 9.9);
    assert_eq!(scene.ejected(9.9), 0);
    scene.report(0, SERVED, 12.0);
    assert_eq!((scene.ejected(12.0), scene.is_ejected(7, 39.999)), (1, true));
    assert!(!scene.is_ejected(7, 40.0), "30 s from the tick at 10 s");
    assert_eq!(scene.cluster.view(scene.at(12.0))[0].cause, Cause::SuccessRate);
}

#[test]
fn success_rates_are_not_compared_with_little_traffic() {
    for (hosts, requests) in [(4, 100), (10, 99)] {
        let scene = Scene { policy: PassiveHealth { max_ejection_percent: 100, ..PassiveHealth::default() }, ..Scene::new(hosts) };
        for host in 0..hosts {
            (0..requests).for_each(|n| scene.report(host, if host == 0 && n % 2 == 0 { FAILED } else { SERVED }, 4.0));
        }
        scene.report(1, SERVED, 10.0);
        assert_eq!(scene.ejected(10.0), 0, "{hosts} endpoints with {requests} requests");
    }
}

#[test]
fn an_interval_starts_its_counts_anew() {
    let scene = Scene::new(10);
    for interval in 0..2 {
        for host in 0..10 {
            (0..60)
                .for_each(|n| scene.report(host, if host == 0 && n % 2 == 0 { FAILED } else { SERVED }, f64::from(interval) * 10.0 + 5.0));
        }
    }
    scene.report(1, SERVED, 20.0);
    assert_eq!(scene.ejected(20.0), 0, "60 requests in each of two intervals are not 100 in one");
}

#[test]
fn racing_reports_never_eject_more_than_allowed() {
    let scene = Scene { policy: PassiveHealth { max_ejection_percent: 25, ..PassiveHealth::default() }, ..Scene::new(20) };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..200).for_each(|n| scene.fail(n % 20, 5, 1.0)));
        }
    });
    assert_eq!(scene.ejected(1.0), 5);
}

proptest! {
    /// Any history: an ejection never exceeds the share, needs a full row of failures, and ends in time.
    #[test]
    fn any_history_keeps_the_rules(
        hosts in 1usize..30,
        percent in 0u32..=100,
        steps in prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.8), 0u64..4_000), 1..400),
    ) {
        let scene = Scene { policy: PassiveHealth { max_ejection_percent: percent, ..PassiveHealth::default() }, ..Scene::new(hosts) };
        let (mut row, mut now, mut last_end) = (vec![0; hosts], 0.0, 0.0_f64);
        for (host, fails, millis) in steps {
            now += millis as f64 / 1000.0;
            let host = host.index(hosts);
            let (before, was) = (scene.ejected(now), scene.is_ejected(host, now));
            scene.report(host, if fails { FAILED } else { SERVED }, now);
            row[host] = if was || !fails { 0 } else { row[host] + 1 };
            if scene.ejected(now) > before {
                prop_assert!(scene.is_ejected(host, now) && row[host] >= 5);
                prop_assert!(scene.ejected(now) * 100 <= hosts * percent as usize);
                last_end = last_end.max(now + 310.0);
                row[host] = 0;
            } else if row[host] >= 5 {
                prop_assert!((before + 1) * 100 > hosts * percent as usize, "there was room");
                row[host] = 0;
            }
        }
        prop_assert_eq!(scene.ejected(last_end), 0);
    }
}
