//! Large tables of routes: what they cost is printed, since a machine's speed is no property of ours.

use std::{fs, time::Instant};

use super::{Edge, push};

/// So many routes of as many hosts, each with a server of its own and a version in its answers.
fn routes(count: u32, version: u32) -> String {
    let host = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        format!(
            "  h{n}.test: {{paths: {{/: {{servers: ['http://10.{a}.{b}.{c}:80']}}, /old: {{redirect_to: 'https://new.test/v{version}', redirect_exact: true}}}}}}\n"
        )
    };
    format!("healthcheck: false\nupstreams:\n{}", (0..count / 2).map(host).collect::<String>())
}

/// The memory of a process that is its own, KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_routes_load_and_reload() {
    for count in [1_000, 10_000] {
        let edge = Edge::start(&routes(2, 0)).await;
        let before = memory(edge.aralez.id());
        let (mut took, mut held) = (Vec::new(), Vec::new());
        for version in 1..=4 {
            let begun = Instant::now();
            let answer = push(&edge, "", &routes(count, version)).await;
            took.push(begun.elapsed().as_millis());
            held.push((memory(edge.aralez.id()) - before) * 1024 / u64::from(count));
            assert_eq!(answer.status, 200, "{}", answer.text());
            for host in [0, count / 2 - 1] {
                let answer = edge.get(&format!("h{host}.test"), "/old").await;
                assert_eq!(
                    (answer.status.as_u16(), answer.headers["location"].to_str().unwrap()),
                    (301, &*format!("https://new.test/v{version}"))
                );
            }
        }
        println!("{count} routes: in force {took:?} ms after each push; {held:?} bytes a route");
    }
}
