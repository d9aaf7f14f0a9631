//! The promises that policies make, over endpoints as a cluster has them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::model::{
    balance::BalancePolicy::{self, *},
    cluster::{Endpoint, Health},
    listener::Address,
};

const RING: BalancePolicy = RingHash { min: 1024, max: 8 << 20 };
const ALL: [BalancePolicy; 5] = [RoundRobin, LeastRequest { choices: 2 }, Random, RING, Maglev];

/// An endpoint whose address tells its number.
fn endpoint(number: u32, weight: u32) -> Arc<Endpoint> {
    let address = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 20_000));
    Arc::new(Endpoint { id: format!("node/{number}").into(), address: Address::Tcp(address), weight, health: Health::Passing, dial: None })
}

fn endpoints(weights: &[u32]) -> Arc<[Arc<Endpoint>]> {
    weights.iter().zip(0..).map(|(weight, number)| endpoint(number, *weight)).collect()
}

/// Hosts that are all there, idle and warm, but for what is set.
#[derive(Default)]
struct World {
    gone: Vec<usize>,
    active: BTreeMap<usize, u32>,
    cold: BTreeMap<usize, f64>,
}

impl Hosts for World {
    fn available(&self, place: usize) -> bool {
        !self.gone.contains(&place)
    }
    fn active(&self, place: usize) -> u32 {
        self.active.get(&place).copied().unwrap_or(0)
    }
    fn warmth(&self, place: usize) -> f64 {
        self.cold.get(&place).copied().unwrap_or(1.0)
    }
}

/// The share of each place in this many picks without a hash.
fn shares(policy: BalancePolicy, weights: &[u32], world: &World, picks: u64) -> Vec<f64> {
    let balancer = Balancer::new(policy, &endpoints(weights), None);
    let mut counts = vec![0.0; weights.len()];
    for turn in 0..picks {
        let draw = Draw { turn, random: turn, ..Draw::default() };
        counts[balancer.pick(draw, world).unwrap()] += 1.0;
    }
    counts.iter().map(|count| count / picks as f64).collect()
}

#[track_caller]
fn assert_near(shares: &[f64], expected: &[f64], tolerance: f64) {
    let near = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() <= tolerance);
    assert!(shares.len() == expected.len() && near, "{shares:?}, expected {expected:?}");
}

/// Where each of the keys goes, by the endpoint's number.
fn owners(policy: BalancePolicy, endpoints: &Arc<[Arc<Endpoint>]>, world: &World) -> Vec<Address> {
    let balancer = Balancer::new(policy, endpoints, None);
    let key = |key: u64| Draw { hash: Some(xxhash_rust::xxh64::xxh64(&key.to_le_bytes(), 0)), ..Draw::default() };
    (0..10_000).map(|number| endpoints[balancer.pick(key(number), world).unwrap()].address.clone()).collect()
}

fn moved(before: &[Address], after: &[Address]) -> f64 {
    before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64
}

#[test]
fn without_a_hash_every_policy_keeps_to_the_weights() {
    for policy in ALL {
        assert_near(&shares(policy, &[1, 2, 3, 4], &World::default(), 20_000), &[0.1, 0.2, 0.3, 0.4], 0.015);
        assert_near(&shares(policy, &[1, 1, 0, 1, 1], &World::default(), 20_000), &[0.25, 0.25, 0.0, 0.25, 0.25], 0.015);
    }
}

#[test]
fn a_hash_keeps_to_the_weights_too() {
    for policy in ALL {
        let weights = [1, 2, 3, 4];
        let endpoints = endpoints(&weights);
        let owners = owners(policy, &endpoints, &World::default());
        let share = |e: &Arc<Endpoint>| owners.iter().filter(|o| **o == e.address).count() as f64 / owners.len() as f64;
        assert_near(&endpoints.iter().map(share).collect::<Vec<_>>(), &[0.1, 0.2, 0.3, 0.4], 0.04);
    }
}

#[test]
fn the_turns_of_an_unavailable_endpoint_are_spread_over_all_others() {
    let world = World { gone: vec![0], ..World::default() };
    assert_near(&shares(RoundRobin, &[1; 4], &world, 20_000), &[0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0], 0.015);
}

#[test]
fn what_warms_up_gets_its_share_as_far_as_it_is_warm() {
    for policy in [RoundRobin, LeastRequest { choices: 2 }, Random] {
        let world = World { cold: BTreeMap::from([(0, 0.25)]), ..World::default() };
        let due = 0.25 / 3.25;
        let rest = (1.0 - due) / 3.0;
        assert_near(&shares(policy, &[1; 4], &world, 40_000), &[due, rest, rest, rest], 0.02);
        let all_cold = World { cold: (0..4).map(|place| (place, 0.1)).collect(), ..World::default() };
        assert_near(&shares(policy, &[1; 4], &all_cold, 20_000), &[0.25; 4], 0.015);
    }
}

#[test]
fn of_two_the_less_busy_for_its_weight_is_taken() {
    let pick = |active: [u32; 2], cold: &[(usize, f64)]| {
        let world = World { active: active.into_iter().enumerate().collect(), cold: cold.iter().copied().collect(), ..World::default() };
        shares(LeastRequest { choices: 2 }, &[1, 4], &world, 1000)
    };
    assert_eq!(pick([1, 3], &[]), [0.0, 1.0]);
    assert_eq!(pick([0, 1], &[]), [1.0, 0.0]);
    assert_eq!(pick([1, 5], &[]), [1.0, 0.0]);
    assert_eq!(pick([1, 3], &[(1, 0.5)]), [1.0, 0.0]);
}

#[test]
fn a_busy_endpoint_is_chosen_only_when_no_other_was_drawn() {
    let world = World { active: BTreeMap::from([(0, 9)]), ..World::default() };
    let share = |choices| shares(LeastRequest { choices }, &[1; 10], &world, 20_000)[0];
    assert_near(&[share(1), share(2), share(10), share(u32::MAX)], &[0.1, 0.01, 0.0, 0.0], 0.01);
}

#[test]
fn what_a_sticky_cookie_names_is_taken_while_it_is_available() {
    for policy in ALL {
        let balancer = Balancer::new(policy, &endpoints(&[1; 5]), None);
        let draw = |random| Draw { turn: random, random, hash: Some(7), stuck: Some(3) };
        assert!((0..100).all(|random| balancer.pick(draw(random), &World::default()) == Some(3)));
        let world = World { gone: vec![3], ..World::default() };
        let others: Vec<_> = (0..100).map(|random| balancer.pick(draw(random), &world).unwrap()).collect();
        assert!(others[0] != 3 && others.iter().all(|other| *other == others[0]), "requests of one hash stay together: {others:?}");
    }
}

#[test]
fn tables_are_taken_over_when_nothing_they_depend_on_changed() {
    let first = endpoints(&[1, 2, 3]);
    for policy in ALL {
        let before = Balancer::new(policy, &first, None);
        let renewed = Balancer::new(policy, &endpoints(&[1, 2, 3]), Some(&before));
        assert!(before.shares_tables(&renewed));
        assert!(!before.shares_tables(&Balancer::new(policy, &endpoints(&[1, 2, 4]), Some(&before))));
        assert!(!before.shares_tables(&Balancer::new(policy, &endpoints(&[1, 2]), Some(&before))));
        let other = if policy == Random { RoundRobin } else { Random };
        assert!(!before.shares_tables(&Balancer::new(other, &first, Some(&before))));
    }
}

#[test]
fn a_successor_goes_on_where_the_round_stood() {
    let pick = |balancer: &Balancer| balancer.pick(balancer.draw(None, None), &World::default()).unwrap();
    let first = Balancer::new(RoundRobin, &endpoints(&[1, 1, 1]), None);
    let before = pick(&first);
    let mut changed = endpoints(&[1, 1, 1]).to_vec();
    changed[0] = endpoint(77, 1);
    let second = Balancer::new(RoundRobin, &changed.into(), Some(&first));
    assert_eq!(pick(&second), (before + 1) % 3);
}

#[test]
fn critical_endpoints_and_those_of_no_weight_are_never_chosen() {
    let mut list = endpoints(&[0, 1, 1]).to_vec();
    list[1] = Arc::new(Endpoint { health: Health::Critical, ..(*list[1]).clone() });
    let list: Arc<[_]> = list.into();
    for policy in ALL {
        let balancer = Balancer::new(policy, &list, None);
        for random in 0..100 {
            let hash = (random % 2 == 0).then_some(random);
            assert_eq!(balancer.pick(Draw { turn: random, random, hash, stuck: None }, &World::default()), Some(2));
        }
        for none in [endpoints(&[]), endpoints(&[0, 0])] {
            let balancer = Balancer::new(policy, &none, None);
            assert!(balancer.is_empty());
            assert_eq!(balancer.pick(balancer.draw(None, None), &World::default()), None);
            assert_eq!(balancer.pick(balancer.draw(Some(1), None), &World::default()), None);
        }
    }
}

#[test]
fn the_order_of_the_endpoints_does_not_matter_to_a_hash() {
    for policy in [RING, Maglev] {
        let list = endpoints(&[1, 3, 2, 1, 1, 2]);
        let turned: Arc<[_]> = list.iter().rev().cloned().collect();
        let all = World::default();
        assert_eq!(owners(policy, &list, &all), owners(policy, &turned, &all));
    }
}

#[test]
fn keys_of_an_unavailable_endpoint_move_all_over_and_no_others_do() {
    for policy in [RING, Maglev] {
        let list = endpoints(&[1; 10]);
        let before = owners(policy, &list, &World::default());
        let after = owners(policy, &list, &World { gone: vec![4], ..World::default() });
        let mut heirs = BTreeMap::<String, u32>::new();
        for (before, after) in before.iter().zip(&after) {
            if *before == list[4].address {
                *heirs.entry(after.to_string()).or_default() += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(heirs.len(), 9, "{heirs:?}");
    }
}

#[test]
fn a_ring_keeps_to_its_bounds() {
    // One point each: the share of an endpoint is whatever lies before its point.
    let tiny = Balancer::new(RingHash { min: 1, max: 1 }, &endpoints(&[1, 100]), None);
    assert_eq!(tiny.ring_points(), Some(2));
    let points = |min, max, count| Balancer::new(RingHash { min, max }, &endpoints(&vec![1; count]), None).ring_points();
    assert_eq!(points(64, 128, 4), Some(128));
    assert_eq!(points(1024, 8 << 20, 2), Some(2048));
    assert_eq!(points(1024, 8 << 20, 1000), Some(66_000));
    assert_eq!(points(1 << 20, 8 << 20, 2), Some(1 << 20));
}

fn world(available: &[bool], cold: &[f64], active: &[u32]) -> World {
    World {
        gone: available.iter().enumerate().filter(|(_, there)| !**there).map(|(place, _)| place).collect(),
        cold: cold.iter().copied().enumerate().collect(),
        active: active.iter().copied().enumerate().collect(),
    }
}

fn any_policy() -> impl Strategy<Value = BalancePolicy> {
    prop_oneof![
        Just(RoundRobin),
        (0u32..40).prop_map(|choices| LeastRequest { choices }),
        Just(Random),
        (0u64..300, 0u64..2000).prop_map(|(min, max)| RingHash { min, max }),
        Just(Maglev),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_available_endpoint_is_found_whenever_there_is_one(
        policy in any_policy(),
        hosts in proptest::collection::vec((0u32..129, prop::bool::weighted(0.3), 0.1..1.0f64, 0u32..5), 0..60),
        draws in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<Option<u64>>(), proptest::option::of(0usize..60)), 1..20),
    ) {
        let weights: Vec<u32> = hosts.iter().map(|h| h.0).collect();
        let list = endpoints(&weights);
        // Availability is the caller's word: it says no to what is unhealthy.
        let available: Vec<bool> = hosts.iter().map(|h| h.0 > 0 && h.1).collect();
        let mut world = world(&available, &hosts.iter().map(|h| h.2).collect::<Vec<_>>(), &hosts.iter().map(|h| h.3).collect::<Vec<_>>());
        world.gone.extend(hosts.len()..60);
        let balancer = Balancer::new(policy, &list, None);
        for (turn, random, hash, stuck) in draws {
            let draw = Draw { turn, random, hash, stuck };
            let picked = balancer.pick(draw, &world);
            prop_assert_eq!(picked, balancer.pick(draw, &world), "a pick is pure");
            match picked {
                Some(place) => prop_assert!(available[place]),
                None => prop_assert!(available.iter().all(|there| !there)),
            }
        }
    }

    #[test]
    fn over_whole_rounds_every_endpoint_has_its_exact_share(weights in proptest::collection::vec(0u32..129, 1..12), start in any::<u32>()) {
        let balancer = Balancer::new(RoundRobin, &endpoints(&weights), None);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for turn in 0..total {
            let draw = Draw { turn: u64::from(start) + u64::from(turn), ..Draw::default() };
            if let Some(place) = balancer.pick(draw, &World::default()) {
                counts[place] += 1;
            }
        }
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn turns_are_spread_over_the_round(light in 1u32..9, heavy in 9u32..129) {
        let balancer = Balancer::new(RoundRobin, &endpoints(&[light, heavy]), None);
        let turns: Vec<_> = (0..2 * u64::from(light + heavy))
            .map(|turn| balancer.pick(Draw { turn, ..Draw::default() }, &World::default()).unwrap()).collect();
        let longest = turns.split(|place| *place == 0).map(<[usize]>::len).max().unwrap();
        prop_assert!(longest as u32 <= heavy.div_ceil(light) + 1, "{longest} in a row of {heavy} to {light}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn when_one_endpoint_leaves_hardly_more_than_its_keys_move(
        count in prop_oneof![2usize..20, 2usize..101], first in any::<u16>(), leaver in any::<prop::sample::Index>(), policy in prop_oneof![Just(RING), Just(Maglev)],
    ) {
        let list: Vec<_> = (0..count as u32).map(|number| endpoint(u32::from(first) + number, 1)).collect();
        let mut rest = list.clone();
        rest.remove(leaver.index(count));
        let all = World::default();
        let moved = moved(&owners(policy, &list.into(), &all), &owners(policy, &rest.into(), &all));
        prop_assert!(moved <= 1.0 / count as f64 + 0.05, "{moved} of the keys moved when 1 of {count} left");
    }
}
