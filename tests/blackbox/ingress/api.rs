//! The configuration API, as it is called from outside.

use std::fs;

use aralez_integration::{
    apps::{self, App},
    clients::{self, Response},
};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{Edge, MASTER_KEY, Setup, request};

fn routes(app: &App, secret: &str) -> String {
    format!(
        "provider: file\nupstreams:\n  open.test:\n    paths:\n      /: {{servers: [\"http://{0}\"], healthcheck: false}}\n      \
         /closed: {{servers: [\"http://{0}\"], healthcheck: false, authorization: {{type: apikey, creds: \"{secret}\"}}}}\n",
        app.address
    )
}

async fn call(edge: &Edge, method: Method, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let (head, _) = request(method, "127.0.0.1", path, fields).into_parts();
    clients::once(&edge.api, http::Request::from_parts(head, Bytes::from(body.to_owned()))).await.unwrap()
}

/// Each way to show the key is as good; the seeds' own is the last.
#[tokio::test]
async fn a_push_is_in_force_when_it_is_answered() {
    let [one, other] = [apps::http_echo("one").await.unwrap(), apps::http_echo("other").await.unwrap()];
    let edge = Edge::start(&routes(&one, "k-1")).await;
    let bearer = format!("Bearer {MASTER_KEY}");
    let query = format!("/conf?key={MASTER_KEY}");
    let ways: [(&str, Vec<(&str, &str)>); 3] =
        [("/conf", vec![("authorization", &*bearer)]), ("/conf", vec![("x-api-key", MASTER_KEY)]), (&query, Vec::new())];
    for (n, (path, fields)) in ways.iter().enumerate() {
        let (app, name) = if n % 2 == 0 { (&other, "other") } else { (&one, "one") };
        let answer = call(&edge, Method::POST, path, fields, &routes(app, "k-1")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "Config, conf file, updated !\n"));
        assert_eq!(edge.get("open.test", "/").await.headers["x-app"], name);
    }
    assert_eq!(fs::read_to_string(edge.path("upstreams.yaml")).unwrap(), routes(&one, "k-1"), "not saved");
    let log = edge.aralez.log();
    assert!(!log.contains(MASTER_KEY), "{log}");
}

#[tokio::test]
async fn a_bad_push_is_refused_with_every_problem_and_a_dry_run_changes_nothing() {
    let app = apps::http_echo("app").await.unwrap();
    let edge = Edge::start(&routes(&app, "k-1")).await;
    let key = [("x-api-key", MASTER_KEY)];
    let bad = routes(&app, "k-1").replace("healthcheck", "helthcheck");
    for query in ["", "?save", "?dry_run"] {
        let answer = call(&edge, Method::POST, &format!("/conf{query}"), &key, &bad).await;
        let problems = answer.text();
        assert_eq!(answer.status, 400, "{problems}");
        assert!(problems.lines().count() == 2 && problems.contains(":5:") && problems.contains(":6:"), "{problems}");
    }
    let answer = call(&edge, Method::POST, "/conf?dry_run", &key, "provider: file\nupstreams: {}\n").await;
    let told = answer.text();
    assert!(answer.status == 200 && told.starts_with("Config is valid, nothing was changed\nwould change: host "), "{told}");
    assert!(told.lines().skip(1).all(|line| line.starts_with("would change: ") && line.ends_with(" removed")), "{told}");
    assert_eq!(edge.get("open.test", "/").await.status, 200);
    assert_eq!(fs::read_to_string(edge.path("upstreams.yaml")).unwrap(), routes(&app, "k-1"));
}

#[tokio::test]
async fn what_is_in_force_is_read_back_without_secrets_and_can_be_saved() {
    let app = apps::http_echo("app").await.unwrap();
    let edge = Edge::start(&routes(&app, "k-1")).await;
    let key = [("x-api-key", MASTER_KEY)];
    let text = routes(&app, "s3cret-of-the-route");
    assert_eq!(call(&edge, Method::POST, "/conf?save", &key, &text).await.status, 200);
    assert_eq!(fs::read_to_string(edge.path("upstreams.yaml")).unwrap(), text);
    assert_eq!(edge.get("open.test", "/closed").await.status, 401);
    let shown = call(&edge, Method::GET, "/conf", &key, "").await;
    let status = call(&edge, Method::GET, "/status", &[], "").await;
    let metrics = call(&edge, Method::GET, "/metrics", &[], "").await;
    for answer in [&shown, &status, &metrics] {
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains("s3cret") && !answer.text().contains(MASTER_KEY), "{}", answer.text());
    }
    assert!(shown.text().contains("open.test") && shown.text().contains("apikey"), "{}", shown.text());
    let status: Value = serde_json::from_str(&status.text()).unwrap();
    assert_eq!(status["config"]["source"], "push");
    assert_eq!(status["config"]["version"], shown.headers["x-config-version"].to_str().unwrap());
    let backend = &status["hosts"]["open.test"]["/closed"]["backends"][0];
    assert!(backend["alive"] == true && app.address.to_string().ends_with(&format!(":{}", backend["port"])), "{status}");
    // What is read cannot be put back as it is: the secret would be lost.
    assert_eq!(call(&edge, Method::POST, "/conf", &key, &shown.text()).await.status, 400);
}

#[tokio::test]
async fn nothing_changes_without_the_key_or_when_turned_off() {
    let app = apps::http_echo("app").await.unwrap();
    let edge = Edge::start(&routes(&app, "k-1")).await;
    for fields in [vec![], vec![("x-api-key", "no")], vec![("authorization", "Bearer no")]] {
        for method in [Method::GET, Method::POST] {
            assert_eq!(call(&edge, method, "/conf", &fields, "upstreams: {}").await.status, 403);
        }
    }
    let setup = Setup::new(&routes(&app, "k-1")).replace_main("config_api_enabled: true", "config_api_enabled: false");
    let off = setup.start().await;
    let key = [("x-api-key", MASTER_KEY)];
    for path in ["/conf", "/conf?dry_run", "/jwt"] {
        let answer = call(&off, Method::POST, path, &key, "upstreams: {}").await;
        assert!(answer.status == 403 && answer.text().contains("config_api_enabled"), "{path}: {}", answer.text());
    }
    assert_eq!(edge.get("open.test", "/").await.status, 200);
}
