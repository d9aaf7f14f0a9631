//! How long it takes to bring a request target of 10, 1,000 and 10,000 segments into its one form.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{borrow::Cow, hint::black_box};

use aralez::model::path::{EscapedSlashes, Normalization, normalize};
use divan::{Bencher, bench, counter::BytesCount};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    divan::main();
}

fn measure(bencher: Bencher<'_, '_>, segment: &str, size: usize, changes: bool) {
    let rules = Normalization { merge_slashes: true, escaped_slashes: EscapedSlashes::UnescapeAndForward, ..Normalization::default() };
    let target = segment.repeat(size) + "?page=2";
    assert_eq!(matches!(normalize(&target, &rules).unwrap().path_and_query, Cow::Owned(_)), changes);
    bencher.counter(BytesCount::new(target.len())).bench(|| normalize(black_box(&target), black_box(&rules)).is_ok());
}

#[bench(args = SIZES)]
fn nothing_to_do(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, "/items.v1", size, false);
}

#[bench(args = SIZES)]
fn escapes_that_stay(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, "/items%20v1", size, false);
}

#[bench(args = SIZES)]
fn everything_to_do(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, r"/a/..//%69te%2fms\.", size, true);
}
