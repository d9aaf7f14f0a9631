//! Servers that die, break off, come back; and names.

use std::time::{Duration, Instant};

use anyhow::ensure;
use aralez_integration::apps::{App, HANG_UP, http_echo};
use aralez_integration::load::Load;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::{Method, Request};

use super::{Edge, Setup, request};

const SOON: Duration = Duration::from_secs(20);

fn yaml(servers: &[String], more: &str) -> String {
    format!("provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: [{}]{more}}}\n", servers.join(", "))
}

fn quoted(app: &App) -> String {
    format!("'{}'", app.address)
}

fn nobody() -> String {
    format!("'{}'", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn post() -> Request<Bytes> {
    let mut order = request(Method::POST, "shop.test", "/order", &[]);
    *order.body_mut() = Bytes::from_static(b"one");
    order
}

/// M14, B10: the original answered 502 for a dead server's share until its next tick.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_under_load_costs_no_request() {
    for checks in ["", ", healthcheck: false"] {
        let [one, two, dying] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap(), http_echo("dying").await.unwrap()];
        let edge = Edge::start(&yaml(&[quoted(&one), quoted(&two), quoted(&dying)], checks)).await;
        let http = edge.http.clone();
        let load = Load::start(4, move |_: Option<()>| {
            let http = http.clone();
            async move {
                let answer = aralez_integration::clients::get(&http, "/").await?;
                ensure!(answer.status == 200, "{}", answer.status);
                Ok(())
            }
        });
        load.progress(100, SOON).await.unwrap();
        assert!(dying.requests() > 0);
        drop(dying);
        load.progress(300, SOON).await.unwrap();
        load.stop().await.unwrap().flawless(400).unwrap();
    }
}

#[tokio::test]
async fn what_may_have_been_begun_is_not_repeated() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let edge = Edge::start(&yaml(&[quoted(&one), quoted(&two)], ", healthcheck: false")).await;
    one.answer_next([HANG_UP]);
    two.answer_next([HANG_UP]);
    let answer = edge.send(post()).await;
    assert_eq!((answer.status.as_u16(), one.requests() + two.requests()), (503, 1), "a POST that was sent is not sent again");
    let answer = edge.get("shop.test", "/").await;
    assert_eq!((answer.status.as_u16(), one.requests() + two.requests()), (200, 3), "a GET is, on the other server");
}

#[tokio::test]
async fn what_was_never_sent_goes_to_the_next_server() {
    let app = http_echo("app").await.unwrap();
    let edge = Edge::start(&yaml(&[nobody(), nobody(), quoted(&app)], ", healthcheck: false")).await;
    for n in 1..=8 {
        assert_eq!((edge.send(post()).await.status.as_u16(), app.requests()), (200, n));
    }
}

#[tokio::test]
async fn the_backup_serves_while_all_others_are_down_and_only_then() {
    let [main, backup] = [http_echo("main").await.unwrap(), http_echo("backup").await.unwrap()];
    let backup_too = format!("{{address: '{}', backup: true}}", backup.address);
    let edge = Setup::new(&yaml(&[quoted(&main), backup_too], "")).main("hc_interval: 1").start().await;
    let by = async |name: &str| {
        eventually(&format!("answers of {name}"), SOON, async || {
            for _ in 0..10 {
                let answer = edge.get("shop.test", "/").await;
                ensure!(answer.status == 200 && answer.headers["x-app"] == name, "{} {:?}", answer.status, answer.headers);
            }
            Ok(())
        })
        .await
        .unwrap();
    };
    by("main").await;
    main.answer_always(500);
    by("backup").await;
    main.answer_always(200);
    by("main").await;
}

#[tokio::test]
async fn all_servers_down_is_503_at_once() {
    let edge = Edge::start(&yaml(&[nobody(), nobody()], "")).await;
    let begun = Instant::now();
    assert_eq!(edge.get("shop.test", "/").await.status, 503);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// H5: one bad name, or one more request to it, ended the original's process.
#[tokio::test]
async fn names_are_resolved_aside_and_a_bad_one_hurts_nobody() {
    let app = http_echo("app").await.unwrap();
    let port = app.address.to_string().rsplit_once(':').unwrap().1.to_owned();
    let dns = aralez_integration::dns::Dns::start().await.unwrap();
    dns.set("app.test", &["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()], 1);
    let yaml = format!(
        "provider: file\nupstreams:\n  DEFAULT:\n    paths:\n      /: {{servers: ['app.test:{port}']}}\n      /local: {{servers: ['localhost:{port}']}}\n      /gone: {{servers: ['gone.test:80']}}\n      /off: {{servers: ['gone.test:80'], healthcheck: false}}\n"
    );
    let mut edge = Setup::new(&yaml).main(&format!("dns_servers: ['{}']", dns.address)).start().await;
    for (path, status) in [("/", 200), ("/local", 200), ("/gone", 503), ("/off", 503), ("/", 200)] {
        assert_eq!(edge.get("shop.test", path).await.status, status, "{path}");
    }
    edge.aralez.assert_alive().await;
    dns.fail("app.test");
    dns.set("gone.test", &["127.0.0.1".parse().unwrap()], 1);
    edge.aralez.logged("its last addresses stay in use", SOON).await;
    assert_eq!(edge.get("shop.test", "/").await.status, 200);
}
