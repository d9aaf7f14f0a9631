//! What authorization costs: once for a connection (`judge`), and for each request (`authorize`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use aralez::model::{
    identity::{ServiceName, SpiffeId, TrustDomain},
    intention::{Action, Conditions, DefaultPolicy, Intention, Intentions, Pattern, Permission, Rule, Source, Verdict},
    listener::Protocol,
    matching::{HeaderMatch, PathMatch, Regex, RequestView, TextMatch},
};
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    divan::main();
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("td.consul").unwrap()
}

fn peer(name: &str) -> SpiffeId {
    SpiffeId::service(trust_domain(), ServiceName::local(name), "dc1")
}

fn intention(source: &str, precedence: u32, rule: Rule) -> Intention {
    let source = Source { peer: None, partition: "default".into(), namespace: Pattern::parse("default"), name: Pattern::parse(source) };
    Intention { source, destination: "api".into(), precedence, rule, jwt: None }
}

/// `count` exact sources and a wildcard.
fn list(count: usize) -> Vec<Intention> {
    let exact = (0..count).map(|n| intention(&format!("web-{n}"), 9, Rule::Action(Action::Allow)));
    exact.chain([intention("*", 8, Rule::Action(Action::Deny))]).collect()
}

fn intentions(list: Vec<Intention>) -> Intentions {
    Intentions::new(trust_domain(), DefaultPolicy::Deny, Protocol::Http, list)
}

/// `count` permissions, each with a path of its own from `text` and a header.
fn conditions(count: usize, text: impl Fn(usize) -> TextMatch) -> Arc<Conditions> {
    let header = HeaderMatch { name: "x-team".into(), value: Some(TextMatch::Exact("a".into())), ignore_case: false, invert: false };
    let permissions = (0..count).map(|n| Permission {
        action: Action::Allow,
        path: Some(PathMatch { text: text(n), ignore_case: false }),
        headers: vec![header.clone()],
        methods: vec!["GET".into()],
        jwt: None,
    });
    match intentions(vec![intention("web", 9, Rule::Permissions(permissions.collect()))]).judge(&peer("web")) {
        Verdict::PerRequest(conditions) => conditions,
        other => panic!("{other:?}"),
    }
}

/// A request that only the last permission takes.
fn authorize_last(bencher: Bencher<'_, '_>, count: usize, conditions: &Conditions) {
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-team"), HeaderValue::from_static("a"))]);
    let path = format!("/items/{}/x", count - 1);
    let request = RequestView { method: "GET", path: &path, query: None, authority: "api", headers: &headers };
    assert!(conditions.authorize(&request, &()).is_ok());
    bencher.bench_local(|| conditions.authorize(black_box(&request), &()).is_ok());
}

#[divan::bench(args = SIZES)]
fn judge(bencher: Bencher<'_, '_>, count: usize) {
    let (intentions, peer) = (intentions(list(count)), peer(&format!("web-{}", count - 1)));
    bencher.bench_local(|| intentions.judge(black_box(&peer)));
}

#[divan::bench(args = SIZES)]
fn judge_by_wildcard(bencher: Bencher<'_, '_>, count: usize) {
    let (intentions, peer) = (intentions(list(count)), peer("other"));
    bencher.bench_local(|| intentions.judge(black_box(&peer)));
}

#[divan::bench(args = SIZES)]
fn authorize_by_prefix(bencher: Bencher<'_, '_>, count: usize) {
    authorize_last(bencher, count, &conditions(count, |n| TextMatch::Prefix(format!("/items/{n}/").into())));
}

// Compiled expressions take tens of kilobytes each: 1,000 are more than anybody writes.
#[divan::bench(args = [10, 1_000])]
fn authorize_by_regex(bencher: Bencher<'_, '_>, count: usize) {
    authorize_last(bencher, count, &conditions(count, |n| TextMatch::Regex(Regex::parse(&format!("/items/{n}/[^/]*")).unwrap())));
}

#[divan::bench(args = SIZES)]
fn compile(bencher: Bencher<'_, '_>, count: usize) {
    bencher.with_inputs(|| list(count)).bench_local_values(intentions);
}
