//! The examples do what their comments say: their routes, with servers and folders of the test in the places of theirs.

use aralez_integration::{apps::http_echo, clients};
use http::Method;

use super::{Edge, Setup, request};

/// The routes of an example, with these texts in the places of others.
fn routes(example: &str, replaced: &[(&str, &str)]) -> String {
    let path = format!("{}/examples/{example}/upstreams.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    replaced.iter().fold(text, |text, (theirs, ours)| {
        assert!(text.contains(theirs), "{example} has no {theirs}");
        text.replace(theirs, ours)
    })
}

async fn status(edge: &Edge, host: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
    edge.send(request(Method::GET, host, path, fields)).await.status.as_u16()
}

#[tokio::test]
async fn a_site_and_its_api() {
    let (apis, folder) =
        ([http_echo("api").await.unwrap(), http_echo("api").await.unwrap(), http_echo("api").await.unwrap()], tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("index.html"), "<h1>shop</h1>").unwrap();
    let ([one, two, three], root) = (apis.each_ref().map(|api| api.address.to_string()), folder.path().display().to_string());
    let text = routes(
        "site-and-api",
        &[
            ("10.0.0.11:9000", &one),
            ("10.0.0.12:9000", &two),
            ("10.0.1.11:9000", &three),
            ("/srv/shop", &root),
            ("to_https: true", "to_https: false"),
        ],
    );
    let edge = Edge::start(&text).await;
    let page = edge.get("shop.example", "/").await;
    assert_eq!(
        (page.status.as_u16(), page.text().as_str(), &page.headers["cache-control"]),
        (200, "<h1>shop</h1>", &"max-age=300".parse().unwrap())
    );
    let dump = edge.get("shop.example", "/api/debug?env=dump").await;
    assert!(dump.text().starts_with("GET /debug?env=dump ") && dump.headers["x-frame-options"] == "DENY", "{}", dump.text());
    let moved = edge.get("www.shop.example", "/a?b").await;
    assert_eq!((moved.status.as_u16(), &moved.headers["location"]), (308, &"https://shop.example/a?b".parse().unwrap()));
    let mut big = request(Method::POST, "shop.example", "/api", &[]);
    *big.body_mut() = vec![b'x'; 2 << 20].into();
    assert_eq!(edge.send(big).await.status, 413);
}

#[tokio::test]
async fn grpc_calls() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let (first, second) = (one.address.to_string(), two.address.to_string());
    let text =
        routes("grpc", &[("10.0.0.21:50051", &first), ("10.0.0.22:50051", &second), ("healthcheck: {type: grpc}", "healthcheck: false")]);
    let ca = aralez_integration::web_pki::WebCa::new().root_pem();
    let edge = Setup::new(&text.replace("grpc.example", "DEFAULT")).file("internal-ca.pem", ca).start().await;
    let mut call = clients::GrpcCall::open(&edge.http, "/shop.Orders/Watch").await.unwrap();
    call.send(b"hello").await.unwrap();
    assert_eq!(call.receive().await.unwrap().unwrap(), &b"hello"[..]);
    let (_, trailers) = call.finish().await.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn websockets_that_stick() {
    use futures_util::{SinkExt, StreamExt};
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let (first, second) = (one.address.to_string(), two.address.to_string());
    let text = routes("websocket", &[("10.0.0.31:3000", &first), ("10.0.0.32:3000", &second), ("chat.example", "DEFAULT")]);
    let edge = Edge::start(&text).await;
    let mut socket = clients::websocket(&edge.http, "/ws").await.unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "hello");
    let answer = edge.get("any.test", "/").await;
    let (server, cookie) = (answer.headers["x-app"].clone(), answer.headers["set-cookie"].to_str().unwrap().to_owned());
    let cookie = cookie.split(';').next().unwrap();
    for _ in 0..6 {
        let again = edge.send(request(Method::GET, "any.test", "/", &[("cookie", cookie)])).await;
        assert_eq!(again.headers["x-app"], server);
    }
}

#[tokio::test]
async fn kinds_of_authentication() {
    let app = http_echo("app").await.unwrap();
    let server = app.address.to_string();
    let ports = ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003", "127.0.0.1:9004"];
    let mut replaced: Vec<(&str, &str)> = ports.iter().map(|port| (*port, &*server)).collect();
    replaced.extend([
        ("${API_KEY_ONE}", "k-1"),
        ("${API_KEY_TWO}", "k-2"),
        ("https://issuer.example/.well-known/jwks.json", "http://127.0.0.1:1/jwks.json"),
    ]);
    let users = std::fs::read(format!("{}/examples/auth/users.htpasswd", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let edge = Setup::new(&routes("auth", &replaced)).file("users.htpasswd", users).start().await;
    for (path, wanted) in [("/", 401), ("/public", 200), ("/api", 401), ("/own", 401), ("/partner", 401), ("/portal", 503)] {
        assert_eq!(status(&edge, "any.test", path, &[]).await, wanted, "{path}");
    }
    assert_eq!(status(&edge, "any.test", "/api", &[("x-api-key", "k-2")]).await, 200);
}
