//! The conformance suite of HTTP/2, against an upstream listener: cleartext HTTP/2 by prior knowledge.

use std::process::Command;
use std::time::Duration;

use aralez_integration::apps::http_echo;
use aralez_integration::components;
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::process::Process;

use crate::scene::Pair;

/// Cases of the suite, without its strict mode.
const CASES: usize = 145;
/// It waits for each answer or silence for at most this, seconds.
const EACH: &str = "5";
const LIMIT: Duration = Duration::from_secs(300);

/// Every case passes at `listener`; `options` are h2spec's own, for example `-t -k` for TLS with an unknown root.
pub async fn conforms(listener: &Address, options: &[&str]) {
    let Address::Tcp(listener) = listener else { panic!("h2spec speaks TCP") };
    let mut command = Command::new(components::h2spec().unwrap());
    command.args(["-h", &listener.ip().to_string(), "-p", &listener.port().to_string(), "-o", EACH]).args(options);
    let mut suite = Process::start("h2spec", command, Duration::ZERO).unwrap();
    let status = suite.exit(LIMIT).await;
    let log = suite.log();
    let wanted = format!("{CASES} tests, {CASES} passed, 0 skipped, 0 failed");
    println!("h2spec: {}", log.lines().rfind(|line| line.contains(" tests, ")).unwrap_or("no result"));
    assert!(log.contains(&wanted), "{status:?}\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2spec() {
    let agent = Agent::shared().await.unwrap();
    let app = http_echo("db").await.unwrap();
    for protocol in ["http2", "http"] {
        let pair = Pair::start(&agent, protocol, &app.address).await;
        conforms(&pair.upstream, &[]).await;
    }
}
