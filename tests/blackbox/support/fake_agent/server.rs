//! The HTTP side: connections, blocking queries, headers, and the faults that show on the wire.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::calls::Call;
use super::fault::{Fault, distort};
use super::topic::{Endpoint, Position, Topic};

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Accepts until the agent is dropped or stopped.
pub async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_connection(stream, Arc::clone(&shared), |stream: TcpStream| {
            stream.set_zero_linger().unwrap();
        });
    }
}

/// The same on a Unix socket.
pub async fn serve_unix(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_connection(stream, Arc::clone(&shared), |_: UnixStream| {});
    }
}

/// Serves one connection; `reset` ends it abruptly when a fault asks for it or the agent goes down.
fn spawn_connection<S>(stream: S, shared: Arc<Shared>, reset: fn(S))
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(open, Ordering::SeqCst);
        let broken = Arc::new(Notify::new());
        let service = service_fn({
            let (shared, broken) = (Arc::clone(&shared), Arc::clone(&broken));
            move |request| answer(request, Arc::clone(&shared), Arc::clone(&broken))
        });
        let mut down = shared.down.subscribe();
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let intact = tokio::select! {
            _ = &mut connection => true,
            () = broken.notified() => false,
            _ = down.wait_for(|down| *down) => false,
        };
        if !intact {
            reset(connection.into_parts().io.into_inner());
        }
        shared.open.fetch_sub(1, Ordering::SeqCst);
    });
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>, broken: Arc<Notify>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let query = parse_query(head.uri.query().unwrap_or(""));
    let topic = Topic::of(head.uri.path(), &query);
    let call = Call {
        at: std::time::Instant::now(),
        topic: topic.clone(),
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query,
        headers: head.headers,
    };
    shared.calls.lock().unwrap().push(call.clone());
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let Some(topic) = topic else {
        return Ok(plain(404, "no such endpoint in the contract", None));
    };
    match reply(&shared, &call, &topic, &body).await {
        Some(response) => Ok(response),
        None => {
            broken.notify_one();
            std::future::pending().await
        }
    }
}

/// Waits as the query asks, then answers; `None` resets the connection.
async fn reply(shared: &Shared, call: &Call, topic: &Topic, body: &Value) -> Option<Response<Body>> {
    let mut changes = shared.changes.subscribe();
    let wait = call.query.get("wait").and_then(|text| go_duration(text));
    let deadline = Instant::now() + wait.unwrap_or(Duration::from_secs(300));
    let began = shared.position(topic).version;
    let mut slowed = false;
    loop {
        changes.borrow_and_update();
        let fault = shared.fault(topic.endpoint);
        match fault {
            Some(Fault::Reset) => {
                shared.meets_fault(topic.endpoint);
                return None;
            }
            Some(Fault::Hang) => {
                shared.meets_fault(topic.endpoint);
                while shared.fault(topic.endpoint) == Some(Fault::Hang) {
                    changes.changed().await.ok()?;
                }
                return None;
            }
            Some(Fault::Slow(by)) if !slowed => {
                shared.meets_fault(topic.endpoint);
                sleep(by).await;
                slowed = true;
                continue;
            }
            Some(Fault::Status(status)) => {
                shared.meets_fault(topic.endpoint);
                return Some(plain(status, "a fault of the fake agent", Some(1)));
            }
            Some(Fault::Churn) => shared.data.lock().unwrap().positions.advance(topic),
            _ => {}
        }
        if let Some(refusal) = shared.refuse(call, topic) {
            return Some(refusal);
        }
        let position = shared.position(topic);
        let hash = shared.content_hash(topic);
        let same = match topic.endpoint {
            Endpoint::Registration => hash.is_some() && hash == call.query.get("hash").cloned(),
            Endpoint::Services | Endpoint::Authorize => false,
            // The index it was given is the only one that an agent at zero holds a call for: 1 in its place.
            _ if fault == Some(Fault::IndexZero) => call.index() == Some(1),
            _ => call.index().is_some_and(|index| index > 0 && position.index <= index),
        };
        let spoils_body = matches!(fault, Some(Fault::Garbage | Fault::Html | Fault::Truncated | Fault::WrongTypes | Fault::Endless));
        let unchanged = same && position.version == began && !spoils_body && fault != Some(Fault::Churn);
        let blocked = (unchanged || shared.awaits_log(call, topic)) && Instant::now() < deadline;
        if !blocked {
            if fault.is_some() {
                shared.meets_fault(topic.endpoint);
            }
            return Some(render(shared, topic, body, fault, position, hash));
        }
        let _held = Held::new(shared, topic);
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            () = sleep_until(deadline) => {}
        }
    }
}

/// Counts a held call, for as long as its future lives: a client may go away meanwhile.
struct Held<'a> {
    shared: &'a Shared,
    topic: &'a Topic,
}

impl<'a> Held<'a> {
    fn new(shared: &'a Shared, topic: &'a Topic) -> Held<'a> {
        shared.hold(topic);
        Held { shared, topic }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shared.release(self.topic);
    }
}

fn render(shared: &Shared, topic: &Topic, body: &Value, fault: Option<Fault>, position: Position, hash: Option<String>) -> Response<Body> {
    let content = shared.content(topic, body);
    let index = match (topic.endpoint, fault) {
        (Endpoint::Services | Endpoint::Registration | Endpoint::Authorize, _) => None,
        (_, Some(Fault::IndexZero)) => Some(0),
        _ => Some(position.index),
    };
    let mut content = match content {
        Ok(content) => content,
        Err((status, text)) => return shared.mark(plain(status, &text, index)),
    };
    if let Some(hash) = &hash {
        content["ContentHash"] = hash.clone().into();
    }
    let json = match fault {
        Some(fault) => distort(fault, content).to_string(),
        None => content.to_string(),
    };
    let (kind, bytes) = match fault {
        Some(Fault::Garbage) => ("application/json", vec![0xff, 0x00, 0x9c, 0x7b, 0xfe, 0x22]),
        Some(Fault::Html) => ("text/html", b"<html><body>It works!</body></html>".to_vec()),
        Some(Fault::Truncated) => ("application/json", json.as_bytes()[..json.len() / 2].to_vec()),
        _ => ("application/json", json.into_bytes()),
    };
    let body = match fault {
        Some(Fault::Endless) => endless(),
        _ => Full::new(Bytes::from(bytes)).boxed_unsync(),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(kind));
    if let Some(hash) = hash {
        headers.insert("x-consul-contenthash", hash.parse().unwrap());
    }
    add_index(headers, index);
    shared.mark(response)
}

/// A plain-text answer, as the agent's errors are.
pub fn plain(status: u16, text: &str, index: Option<u64>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())).boxed_unsync());
    *response.status_mut() = status.try_into().unwrap();
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    add_index(response.headers_mut(), index);
    response
}

fn add_index(headers: &mut HeaderMap, index: Option<u64>) {
    if let Some(index) = index {
        headers.insert("x-consul-index", index.into());
    }
}

fn endless() -> Body {
    let mebibyte = Bytes::from(vec![b' '; 1 << 20]);
    let frames = stream::repeat_with(move || Ok(Frame::data(mebibyte.clone())));
    StreamBody::new(frames).boxed_unsync()
}

fn parse_query(query: &str) -> HashMap<String, String> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// `300s`, `5m`, `1m30s`, `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let amount: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_length = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += match &rest[..unit_length] {
            "ms" => Duration::from_millis(amount),
            "s" => Duration::from_secs(amount),
            "m" => Duration::from_secs(amount * 60),
            "h" => Duration::from_secs(amount * 3600),
            _ => return None,
        };
        rest = &rest[unit_length..];
    }
    Some(total)
}
