#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;

use super::*;
use crate::{
    model::{balance::PassiveHealth, cluster::Health, listener::Address},
    proxy::guard::Outcome,
};

fn endpoint(n: usize, health: Health) -> Arc<Endpoint> {
    let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
    Arc::new(Endpoint { id: format!("node/{n}").into(), address, weight: 1, health, dial: None })
}

fn ten() -> Vec<Arc<Endpoint>> {
    (0..10).map(|n| endpoint(n, Health::Passing)).collect()
}

fn eject(cluster: &ClusterState, state: &Arc<EndpointState>, now: Instant) {
    (0..5).for_each(|_| drop(cluster.outliers.report(state, Outcome::Reset, &PassiveHealth::default(), now, || 0)));
    assert!(state.is_ejected(now));
}

#[test]
fn state_follows_the_id_through_snapshots_in_any_order() {
    let start = Instant::now();
    let cluster = ClusterState::new(start);
    let mut endpoints = ten();
    let first = cluster.follow(&endpoints, start);
    eject(&cluster, &first[3], start);
    let _request = ActiveRequest::new(first[4].clone());
    endpoints.reverse();
    endpoints.push(endpoint(10, Health::Passing));
    let second = cluster.follow(&endpoints, start + Duration::from_secs(1));
    assert_eq!(second.len(), 11);
    for (endpoint, state) in endpoints.iter().zip(&second) {
        assert_eq!(endpoint.id, state.id);
    }
    assert!(Arc::ptr_eq(&first[3], &second[6]) && second[6].is_ejected(start));
    assert_eq!(second[5].active(), 1);
}

#[test]
fn an_ejected_endpoint_that_is_put_back_is_still_ejected() {
    let start = Instant::now();
    let cluster = ClusterState::new(start);
    let states = cluster.follow(&ten(), start);
    eject(&cluster, &states[0], start);
    cluster.follow(&ten()[1..], start);
    assert_eq!(cluster.view(start), [], "what is gone is not shown");
    let back = cluster.follow(&ten(), start);
    assert!(back[0].is_ejected(start));
    assert_eq!(cluster.view(start).len(), 1);
    (1..10).for_each(|n| {
        (0..5).for_each(|_| drop(cluster.outliers.report(&back[n], Outcome::Reset, &PassiveHealth::default(), start, || 0)));
    });
    assert_eq!(cluster.view(start).len(), 1, "it counts for the share again");
}

#[test]
fn what_is_gone_is_forgotten_when_its_ejection_is_over() {
    let start = Instant::now();
    let cluster = ClusterState::new(start);
    let states = cluster.follow(&ten(), start);
    eject(&cluster, &states[0], start);
    cluster.follow(&[], start);
    assert_eq!(cluster.endpoints.lock().len(), 1, "only the ejected one is kept");
    let later = start + Duration::from_secs(30);
    cluster.follow(&[], later);
    assert_eq!(cluster.endpoints.lock().len(), 0);
    let back = cluster.follow(&ten(), later);
    assert!(!Arc::ptr_eq(&states[0], &back[0]));
}

#[test]
fn a_late_report_of_an_endpoint_that_is_gone_ejects_nobody() {
    let start = Instant::now();
    let cluster = ClusterState::new(start);
    let states = cluster.follow(&ten(), start);
    cluster.follow(&ten()[1..], start);
    (0..5).for_each(|_| drop(cluster.outliers.report(&states[0], Outcome::Reset, &PassiveHealth::default(), start, || 0)));
    assert!(!states[0].is_ejected(start));
}

#[test]
fn slow_start_counts_from_the_first_healthy_moment() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let cluster = ClusterState::new(start);
    let follow = |health, seconds| cluster.follow(&[endpoint(0, health)], at(seconds))[0].clone();
    let state = follow(Health::Critical, 0);
    assert_eq!(state.healthy_for(at(5)), Duration::ZERO);
    follow(Health::Passing, 5);
    follow(Health::Warning, 8);
    assert_eq!(state.healthy_for(at(9)), Duration::from_secs(4), "a snapshot does not begin it anew");
    follow(Health::Critical, 10);
    follow(Health::Passing, 12);
    assert_eq!(state.healthy_for(at(13)), Duration::from_secs(1));
}

#[test]
fn the_view_tells_who_why_and_for_how_long() {
    let start = Instant::now();
    let cluster = ClusterState::new(start);
    let states = cluster.follow(&ten(), start);
    eject(&cluster, &states[2], start);
    let now = start + Duration::from_secs(10);
    let expected = Ejected { endpoint: "node/2".into(), cause: Cause::Consecutive5xx, left: Duration::from_secs(20) };
    assert_eq!(cluster.view(now), [expected]);
    assert_eq!(cluster.view(start + Duration::from_secs(30)), []);
}

#[test]
fn a_request_counts_as_long_as_its_guard_lives() {
    let cluster = ClusterState::new(Instant::now());
    let state = cluster.follow(&ten(), Instant::now())[0].clone();
    let (one, two) = (ActiveRequest::new(state.clone()), ActiveRequest::new(state.clone()));
    assert_eq!(state.active(), 2);
    drop((one, two));
    assert_eq!(state.active(), 0);
}
