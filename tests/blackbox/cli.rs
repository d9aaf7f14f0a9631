//! The command line: what is wrong with it, in one line, with exit code 2; and the spellings Consul's users know.

use std::process::Output;

use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;

use crate::support::fake_agent::{FakeAgent, upstream};
use crate::support::mesh::{RECOVERY, web};
use crate::support::sidecar::{Launch, aralez};

fn run(arguments: &[&str]) -> Output {
    aralez().args(arguments).output().unwrap()
}

#[test]
fn wrong_usage_exits_2_with_one_line_that_names_what_is_wrong() {
    let wrong: [(&[&str], &str); 8] = [
        (&["connect"], "sidecar-for"),
        (&["connect", "-sidecar-for"], "sidecar-for"),
        (&["connect", "-sidecar-for", "web", "-no-such-flag"], "no-such-flag"),
        (&["connect", "-sidecar-for", "web", "-admin-bind", "nonsense"], "nonsense"),
        (&["connect", "-sidecar-for", "web", "-threads", "0"], "threads"),
        (&["connect", "-sidecar-for", "web", "-threads", "many"], "threads"),
        (&["connect", "-sidecar-for", "web", "-http-addr", "ftp://agent"], "ftp"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (arguments, named) in wrong {
        let output = run(arguments);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_and_version_exit_0() {
    for arguments in [&["--help"][..], &["--version"], &["connect", "--help"], &["connect", "-help"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spellings_of_consuls_users_work() {
    let agent = FakeAgent::start().await;
    agent.register(&web(vec![upstream("api", free_port().unwrap(), "http")]));
    let address = format!("-http-addr={}", agent.address());
    let url = format!("http://{}", agent.address());
    let launches = [
        Launch::connect(&["--sidecar-for", "web-1", "--http-addr", &agent.address()]),
        Launch::connect(&["-sidecar-for=web-1", &address]),
        Launch::connect(&["-sidecar-for", "WEB-1", &address]),
        Launch::connect(&["-proxy-id", "web-1-sidecar-proxy", "-sidecar-for", "ignored", &address]),
        Launch::connect(&[]).env("CONNECT_SIDECAR_FOR", "web-1").env("CONSUL_HTTP_ADDR", &url),
        Launch::connect(&[]).env("CONNECT_PROXY_ID", "web-1-sidecar-proxy").env("CONSUL_HTTP_ADDR", &url),
        Launch::connect(&["-sidecar-for", "web-1", "-threads", "2", "-log-level", "debug", &address]),
        Launch::connect(&["-sidecar-for", "web-1", &address]).env("ARALEZ_THREADS", "2"),
    ];
    for launch in launches {
        // One after the other: they all bind the same ports.
        drop(launch.start().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_sidecar_is_named() {
    let agent = FakeAgent::start().await;
    let mut sidecar = Launch::sidecar_for(&agent, "nobody").spawn();
    let log = sidecar.logged("nobody", RECOVERY).await;
    assert!(log.to_lowercase().contains("no sidecar"), "{log}");
    if let Some(status) = sidecar.exited() {
        assert_eq!(status.code(), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_of_one_service_are_both_named() {
    let agent = FakeAgent::start().await;
    let mut second = web(vec![]).to_json();
    second["ID"] = "web-1-other-proxy".into();
    agent.register(&web(vec![]));
    agent.set_registration("web-1-other-proxy", second);
    let sidecar = Launch::sidecar_for(&agent, "web-1").spawn();
    let named = eventually("both IDs and the way out", RECOVERY, async || {
        let log = sidecar.log();
        let wanted = ["web-1-sidecar-proxy", "web-1-other-proxy", "-proxy-id"];
        anyhow::ensure!(wanted.iter().all(|word| log.contains(word)), "{log}");
        Ok(())
    });
    named.await.unwrap();
}
