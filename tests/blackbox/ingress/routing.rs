//! Names and paths: who takes a request.

use aralez_integration::apps::http_echo;

use super::Edge;

#[tokio::test]
async fn host_and_path_choose_the_server() {
    let [shop, api, other] = [http_echo("shop").await.unwrap(), http_echo("api").await.unwrap(), http_echo("other").await.unwrap()];
    let edge = Edge::start(&format!(
        "provider: file\nupstreams:\n  shop.test:\n    paths:\n      /: {{servers: ['{}']}}\n      /api: {{servers: ['{}']}}\n  DEFAULT:\n    paths:\n      /: {{servers: ['{}']}}\n",
        shop.address, api.address, other.address
    ))
    .await;
    for (host, path, app) in [
        ("shop.test", "/", "shop"),
        ("SHOP.test.:80", "/x?y", "shop"),
        ("shop.test", "/api", "api"),
        ("shop.test", "/api/x", "api"),
        ("shop.test", "/apix", "shop"),
        ("shop.test", "//api", "api"),
        ("shop.test", "/./api", "api"),
        ("shop.test", "/x/../api", "api"),
        ("shop.test", "/%61pi", "api"),
        ("nobody.test", "/api", "other"),
        ("[::1]:80", "/", "other"),
    ] {
        let answer = edge.get(host, path).await;
        assert_eq!((answer.status.as_u16(), answer.headers["x-app"].to_str().unwrap()), (200, app), "{host} {path}");
    }
    for path in ["/x%2F..%2Fapi", "/%2fapi", "/x%5c..%5capi"] {
        assert_eq!(edge.get("shop.test", path).await.status, 400, "{path}");
    }
}
