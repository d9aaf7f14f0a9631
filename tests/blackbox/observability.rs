//! What the registration says of logs and metrics, and what of it means nothing here.

use std::time::Duration;

use anyhow::{Context, ensure};
use aralez_integration::clients::{self, GrpcCall};
use aralez_integration::net::{Address, Listener};
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};
use tokio::time::timeout;

use crate::support::fake_agent::{FakeAgent, upstream};
use crate::support::mesh::{EFFECT, Mesh, RECOVERY, port, web};
use crate::support::raw::read_until;
use crate::support::sidecar::Launch;

const API: &str = "api-1-sidecar-proxy";
const WEB: &str = "web-1-sidecar-proxy";

/// Adds settings to the `Config` of a sidecar.
fn configure(agent: &FakeAgent, proxy: &str, settings: Value) {
    agent.edit_registration(proxy, |service| {
        let config = service["Proxy"]["Config"].as_object_mut().unwrap();
        config.extend(settings.as_object().unwrap().clone());
    });
}

/// Has the sidecar of `api` log as these `AccessLogs` say, and returns the first line of a request to `path`.
async fn line_of(mesh: &Mesh, logs: Value, path: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    mesh.agent.edit_registration(API, |service| {
        service["Proxy"]["AccessLogs"] = json!({"Enabled": true, "Type": "file", "Path": file});
        service["Proxy"]["AccessLogs"].as_object_mut().unwrap().extend(logs.as_object().unwrap().clone());
    });
    let line = eventually("a line", EFFECT, async || {
        let request = Request::post(format!("http://x{path}")).header("host", "api.example").header("user-agent", "test/1");
        let sent = clients::once(&mesh.entry, request.body(Bytes::from_static(b"four"))?).await?;
        ensure!(sent.status == 200);
        let text = std::fs::read_to_string(&file)?;
        text.split_inclusive('\n').find(|line| line.ends_with('\n')).map(str::to_owned).context("none")
    });
    line.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_the_json_that_was_asked_for() {
    let mesh = Mesh::start("http").await;
    let format = json!({
        "code": "%RESPONSE_CODE%", "what": "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "absent": "%REQ(x-none)%",
        "peer": {"id": "%DOWNSTREAM_PEER_URI_SAN%", "tls": "%DOWNSTREAM_TLS_VERSION%"}, "bytes": ["%BYTES_RECEIVED%", "%BYTES_SENT%"],
        "app": "%RESP(x-app)%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "moon": "%MOON%", "six": 6,
    });
    let line: Value = serde_json::from_str(&line_of(&mesh, json!({"JSONFormat": format.to_string()}), "/a?b").await).unwrap();
    let expected = json!({
        "code": 200, "what": "POST /a?b", "absent": null,
        "peer": {"id": mesh.agent.signer().service_uri("web"), "tls": "TLSv1.3"}, "bytes": [4, 4],
        "app": "api-1", "attempts": 1, "moon": null, "six": 6,
    });
    assert_eq!(line, expected);
    let snapshot = mesh.api.admin("/snapshot").await.unwrap().text();
    assert!(snapshot.contains("Proxy.AccessLogs.JSONFormat.moon"), "the unknown operator is not told: {snapshot}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_the_text_that_was_asked_for() {
    let mesh = Mesh::start("http").await;
    let format = "[%START_TIME(%Y)%] %PROTOCOL% %REQ(:AUTHORITY)% \"%REQ(USER-AGENT)%\" %RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %REQ(x-none)%";
    let line = line_of(&mesh, json!({"TextFormat": format}), "/").await;
    let (year, rest) = line.split_once(' ').unwrap();
    assert!(year.len() == 6 && year.starts_with("[20"), "{line}");
    assert_eq!(rest, "HTTP/1.1 api.example \"test/1\" - local_app -\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_has_a_line_unless_listener_logs_are_off() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mesh = Mesh::start("http").await;
    let logs = json!({"Enabled": true, "Type": "file", "Path": file, "TextFormat": "%CONNECTION_TERMINATION_DETAILS% %RESPONSE_CODE%"});
    mesh.agent.edit_registration(API, |service| service["Proxy"]["AccessLogs"] = logs.clone());
    let plain = async || {
        let mut stream = mesh.public.connect().await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        // The alert, and then the end.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        anyhow::Ok(())
    };
    let refused = eventually("a line", EFFECT, async || {
        plain().await?;
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.lines().all(|line| line == "tls_handshake_failed 0") && !text.is_empty(), "{text}");
        Ok(())
    });
    refused.await.unwrap();
    mesh.agent.edit_registration(API, |service| service["Proxy"]["AccessLogs"]["DisableListenerLogs"] = json!(true));
    let quiet = eventually("no line for a refused handshake", EFFECT, async || {
        let before = std::fs::read_to_string(&file)?.lines().count();
        plain().await?;
        // A request's line is written after whatever came before it.
        mesh.answering().await?;
        let text = eventually("the request's line", EFFECT, async || {
            let text = std::fs::read_to_string(&file)?;
            ensure!(text.lines().skip(before).any(|line| line.ends_with(" 200")), "{text}");
            Ok(text)
        });
        let text = text.await?;
        ensure!(text.lines().skip(before).all(|line| line.ends_with(" 200")), "{text}");
        Ok(())
    });
    quiet.await.unwrap();
}

/// The text of `/metrics` at a port, once it is there and has a line with all `parts`.
async fn scraped(port: u16, path: &str, parts: &[&str]) -> String {
    let wanted = format!("{parts:?} at {port}{path}");
    let text = eventually(&wanted, EFFECT * 2, async || {
        let answer = clients::get(&Address::port(port), path).await?;
        ensure!(answer.status == 200, "{}", answer.status);
        let text = answer.text();
        ensure!(text.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{text}");
        Ok(text)
    });
    text.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_a_listener_of_its_own_that_follows_the_registration() {
    let mesh = Mesh::start("http").await;
    let [first, second] = [free_port().unwrap(), free_port().unwrap()];
    configure(&mesh.agent, WEB, json!({"envoy_prometheus_bind_addr": format!("127.0.0.1:{first}"), "envoy_stats_tags": ["team=blue"]}));
    mesh.answering().await.unwrap();
    let called = [r#"aralez_requests_total{"#, r#"consul_source_service="web""#, r#"consul_destination_service="api""#, r#"team="blue""#];
    scraped(first, "/metrics", &called).await;
    scraped(first, "/metrics", &["aralez_requests_active{", r#"listener="web-1-sidecar-proxy/public""#, r#"local_cluster="web""#]).await;
    for path in ["/", "/snapshot", "/stats", "/ready", "/drain"] {
        assert_eq!(clients::get(&Address::port(first), path).await.unwrap().status, 404, "{path}");
    }
    configure(&mesh.agent, WEB, json!({"envoy_prometheus_bind_addr": format!("127.0.0.1:{second}")}));
    scraped(second, "/metrics", &called).await;
    let closed = eventually("the old listener to be gone", EFFECT, async || {
        ensure!(clients::get(&Address::port(first), "/metrics").await.is_err());
        Ok(())
    });
    closed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_have_a_listener_of_their_own() {
    let mesh = Mesh::start("http").await;
    let port = free_port().unwrap();
    configure(&mesh.agent, API, json!({"envoy_stats_bind_addr": format!("127.0.0.1:{port}")}));
    mesh.answering().await.unwrap();
    for path in ["/stats", "/stats/prometheus"] {
        scraped(port, path, &["aralez_connections_opened_total{", "/public", r#"consul_source_service="api""#]).await;
    }
    assert_eq!(clients::get(&Address::port(port), "/metrics").await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_metrics_address_is_told_and_stops_nothing() {
    let mut mesh = Mesh::start("http").await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    configure(&mesh.agent, API, json!({"envoy_prometheus_bind_addr": format!("127.0.0.1:{port}")}));
    mesh.api.logged("metrics cannot be served", EFFECT).await;
    mesh.answering().await.unwrap();
    mesh.api.assert_alive().await;
    drop(taken);
    scraped(port, "/metrics", &["aralez_build_info"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrape_path_is_the_flags() {
    let agent = FakeAgent::start().await;
    agent.register(&web(Vec::new()));
    let port = free_port().unwrap();
    configure(&agent, WEB, json!({"envoy_prometheus_bind_addr": format!("127.0.0.1:{port}")}));
    let _web = Launch::sidecar_for(&agent, "web-1").arg("-prometheus-scrape-path").arg("/scrape").start().await;
    scraped(port, "/scrape", &["aralez_build_info"]).await;
    assert_eq!(clients::get(&Address::port(port), "/metrics").await.unwrap().status, 404);
}

/// Waits for a datagram that has a line which `fits`; every datagram must be short.
async fn received(mut receive: impl AsyncFnMut(&mut [u8]) -> std::io::Result<usize>, fits: impl Fn(&str) -> bool) -> String {
    let mut seen = String::new();
    let found = timeout(RECOVERY, async {
        let mut buffer = vec![0; 65536];
        loop {
            let length = receive(&mut buffer).await.unwrap();
            assert!(length <= 1432, "a datagram of {length} bytes");
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            if let Some(line) = text.lines().find(|line| fits(line)) {
                return line.to_owned();
            }
            seen = text.to_owned();
        }
    });
    found.await.unwrap_or_else(|_| panic!("no such line; the last datagram was {seen}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn statsd_gets_names_that_begin_as_envoys() {
    let mesh = Mesh::start("http").await;
    let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp://{}", receiver.local_addr().unwrap());
    configure(&mesh.agent, WEB, json!({"envoy_statsd_url": url, "envoy_stats_flush_interval": "50ms"}));
    received(async |buffer| receiver.recv(buffer).await, |line| line.starts_with("envoy.connections_active.")).await;
    mesh.answering().await.unwrap();
    let line = received(async |buffer| receiver.recv(buffer).await, |line| line.starts_with("envoy.requests_total.")).await;
    assert!(line.contains(".api.") && line.ends_with(":1|c"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dogstatsd_gets_tags_and_follows_the_prefix() {
    let mesh = Mesh::start("http").await;
    let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp://{}", receiver.local_addr().unwrap());
    let settings = json!({"envoy_dogstatsd_url": url, "envoy_stats_flush_interval": "50ms", "envoy_stats_tags": ["foo=bar"]});
    configure(&mesh.agent, WEB, settings);
    received(async |buffer| receiver.recv(buffer).await, |line| line.starts_with("envoy.connections_active:")).await;
    mesh.answering().await.unwrap();
    let line = received(async |buffer| receiver.recv(buffer).await, |line| line.starts_with("envoy.requests_total:1|c|#")).await;
    for tag in ["local_cluster:web", "consul.destination.service:api", "foo:bar"] {
        assert!(line.split(['#', ',']).any(|t| t == tag), "{tag} is not in {line}");
    }
    configure(&mesh.agent, WEB, json!({"aralez_statsd_prefix": "mesh"}));
    received(async |buffer| receiver.recv(buffer).await, |line| line.starts_with("mesh.connections_active:")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dogstatsd_at_a_socket_gets_a_counter_for_each_grpc_method() {
    let mesh = Mesh::start("grpc").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dsd.sock");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let url = format!("unix://{}", path.display());
    configure(&mesh.agent, WEB, json!({"envoy_dogstatsd_url": url, "envoy_stats_flush_interval": "50ms"}));
    received(async |buffer| receiver.recv(buffer).await, |line| line.starts_with("envoy.requests_active:")).await;
    let call = GrpcCall::open(&mesh.entry, "/fgrpc.PingServer/Ping").await.unwrap();
    call.send(b"ping").await.unwrap();
    call.finish().await.unwrap();
    let line = received(async |buffer| receiver.recv(buffer).await, |line| line.contains("PingServer")).await;
    assert!(line.starts_with("envoy.grpc.fgrpc.PingServer.Ping.total:1|c|#"), "{line}");
    assert!(line.split(['#', ',']).any(|tag| tag == "local_cluster:web"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_without_effect_are_listed_with_the_reason() {
    let mut registration = web(vec![upstream("api", free_port().unwrap(), "http")]);
    registration.upstreams[0]["Config"]["envoy_cluster_json"] = json!("{}");
    let agent = FakeAgent::start().await;
    agent.register(&registration);
    configure(&agent, WEB, json!({"envoy_tracing_json": "{}", "colour": "blue"}));
    let web = Launch::sidecar_for(&agent, "web-1").start().await;
    let snapshot: Value = serde_json::from_str(&web.admin("/snapshot").await.unwrap().text()).unwrap();
    let ignored: Vec<[&str; 2]> = snapshot["ignored"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ignored| {
            assert!(!ignored["why"].as_str().unwrap().is_empty(), "{ignored}");
            [ignored["sidecar"].as_str().unwrap(), ignored["path"].as_str().unwrap()]
        })
        .collect();
    let paths = ["Proxy.Config.colour", "Proxy.Config.envoy_tracing_json", "Proxy.Upstreams[0].Config.envoy_cluster_json"];
    assert_eq!(ignored, paths.map(|path| [WEB, path]));
    assert_eq!(web.log().matches("settings of the registration that mean nothing here").count(), 1);
}

/// Trace headers as applications send them; none is the proxy's.
const TRACE: [(&str, &str); 7] = [
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
    ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
    ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
    ("x-b3-spanid", "e457b5a2e4d86bd1"),
    ("x-b3-sampled", "1"),
    ("x-client-trace-id", "mine"),
];

#[tokio::test(flavor = "multi_thread")]
async fn trace_headers_pass_unchanged_both_ways() {
    let mesh = Mesh::start("http").await;
    let fields: String = TRACE.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (app, address) = Listener::loopback().await.unwrap();
    let port = port(&address);
    mesh.agent.edit_registration(API, |service| service["Proxy"]["LocalServicePort"] = json!(port));
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\nx-raw: 1\r\n\r\n");
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(mut stream) = app.accept().await {
            let Ok(head) = read_until(&mut stream, b"\r\n\r\n").await else { continue };
            let _ = heads.send(String::from_utf8_lossy(&head).to_lowercase());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let answered = eventually("the app's answer", EFFECT, async || {
        let request =
            TRACE.iter().fold(Request::get("http://x/").header("host", "x"), |request, (name, value)| request.header(*name, *value));
        let answer = clients::once(&mesh.entry, request.header("x-request-id", "kept").body(Bytes::new())?).await?;
        ensure!(answer.headers.contains_key("x-raw"), "{} {}", answer.status, answer.text());
        Ok(answer)
    });
    let answer = answered.await.unwrap();
    let head = timeout(Duration::from_secs(5), seen.recv()).await.unwrap().unwrap();
    for (name, value) in TRACE.iter().chain(&[("x-request-id", "kept")]) {
        let line = format!("\r\n{name}: {}\r\n", value.to_lowercase());
        assert_eq!(head.matches(&line).count(), 1, "{name} in {head}");
    }
    for (name, value) in TRACE {
        let values: Vec<_> = answer.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
}
