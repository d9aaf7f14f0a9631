//! gRPC's own interoperability cases, Go on both ends, through both sidecars.

use std::process::Command;
use std::time::Duration;

use aralez_integration::components;
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;

use crate::scene::{PATIENCE, Pair};

const CASES: [&str; 8] = [
    "large_unary",
    "ping_pong",
    "client_streaming",
    "server_streaming",
    "empty_stream",
    "status_code_and_message",
    "custom_metadata",
    "cancel_after_begin",
];

/// The server of the cases, and where it listens.
pub async fn server() -> (Process, Address) {
    let port = free_port().unwrap();
    let mut command = Command::new(components::grpc_interop("server").unwrap());
    command.args([format!("--port={port}"), "--use_tls=false".into()]);
    let server = Process::start("grpc interop server", command, Duration::ZERO).unwrap();
    let app = Address::port(port);
    eventually("the server", PATIENCE, async || app.connect().await.map(drop)).await.unwrap();
    (server, app)
}

/// Every case passes through `upstream`.
pub async fn passes(upstream: &Address) {
    let Address::Tcp(upstream) = upstream else { panic!("a TCP upstream was asked for") };
    let client = components::grpc_interop("client").unwrap();
    let mut failed = Vec::new();
    for case in CASES {
        let mut command = Command::new(&client);
        command.args([format!("--server_host={}", upstream.ip()), format!("--server_port={}", upstream.port())]);
        command.args([format!("--test_case={case}"), "--use_tls=false".into()]);
        let mut client = Process::start(format!("grpc interop {case}"), command, Duration::ZERO).unwrap();
        let status = client.exit(PATIENCE).await;
        if !status.as_ref().is_ok_and(|status| status.success()) {
            failed.push(format!("{case}: {status:?}\n{}", client.log()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_interop() {
    let agent = Agent::shared().await.unwrap();
    let (_server, app) = server().await;
    let pair = Pair::start(&agent, "grpc", &app).await;
    passes(&pair.upstream).await;
}
