//! Pools against servers, a name server and an agent of the test's own.

mod asking;
mod consul;
mod following;

use std::{fmt::Display, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::model::{
    balance::{Balance, Limits, PassiveHealth},
    cluster::TargetId,
    ingress::{
        PoolSource, Routing,
        pool::{HealthCheck, Pool, Server},
    },
};

/// A pool of these servers with quick probes.
pub fn pool(id: &str, servers: &[&dyn Display]) -> Pool {
    let servers = servers.iter().map(|server| self::server(&server.to_string())).collect();
    Pool {
        id: TargetId(id.into()),
        source: PoolSource::Servers(servers),
        balance: Balance::default(),
        limits: Limits::default(),
        passive: PassiveHealth::default(),
        health: Some(quick()),
        tls: Arc::default(),
        connect_timeout: Duration::from_secs(5),
        proxy_header: None,
    }
}

/// `host:port`.
pub fn server(text: &str) -> Server {
    use crate::model::ingress::ServerHost;
    let (host, port) = text.rsplit_once(':').unwrap();
    let port = port.parse().unwrap();
    let host = match host.parse() {
        Ok(ip) => ServerHost::Ip(ip, port),
        Err(_) => ServerHost::Name(host.into(), port),
    };
    Server { host, scheme: None, weight: 1 }
}

pub fn routing(pools: Vec<Pool>) -> Routing {
    Routing { pools: pools.into_iter().map(Arc::new).collect(), ..Routing::default() }
}

pub fn quick() -> HealthCheck {
    HealthCheck { interval: Duration::from_millis(100), timeout: Duration::from_secs(1), ..HealthCheck::default() }
}

/// A server that reads a little from each connection, writes these bytes, and closes; without bytes it stays silent.
pub async fn saying(answer: Option<&'static str>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(answer) = answer else {
                kept.push(stream);
                continue;
            };
            tokio::spawn(async move {
                let mut some = [0; 512];
                if matches!(stream.read(&mut some).await, Ok(1..)) {
                    // A client that has gone is no matter.
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                    while matches!(stream.read(&mut some).await, Ok(1..)) {}
                }
            });
        }
    });
    (address, task)
}
