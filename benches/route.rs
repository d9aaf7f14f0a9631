//! How long the choice of a route takes in tables of 10, 1,000 and 10,000 routes, when the last one matches.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use aralez::model::{
    matching::{HeaderMatch, PathMatch, Regex, RequestView, TextMatch},
    route::{Route, RouteMatch, RouteTable},
};
use divan::{Bencher, bench};
use http::HeaderMap;

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    divan::main();
}

fn table(size: usize, matches: impl Fn(usize) -> RouteMatch) -> RouteTable {
    RouteTable { routes: (0..size).map(|at| Route { matches: matches(at), ..Route::to(Vec::new()) }).collect() }
}

fn path(text: TextMatch) -> RouteMatch {
    RouteMatch { path: Some(PathMatch { text, ignore_case: false }), ..RouteMatch::default() }
}

fn measure(bencher: Bencher<'_, '_>, table: &RouteTable, size: usize) {
    let headers = HeaderMap::from_iter([("x-tenant".parse().unwrap(), format!("tenant-{}", size - 1).parse().unwrap())]);
    let path = format!("/service-{}/items/42", size - 1);
    let request = RequestView { method: "GET", path: &path, query: Some("page=2"), authority: "api", headers: &headers };
    assert_eq!(table.route(&request).unwrap().0, size - 1);
    bencher.bench(|| black_box(table).route(black_box(&request)).is_some());
}

#[bench(args = SIZES)]
fn by_prefix(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, &table(size, |at| path(TextMatch::Prefix(format!("/service-{at}/").into()))), size);
}

#[bench(args = SIZES)]
fn by_regex(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, &table(size, |at| path(TextMatch::Regex(Regex::parse(&format!("/service-{at}/items/[0-9]+")).unwrap()))), size);
}

#[bench(args = SIZES)]
fn by_header(bencher: Bencher<'_, '_>, size: usize) {
    let header = |at| HeaderMatch {
        name: "x-tenant".into(),
        value: Some(TextMatch::Exact(format!("tenant-{at}").into())),
        ignore_case: false,
        invert: false,
    };
    measure(bencher, &table(size, |at| RouteMatch { headers: vec![header(at)], ..RouteMatch::default() }), size);
}
