//! Upstreams that are prepared queries.

use std::time::Duration;

use aralez_integration::registration::Upstream;
use serde_json::json;

use crate::fleet::{Fleet, answered_by, answerer};
use crate::scene::{http_answers, unique};

/// Queries cannot be waited on: they are asked every 30 s, as Consul's own path does it.
const POLLED: Duration = Duration::from_secs(60);

async fn called_by_query(protocol: &str) {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", protocol).await;
    fleet.run(&db, "one").await;
    fleet.agent.healthy(&db, 1).await.unwrap();
    let query = unique("query");
    fleet.agent.post("/v1/query", &json!({"Name": query, "Service": {"Service": db}})).await.unwrap();
    let (_, upstream) = fleet.call(Upstream::new(&query).unwrap().prepared_query().protocol(protocol)).await;
    assert_eq!(answerer(&upstream, "/").await.unwrap(), "one");

    fleet.run(&db, "two").await;
    answered_by(&upstream, &["one", "two"], POLLED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_query_is_called_over_http() {
    called_by_query("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_query_is_called_over_tcp() {
    called_by_query("tcp").await;
}

/// A query that does not exist yet is answered with 503, and works once it exists.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_query_may_come_later() {
    let mut fleet = Fleet::shared().await;
    let db = fleet.service("db", "http").await;
    fleet.run(&db, "one").await;
    let query = unique("query");
    let (_, upstream) = fleet.call(Upstream::new(&query).unwrap().prepared_query().protocol("http")).await;
    http_answers(&upstream, 503).await.unwrap();
    fleet.agent.post("/v1/query", &json!({"Name": query, "Service": {"Service": db}})).await.unwrap();
    answered_by(&upstream, &["one"], POLLED).await;
}
