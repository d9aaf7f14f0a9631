//! Active health checks.

use std::time::Duration;

use anyhow::ensure;
use aralez_integration::apps::{App, http_echo};
use aralez_integration::wait::eventually;

use super::{Edge, Setup};

const SOON: Duration = Duration::from_secs(20);

fn one_path(servers: &[&App], more: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|app| format!("'{}'", app.address)).collect();
    format!("provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: [{}]{more}}}\n", servers.join(", "))
}

/// Which servers answer twenty requests.
async fn answering(edge: &Edge) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..20 {
        let answer = edge.get("shop.test", "/").await;
        names.push(answer.headers.get("x-app").map_or_else(|| answer.status.to_string(), |name| name.to_str().unwrap().to_owned()));
    }
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn a_server_that_fails_its_checks_gets_no_requests_and_a_metric_says_so() {
    let [sick, well] = [http_echo("sick").await.unwrap(), http_echo("well").await.unwrap()];
    let edge = Setup::new(&one_path(&[&sick, &well], "")).main("hc_interval: 1\nhc_method: GET").start().await;
    assert_eq!(answering(&edge).await, ["sick", "well"]);
    sick.answer_always(500);
    let metric = |value: u8| format!("aralez_server_healthy{{server=\"{}\"}} {value}\n", sick.address);
    let shown = async |line: String| {
        eventually("the metric", SOON, async || {
            let text = edge.aralez.admin("/metrics").await?.text();
            ensure!(text.contains(&line), "{line} is not in {text}");
            Ok(())
        })
        .await
        .unwrap();
    };
    shown(metric(0)).await;
    eventually("only the other", SOON, async || {
        ensure!(answering(&edge).await == ["well"]);
        Ok(())
    })
    .await
    .unwrap();
    assert!(edge.aralez.log().contains("a server is unhealthy"));
    sick.answer_always(200);
    shown(metric(1)).await;
    eventually("both", SOON, async || {
        ensure!(answering(&edge).await == ["sick", "well"]);
        Ok(())
    })
    .await
    .unwrap();
    assert!(edge.aralez.log().contains("a server is healthy again"));
}

#[tokio::test]
async fn a_server_without_checks_is_left_alone_until_somebody_asks_for_it() {
    let (off, on) = (http_echo("off").await.unwrap(), http_echo("on").await.unwrap());
    let yaml = format!(
        "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /off: {{servers: ['{}'], healthcheck: false}}\n      /on: {{servers: ['{}']}}\n",
        off.address, on.address
    );
    let edge = Setup::new(&yaml).main("hc_interval: 1").start().await;
    let probed = on.requests();
    eventually("two more probes of the other", SOON, async || {
        ensure!(on.requests() > probed + 1);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(off.connections(), 0);
    assert_eq!(edge.get("shop.test", "/off").await.status, 200);
}
