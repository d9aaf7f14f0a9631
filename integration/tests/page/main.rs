//! The status page in a real browser, of a mesh and of a reverse proxy with traffic.
//!
//! Pictures of it are left in the folder of temporary files of the target folder; those in `docs/images` were made so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod scene;

use std::path::PathBuf;

use aralez_integration::chromium::Chromium;
use serde_json::json;

use self::scene::Scene;

/// Wide and narrow: a desk, a phone.
const WIDTHS: [(u32, u32); 2] = [(1280, 800), (390, 844)];

/// Where a picture goes.
fn picture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"))
}

/// Looks at the page of an admin API in both widths and both schemes.
async fn inspect(name: &str, port: u16, words: &[&str]) {
    let mut browser = Chromium::start().await.unwrap();
    let origin = format!("http://127.0.0.1:{port}");
    for (width, height) in WIDTHS {
        for scheme in ["light", "dark"] {
            let what = format!("{name}-{width}-{scheme}");
            browser.look(width, height, scheme).await.unwrap();
            browser.open(&format!("{origin}/")).await.unwrap();
            browser.wait_for("document.getElementById('verdict').textContent === 'Ready'").await.unwrap();
            let requests = "Number(document.querySelector('#glance div:nth-child(2) dd').textContent.replaceAll(',', ''))";
            let first = browser.evaluate(requests).await.unwrap();
            assert!(first.as_f64() > Some(0.0), "{what}: {first} requests");
            browser.wait_for(&format!("{requests} > {first}")).await.unwrap();
            let pace = "parseFloat(document.querySelector('#glance div:first-child dd').textContent) > 0";
            browser.wait_for(pace).await.unwrap();
            let text = browser.evaluate("document.body.innerText").await.unwrap();
            for word in words {
                assert!(text.as_str().unwrap().to_lowercase().contains(&word.to_lowercase()), "{what}: no {word} in {text}");
            }
            let wide = browser.evaluate("document.documentElement.scrollWidth").await.unwrap();
            assert_eq!(wide, width, "{what}: it scrolls sideways");
            let clipped = "[...document.querySelectorAll('td, th, dd')].filter((cell) => cell.scrollWidth > cell.clientWidth + 1 && cell.offsetParent && \
                 getComputedStyle(cell).display !== 'none').map((cell) => cell.textContent)";
            assert_eq!(browser.evaluate(clipped).await.unwrap(), json!([]), "{what}: text is cut off");
            browser.picture(&picture(&what), width, 4000.0).await.unwrap();
        }
    }
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    let elsewhere: Vec<_> = browser.requests().iter().filter(|url| !url.starts_with(&origin) && !url.starts_with("data:")).collect();
    assert!(elsewhere.is_empty() && browser.requests().len() > 4, "{:?}", browser.requests());
    let markup = browser
        .evaluate("document.querySelectorAll('table').length > 3 && [...document.querySelectorAll('table')].every((t) => t.caption)");
    assert_eq!(markup.await.unwrap(), true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_mesh_is_alive_calm_and_alone() {
    let scene = Scene::mesh().await.unwrap();
    inspect(
        "mesh",
        scene.admin,
        &["spiffe://", "left of", "web → api", "healthy", "by the default policy", "intention batch -> api", "refus"],
    )
    .await;
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_reverse_proxy_is_alive_calm_and_alone() {
    let scene = Scene::edge().await.unwrap();
    inspect("edge", scene.admin, &["reverse proxy", "shop.example/api", "failing checks", "auth", "no route", "snapshot"]).await;
    scene.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_that_it_lost_its_process() {
    let scene = Scene::edge().await.unwrap();
    let mut browser = Chromium::start().await.unwrap();
    browser.look(1280, 800, "light").await.unwrap();
    browser.open(&format!("http://127.0.0.1:{}/", scene.admin)).await.unwrap();
    browser.wait_for("document.getElementById('verdict').textContent === 'Ready'").await.unwrap();
    scene.stop().await.unwrap();
    browser.wait_for("document.getElementById('lost').textContent.startsWith('No answer')").await.unwrap();
    browser.wait_for("document.body.classList.contains('stale')").await.unwrap();
}
