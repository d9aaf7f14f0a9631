//! The conformance suite of HTTP/2: against an upstream listener (cleartext, by prior knowledge) and both listeners of the reverse proxy.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::http_echo;
use aralez_integration::certs::Ca;
use aralez_integration::clients;
use aralez_integration::components;
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;

use crate::scene::{PATIENCE, Pair};

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
    // Some cases want an answer with a body.
    app.answer_text("hello");
    for protocol in ["http2", "http"] {
        let pair = Pair::start(&agent, protocol, &app.address).await;
        conforms(&pair.upstream, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h2spec_of_the_reverse_proxy() {
    let (app, ca) = (http_echo("app").await.unwrap(), Ca::new("h2spec").unwrap());
    app.answer_text("hello");
    let (folder, ports) = (tempfile::tempdir().unwrap(), [(); 3].map(|()| free_port().unwrap()));
    let [http, tls, admin] = ports;
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("certs")).unwrap();
    fs::write(at("certs/any.crt"), ca.certificate_pem().unwrap()).unwrap();
    fs::write(at("certs/any.key"), ca.key_pem().unwrap()).unwrap();
    fs::write(at("upstreams.yaml"), format!("upstreams: {{DEFAULT: {{paths: {{/: {{servers: ['{}']}}}}}}}}\n", app.address)).unwrap();
    let main = format!(
        "proxy_address_http: 127.0.0.1:{http}\nproxy_address_tls: 127.0.0.1:{tls}\nproxy_certificates: certs\nupstreams_conf: upstreams.yaml\n"
    );
    fs::write(at("main.yaml"), main).unwrap();
    let mut command = Command::new(components::aralez().unwrap());
    command.arg("-c").arg(at("main.yaml")).args(["-admin-bind", &format!("127.0.0.1:{admin}")]);
    let _proxy = Process::start("aralez -c", command, Duration::ZERO).unwrap();
    eventually("a ready proxy", PATIENCE, async || {
        let answer = clients::get(&Address::port(admin), "/ready").await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await
    .unwrap();
    conforms(&Address::port(http), &[]).await;
    conforms(&Address::port(tls), &["-t", "-k"]).await;
}
