//! What the mesh entry says of request paths and of underscores, beside the setting of Consul's own acceptance case.

use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::clients::{self, Response};
use aralez_integration::consul::Agent;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Pair, all_hold};

/// Sidecars look at the mesh entry every 10 to 15 s.
const CHANGED: Duration = PATIENCE;

/// Two sidecars whose mesh entry the test owns, and an app that tells what it received.
struct Mesh {
    pair: Pair,
    _app: App,
    agent: Agent,
}

impl Mesh {
    async fn start() -> Self {
        let agent = Agent::dev().await.unwrap();
        let app = apps::raw_echo().await.unwrap();
        let pair = Pair::start(&agent, "http", &app.address).await;
        Self { pair, _app: app, agent }
    }

    async fn set(&self, normalisation: Value) {
        let incoming = json!({"Incoming": {"RequestNormalization": normalisation}});
        self.agent.config_entry(json!({"Kind": "mesh", "HTTP": incoming})).await.unwrap();
    }

    async fn get(&self, target: &str) -> Result<Response> {
        clients::raw(&self.pair.upstream, target, &[("Host", "localhost"), ("x_under", "1"), ("x-over", "2")]).await
    }

    /// What the app received of a request that is passed on.
    async fn received(&self, target: &str) -> Result<Value> {
        let answer = self.get(target).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Waits until every sent target arrives as it should.
    async fn paths(&self, what: &str, limit: Duration, rows: &[(&str, &str)]) {
        let table = async || {
            let mut outcomes = Vec::new();
            for (sent, wanted) in rows {
                let outcome = self.received(sent).await.and_then(|seen| {
                    ensure!(seen["path"] == *wanted, "received {}", seen["path"]);
                    Ok(())
                });
                outcomes.push((format!("{sent} as {wanted}"), outcome));
            }
            all_hold(outcomes)
        };
        eventually(what, limit, table).await.unwrap();
    }
}

/// Contract §3.8: without an entry paths are normalised, slashes are kept as they are.
#[tokio::test(flavor = "multi_thread")]
async fn paths_are_normalised_by_default_and_kept_on_request() {
    let mesh = Mesh::start().await;
    let by_default = [
        ("/a//b/../c%2Fd", "/a//c%2Fd"),
        ("/a/./b/%7Ec", "/a/b/~c"),
        ("/a\\b", "/a/b"),
        ("/a?x=/../%2e//", "/a?x=/../%2e//"),
        ("/../../a", "/a"),
    ];
    mesh.paths("the default form", CHANGED, &by_default).await;

    mesh.set(json!({"InsecureDisablePathNormalization": true})).await;
    mesh.paths("paths as they are", CHANGED, &[("/a//b/../c%2Fd", "/a//b/../c%2Fd"), ("/a/%7Ec", "/a/%7Ec")]).await;

    mesh.set(json!({"MergeSlashes": true})).await;
    mesh.paths("merged slashes", CHANGED, &[("/a//b///c%2Fd?q=//", "/a/b/c%2Fd?q=//")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn escaped_slashes_are_kept_refused_redirected_or_unescaped() {
    let mesh = Mesh::start().await;
    mesh.set(json!({"PathWithEscapedSlashesAction": "KEEP_UNCHANGED"})).await;
    mesh.paths("escaped slashes as they are", CHANGED, &[("/a%2Fb%5Cc", "/a%2Fb%5Cc")]).await;

    mesh.set(json!({"PathWithEscapedSlashesAction": "REJECT_REQUEST"})).await;
    eventually("a refusal", CHANGED, async || {
        let answer = mesh.get("/a%2Fb").await?;
        ensure!(answer.status == 400, "{}", answer.status);
        ensure!(mesh.get("/a/b").await?.status == 200, "without an escaped slash");
        Ok(())
    })
    .await
    .unwrap();

    mesh.set(json!({"PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT"})).await;
    eventually("a redirect", CHANGED, async || {
        let answer = mesh.get("/a%2Fb?q=1").await?;
        ensure!(answer.status == 307, "{}", answer.status);
        ensure!(answer.headers.get("location").is_some_and(|to| to == "/a/b?q=1"), "{:?}", answer.headers);
        ensure!(mesh.get("/a/b").await?.status == 200, "without an escaped slash");
        Ok(())
    })
    .await
    .unwrap();

    mesh.set(json!({"PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD"})).await;
    mesh.paths("unescaped slashes", CHANGED, &[("/a%2Fb%5cc", "/a/b/c"), ("/a%2F..%2fb", "/b")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn underscores_are_allowed_dropped_or_refused() {
    let mesh = Mesh::start().await;
    let seen = mesh.received("/").await.unwrap();
    assert_eq!((&seen["headers"]["x_under"], &seen["headers"]["x-over"]), (&json!("1"), &json!("2")));

    mesh.set(json!({"HeadersWithUnderscoresAction": "DROP_HEADER"})).await;
    eventually("a dropped field", CHANGED, async || {
        let seen = mesh.received("/").await?;
        ensure!(seen["headers"]["x_under"].is_null() && seen["headers"]["x-over"] == "2", "{seen}");
        Ok(())
    })
    .await
    .unwrap();

    mesh.set(json!({"HeadersWithUnderscoresAction": "REJECT_REQUEST"})).await;
    eventually("a refusal", CHANGED, async || {
        let answer = mesh.get("/").await?;
        ensure!(answer.status == 400, "{}", answer.status);
        Ok(())
    })
    .await
    .unwrap();
}
