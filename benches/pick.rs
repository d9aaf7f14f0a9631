//! What balancing costs: making a cluster's tables, and picking an endpoint, by policy and number of endpoints.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::Ipv4Addr, sync::Arc};

use aralez::{
    model::{
        balance::{BalancePolicy, CookieLife, Sticky},
        cluster::{Endpoint, Health},
        listener::Address,
    },
    proxy::balance::{Balancer, Draw, Hosts, sticky::StickyTable},
};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const COUNTS: [usize; 3] = [10, 1_000, 10_000];
const ROUND_ROBIN: BalancePolicy = BalancePolicy::RoundRobin;
const LEAST_REQUEST: BalancePolicy = BalancePolicy::LeastRequest { choices: 2 };
const RANDOM: BalancePolicy = BalancePolicy::Random;
const RING_HASH: BalancePolicy = BalancePolicy::RingHash { min: 1024, max: 8 << 20 };
const MAGLEV: BalancePolicy = BalancePolicy::Maglev;

/// All there, idle and warm.
struct Calm;

impl Hosts for Calm {
    fn available(&self, _: usize) -> bool {
        true
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
    fn warmth(&self, _: usize) -> f64 {
        1.0
    }
}

/// Nine of ten are out.
struct Storm;

impl Hosts for Storm {
    fn available(&self, place: usize) -> bool {
        place.is_multiple_of(10)
    }
    fn active(&self, _: usize) -> u32 {
        0
    }
    fn warmth(&self, _: usize) -> f64 {
        1.0
    }
}

fn endpoints(count: usize, weight: impl Fn(u32) -> u32) -> Arc<[Arc<Endpoint>]> {
    let address = |number: u32| Address::Tcp((Ipv4Addr::from(0x0a00_0000 + number), 20_000).into());
    let endpoint = |number| Endpoint {
        id: format!("node-{number}/web-{number}").into(),
        address: address(number),
        weight: weight(number),
        health: Health::Passing,
        dial: None,
    };
    (0..).take(count).map(endpoint).map(Arc::new).collect()
}

macro_rules! policies {
    ($($name:ident: $policy:expr, $hashes:expr;)*) => {$(
        mod $name {
            use super::*;

            fn draw(balancer: &Balancer) -> Draw {
                balancer.draw($hashes.then(|| fastrand::u64(..)), None)
            }

            #[divan::bench(args = COUNTS)]
            fn build(bencher: Bencher<'_, '_>, count: usize) {
                let endpoints = endpoints(count, |_| 1);
                bencher.bench(|| Balancer::new(black_box($policy), &endpoints, None));
            }

            #[divan::bench(args = COUNTS)]
            fn build_mixed_weights(bencher: Bencher<'_, '_>, count: usize) {
                let endpoints = endpoints(count, |number| number % 128 + 1);
                bencher.bench(|| Balancer::new(black_box($policy), &endpoints, None));
            }

            #[divan::bench(args = COUNTS)]
            fn pick(bencher: Bencher<'_, '_>, count: usize) {
                let balancer = Balancer::new($policy, &endpoints(count, |_| 1), None);
                bencher.bench(|| balancer.pick(draw(&balancer), &Calm));
            }

            #[divan::bench(args = COUNTS)]
            fn pick_mixed_weights(bencher: Bencher<'_, '_>, count: usize) {
                let balancer = Balancer::new($policy, &endpoints(count, |number| number % 128 + 1), None);
                bencher.bench(|| balancer.pick(draw(&balancer), &Calm));
            }

            #[divan::bench(args = COUNTS)]
            fn pick_nine_of_ten_out(bencher: Bencher<'_, '_>, count: usize) {
                let balancer = Balancer::new($policy, &endpoints(count, |_| 1), None);
                bencher.bench(|| balancer.pick(draw(&balancer), &Storm));
            }
        }
    )*};
}

policies! {
    round_robin: ROUND_ROBIN, false;
    least_request: LEAST_REQUEST, false;
    random: RANDOM, false;
    ring_hash: RING_HASH, true;
    maglev: MAGLEV, true;
}

#[divan::bench(args = COUNTS)]
fn renewed_without_a_change(bencher: Bencher<'_, '_>, count: usize) {
    let before = Balancer::new(RING_HASH, &endpoints(count, |_| 1), None);
    let again = endpoints(count, |_| 1);
    bencher.bench(|| Balancer::new(RING_HASH, &again, Some(&before)));
}

#[divan::bench(args = COUNTS)]
fn sticky_build(bencher: Bencher<'_, '_>, count: usize) {
    let sticky = Sticky { cookie: "who".into(), life: CookieLife { ttl: None, path: "/".into() } };
    let endpoints = endpoints(count, |_| 1);
    bencher.bench(|| StickyTable::new(&sticky, b"key", &endpoints).unwrap());
}
