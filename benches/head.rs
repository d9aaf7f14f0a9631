//! What the strict gate costs: the head of a browser's request, one of 100 fields, and 64 KiB in chunks.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use aralez::proxy::gate::{chunks::Chunks, head};
use divan::{Bencher, bench, counter::BytesCount};

fn main() {
    divan::main();
}

const BROWSER: &str = "GET /items/42?page=2&sort=name HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) \
    Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nCache-Control: max-age=0\r\n\r\n";

fn measure(bencher: Bencher<'_, '_>, head: &str) {
    head::check(head.as_bytes()).unwrap();
    bencher.counter(BytesCount::new(head.len())).bench(|| head::check(black_box(head.as_bytes())).is_ok());
}

#[bench]
fn small(bencher: Bencher<'_, '_>) {
    measure(bencher, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[bench]
fn browser(bencher: Bencher<'_, '_>) {
    measure(bencher, BROWSER);
}

#[bench]
fn fields_100(bencher: Bencher<'_, '_>) {
    measure(bencher, &format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Some-Field: and its value\r\n".repeat(100)));
}

#[bench(args = [16, 1_024, 16_384])]
fn chunks(bencher: Bencher<'_, '_>, size: usize) {
    let body = format!("{size:x}\r\n{}\r\n", "x".repeat(size)).repeat(65_536 / size) + "0\r\n\r\n";
    bencher.counter(BytesCount::new(body.len())).bench(|| Chunks::default().advance(black_box(body.as_bytes())).is_ok());
}
