//! Chunked bodies (F5).

use super::{Case, on_all_listeners};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const SMUGGLED: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

const BROKEN: [&str; 40] = [
    "0x5\r\nhello\r\n",
    "+5\r\nhello\r\n",
    "-5\r\nhello\r\n",
    "5_0\r\nhello\r\n",
    "5 \r\nhello\r\n",
    " 5\r\nhello\r\n",
    "\t5\r\nhello\r\n",
    "5\t\r\nhello\r\n",
    "5 ;x\r\nhello\r\n",
    "\r\nhello\r\n",
    ";x\r\nhello\r\n",
    "g\r\nhello\r\n",
    "5h\r\nhello\r\n",
    "\"5\"\r\nhello\r\n",
    "5,5\r\nhello\r\n",
    "5.\r\nhello\r\n",
    "10000000000000005\r\nhello\r\n",
    "fffffffffffffffff\r\nhello\r\n",
    "ffffffffffffffff\r\nhello\r\n",
    "5\nhello\r\n",
    "5\rhello\r\n",
    "5;a\nhello\r\n",
    "5;a\n\r\nhello\r\n",
    "5;a\r\rhello\r\n",
    "5;\r5\r\nhello\r\n",
    "5;a\0\r\nhello\r\n",
    "5;\x1b\r\nhello\r\n",
    "5\r\nhelloX\r\n",
    "5\r\nhello\n",
    "5\r\nhello\r",
    "5\r\nhello",
    "5\r\nhell\r\n",
    "5\r\nhello!\r\n",
    "5\r\nhello\r\n\r\n",
    "5\r\nhello\r\n\n",
    "0\r\nXX\r\n",
    "0\r\n\n",
    "0\n\r\n",
    "0\r\n X: 1\r\n\r\n",
    "0\r\nX : 1\r\n\r\n",
];

fn refused() -> Vec<Case> {
    let mut cases: Vec<Case> = BROKEN.iter().map(|body| Case::refused(format!("{body:?}"), format!("{HEAD}{body}{SMUGGLED}"))).collect();
    cases.extend(BROKEN.iter().map(|body| Case::refused(format!("later {body:?}"), format!("{HEAD}1\r\nx\r\n{body}{SMUGGLED}"))));
    for trailer in ["X\r\n", ": 1\r\n", "X: \0\r\n", "X: 1\n", "X: 1\r\n 2\r\n", "X\t: 1\r\n", "X: \x1b\r\n"] {
        cases.push(Case::refused(format!("trailer {trailer:?}"), format!("{HEAD}0\r\n{trailer}\r\n{SMUGGLED}")));
    }
    let extended = format!("1;{}\r\nx\r\n", "e".repeat(4000)).repeat(10);
    cases.push(Case::refused("extensions", format!("{HEAD}{extended}{SMUGGLED}")));
    cases.push(Case::refused("an extension without end", format!("{HEAD}1;{}", "e".repeat(100_000))));
    cases.push(Case::refused("10,000 trailers", format!("{HEAD}0\r\n{}\r\n", "X-Trailer: some value\r\n".repeat(10_000))));
    cases
}

fn clean() -> Vec<Case> {
    let bodies = [
        "0\r\n\r\n",
        "00000\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        "005\r\nhello\r\n0\r\n\r\n",
        "5;a\r\nhello\r\n0\r\n\r\n",
        "5;a=b;c=\"d e\"\r\nhello\r\n0;x=y\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "0\r\nX: 1\r\n\r\n",
        "0\r\nX:\r\nY: \tz \r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\nX: 2\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        "3\r\n0\r\n\r\n0\r\n\r\n",
        // Dropped: nobody behind us learns of them.
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: evil\r\n\r\n",
        "0\r\nAuthorization: x\r\n\r\n",
        "0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n",
    ];
    let mut cases: Vec<Case> = bodies.iter().map(|body| Case::served(format!("{body:?}"), format!("{HEAD}{body}"), 1)).collect();
    let next = "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.extend(bodies.iter().map(|body| Case::served(format!("{body:?} and another"), format!("{HEAD}{body}{next}"), 2)));
    cases.push(Case::served("many small chunks", format!("{HEAD}{}0\r\n\r\n", "1\r\nx\r\n".repeat(4_000)), 1));
    cases.push(Case::served("a large chunk", format!("{HEAD}100000\r\n{}\r\n0\r\n\r\n", "x".repeat(1 << 20)), 1));
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    cases.push(Case::served("a request in a chunk", format!("{HEAD}{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()), 1));
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_reach_nobody() {
    on_all_listeners("broken chunks", 80, &refused()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_chunks_are_served() {
    on_all_listeners("clean chunks", 30, &clean()).await;
}
