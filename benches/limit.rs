//! What a rate limit costs a request: one client, many clients, and an attacker with a new address each time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use aralez::{
    model::ingress::filters::{LimitKey, RateLimit},
    proxy::filter::limit::{Buckets, Whom},
};
use divan::{Bencher, black_box, counter::ItemsCount};

fn main() {
    divan::main();
}

/// Clients that come in turn; the last is more than the table has places.
const CLIENTS: [u32; 3] = [1, 10_000, 10_000_000];

fn limit() -> RateLimit {
    RateLimit { scope: "shop.example/api".into(), rate: 100, burst: 100, key: LimitKey::Client }
}

#[divan::bench(args = CLIENTS)]
fn take(bencher: Bencher<'_, '_>, clients: u32) {
    let (buckets, limit, mut next) = (Buckets::default(), limit(), 0);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        next = (next + 1) % clients;
        black_box(buckets.take(&limit, Whom::V4(next), Instant::now()))
    });
}

#[divan::bench(threads = [2])]
fn take_in_two_threads(bencher: Bencher<'_, '_>) {
    let (buckets, limit) = (Buckets::default(), limit());
    bencher.counter(ItemsCount::new(1_u32)).bench(|| black_box(buckets.take(&limit, Whom::V4(fastrand::u32(..10_000)), Instant::now())));
}
