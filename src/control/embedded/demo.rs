//! The demo app: says who it is and who called, calls its upstreams, and shows what they said.

use std::{net::SocketAddr, net::TcpListener, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::{
        HeaderMap, Request,
        header::{CONTENT_TYPE, HOST},
    },
    response::IntoResponse,
    routing::any,
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;

use super::plan::{PlannedService, PlannedUpstream};

/// Counts the demo apps that a call went through, so that services that call each other come to an end.
const DEPTH: &str = "x-demo-depth";
const MAX_DEPTH: u32 = 5;

/// Longest answer of an upstream that is shown, bytes.
const MAX_ANSWER: usize = 1 << 20;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A demo app that is bound but does not serve yet.
#[derive(Debug)]
pub(super) struct DemoApp {
    service: Arc<PlannedService>,
    listener: tokio::net::TcpListener,
}

impl DemoApp {
    /// The demo app of a service on a socket that listens already.
    pub(super) fn new(service: PlannedService, listener: TcpListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { service: Arc::new(service), listener: tokio::net::TcpListener::from_std(listener)? })
    }

    /// Serves until `shutdown`.
    pub(super) async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let name = self.service.name.clone();
        let router = Router::new().fallback(any(answer)).with_state(self.service);
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        serving.await.with_context(|| format!("the demo app of {name}"))
    }
}

async fn answer(State(service): State<Arc<PlannedService>>, headers: HeaderMap) -> impl IntoResponse {
    let depth: u32 = headers.get(DEPTH).and_then(|depth| depth.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut upstreams = Map::new();
    if depth < MAX_DEPTH {
        for PlannedUpstream { destination, address } in &service.upstreams {
            let said = match timeout(CALL_TIMEOUT, call(destination, *address, depth + 1)).await {
                Ok(Ok(said)) => said,
                Ok(Err(why)) => json!({ "error": format!("{why:#}") }),
                Err(_) => json!({ "error": "no answer in time" }),
            };
            upstreams.insert(destination.clone(), said);
        }
    }
    let said = json!({
        "service": service.name,
        "message": format!("hello from {}", service.name),
        "caller": headers.get("x-forwarded-client-cert").and_then(|xfcc| caller(xfcc.to_str().ok()?)),
        "upstreams": upstreams,
    });
    // Indented: it is people who read this, in a terminal.
    ([(CONTENT_TYPE, "application/json")], format!("{said:#}\n"))
}

/// One call through the service's own sidecar.
async fn call(destination: &str, address: SocketAddr, depth: u32) -> anyhow::Result<Value> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/").header(HOST, destination).header(DEPTH, depth).body(Body::empty())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = to_bytes(Body::new(response.into_body()), MAX_ANSWER).await?;
        let said = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        anyhow::Ok((status, said))
    };
    // The connection is driven beside the exchange, and let go with it.
    let (status, said): (u16, Value) = tokio::select! {
        outcome = exchange => outcome?,
        ended = connection => return Err(ended.err().map_or_else(|| anyhow::anyhow!("closed without an answer"), Into::into)),
    };
    Ok(json!({ "status": status, "said": said }))
}

/// The caller's SPIFFE ID: the URI in the last element, which the own sidecar wrote.
fn caller(xfcc: &str) -> Option<&str> {
    let (_, uri) = xfcc.rsplit_once("URI=")?;
    uri.split([';', ',']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_in_the_last_element() {
        let xfcc = r#"By=spiffe://td/b;Hash=00;URI=spiffe://td/forged,By=spiffe://td/b;Hash=11;Subject="";URI=spiffe://td/web"#;
        assert_eq!(caller(xfcc), Some("spiffe://td/web"));
        assert_eq!(caller("URI=spiffe://td/web;DNS=x"), Some("spiffe://td/web"));
        assert_eq!(caller("By=x"), None);
    }
}
