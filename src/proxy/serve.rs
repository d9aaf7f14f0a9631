//! One accepted connection, from TLS to its end.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ServerApp},
    protocols::{Shutdown, http::ServerSession},
    tls::ssl::{NameType, Ssl, SslAcceptor},
};
use pingora_proxy::HttpProxy;
use tokio::{io::BufStream, sync::watch, time::timeout};

use super::{
    connection::{Connection, Context, Head, Socket, Spoken, buffered},
    exchange::Exchange,
    headers,
    http::Sidecar,
    listeners::Turn,
    live::{Live, Side},
    proxy_protocol::{self, Addresses},
    record::record,
    refusal::Refusal,
    tcp,
    tls::{
        HANDSHAKE_TIMEOUT, Peer,
        names::{ACME, Front},
        shown_id,
    },
};
use crate::{
    model::{
        ingress::ProxyProtocol,
        intention::Verdict,
        listener::{Listener, Role, Xfcc},
    },
    telemetry::{
        Telemetry,
        record::{HttpPart, Record},
    },
};

/// How long a client may keep an idle connection. Peers' pools give up earlier (50 s), so that they rarely meet a closed one.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take for the head of an HTTP/1 request, from its first byte on.
const HEAD: Duration = Duration::from_secs(30);
/// How long an HTTP/2 connection may have no request in flight; a head that never ends is none.
const HTTP2_IDLE: Duration = Duration::from_secs(300);
/// How long requests in flight on an HTTP/2 connection may go on after its peer was denied; its new requests are refused at once.
const DENIED_GRACE: Duration = Duration::from_secs(1);

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of an HTTP/1 request, from its first byte on.
    pub head: Duration,
    /// For the next request of an HTTP/2 connection that has none in flight; a head that never ends is none.
    pub http2_idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: HEAD, http2_idle: HTTP2_IDLE }
    }
}

/// What all connections share.
pub struct Plane {
    /// How long clients may take.
    pub patience: Patience,
    /// The one Pingora proxy.
    pub http: Arc<HttpProxy<Sidecar>>,
    /// Where records go.
    pub telemetry: Arc<Telemetry>,
}

/// Serves an accepted socket until it ends. Counting, draining and killing are the caller's.
pub async fn serve(plane: Arc<Plane>, live: Arc<ArcSwap<Live>>, turn: Turn, socket: Socket) {
    let (remote, local) = match &socket {
        Socket::Tcp(socket) => (socket.peer_addr().ok(), socket.local_addr().ok()),
        Socket::Unix(_) => (None, None),
    };
    let mut context = Context::new(live.clone(), remote, local, turn.draining.clone());
    let now = live.load_full();
    let mut socket = buffered(socket);
    if speaks_for_others(&now.listener, remote) {
        match proxy_protocol::read(&mut socket).await {
            Ok(None) => {}
            Ok(Some(Addresses { client, called })) => (context.remote, context.local) = (Some(client), Some(called)),
            Err(why) => return tracing::info!(listener = %now.listener.key, peer = ?remote, "connection refused: {why}"),
        }
    }
    if matches!(&now.listener.role, Role::Exposed(exposed) if exposed.near_only) && !is_near(remote, local) {
        return tracing::debug!(listener = %now.listener.key, client = ?remote, "not a caller of this host");
    }
    context.greeting.accepted = Some(Instant::now());
    let mut connection = match greet(&now, socket, &mut context).await {
        Ok(connection) => connection,
        Err(why) => {
            // A client that says nothing and leaves is a health check (Consul's own does so), not a failure.
            if why.contains("unexpected EOF") {
                return tracing::debug!(listener = %now.listener.key, client = ?remote, "the client left during the TLS handshake");
            }
            now.metrics.tls_failed(cause(&why));
            tracing::info!(listener = %now.listener.key, client = ?remote, "TLS handshake refused: {why}");
            let mut exchange = Exchange::default();
            exchange.pin(&Arc::new(context));
            let failed = Record { details: "tls_handshake_failed", downstream_failure: Some(&why), ..record(&exchange, &now) };
            plane.telemetry.refused(&failed);
            return;
        }
    };
    if connection.tls().and_then(|tls| tls.selected_alpn_protocol()) == Some(ACME) {
        // The handshake was all that the ACME server wanted.
        return connection.shutdown().await;
    }
    let context = Arc::new(context);
    if connection.attach(context.clone()).is_err() {
        return;
    }
    let is_http = now.listener.protocol.is_http();
    drop(now);
    if !is_http {
        // It is authorized inside, before its first byte: from then on it was allowed.
        let cut = no_longer_allowed(&context, turn.changed.clone(), true);
        return tcp::serve(connection, context.clone(), &plane.telemetry, cut).await;
    }
    let spoken = tokio::select! {
        biased;
        spoken = connection.sniff(KEEP_ALIVE) => spoken,
        () = turn.leave.cancelled() => Spoken::Nothing,
    };
    let cut = async {
        no_longer_allowed(&context, turn.changed.clone(), is_allowed(&context)).await;
        if spoken == Spoken::Http2 {
            tokio::time::sleep(DENIED_GRACE).await;
        } else {
            // An HTTP/1 request in flight may end; a tunnel may not go on. The next request is judged on its own.
            context.tunnel.begun().await;
        }
    };
    tokio::select! {
        () = speak(&plane, connection, spoken, &turn) => {}
        () = cut => tracing::info!("closed a connection whose peer is no longer allowed"),
        () = context.tunnel.stood_still() => tracing::debug!("closed a tunnel on which nothing moved"),
    }
}

async fn speak(plane: &Plane, connection: Connection, spoken: Spoken, turn: &Turn) {
    match spoken {
        Spoken::Nothing => {}
        Spoken::Http1 => http1(plane, Box::new(connection), turn).await,
        Spoken::Http2 => {
            plane.http.process_new(Box::new(connection), &turn.drain).await;
        }
    }
}

/// Whether a caller is on this host: it calls from loopback, or from the address that it calls.
fn is_near(remote: Option<SocketAddr>, local: Option<SocketAddr>) -> bool {
    let (Some(remote), Some(local)) = (remote.map(|r| r.ip().to_canonical()), local.map(|l| l.ip().to_canonical())) else { return false };
    remote.is_loopback() || remote == local
}

/// Whether a peer must begin with the PROXY header of a client's connection.
fn speaks_for_others(listener: &Listener, peer: Option<SocketAddr>) -> bool {
    let Role::Ingress(ingress) = &listener.role else { return false };
    match (&ingress.client.proxy_protocol, peer) {
        (ProxyProtocol::Off, _) | (ProxyProtocol::From(_), None) => false,
        (ProxyProtocol::From(networks), Some(peer)) => networks.contain(peer.ip()),
    }
}

/// tls → identify, where the listener speaks TLS.
async fn greet(live: &Live, socket: BufStream<Socket>, context: &mut Context) -> Result<Connection, String> {
    let (mesh, front) = match &live.side {
        Side::App(app) => (app.acceptor.as_ref(), None),
        Side::Ingress(ingress) => (None, ingress.acceptor.as_deref()),
        Side::Upstream(_) => (None, None),
    };
    match (mesh, front) {
        (Some(acceptor), _) => identify(acceptor, socket, &live.listener, context).await,
        (None, Some(front)) => terminate(front, socket, context).await,
        (None, None) => Ok(Connection::plain(socket)),
    }
}

/// tls, with anybody.
async fn terminate(front: &Front, socket: BufStream<Socket>, context: &mut Context) -> Result<Connection, String> {
    let session = front.session().map_err(|e| e.to_string())?;
    let connection = Connection::accept_tls(socket, session, HANDSHAKE_TIMEOUT).await?;
    context.greeting.secured = Some(Instant::now());
    let ssl = connection.tls().ok_or("no TLS")?;
    context.server_name = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
    context.tls_version = Some(ssl.version_str());
    context.certificate = headers::client_element(ssl);
    context.source = shown_id(ssl).map(|id| id.to_string());
    context.greeting.identified = Some(Instant::now());
    Ok(connection)
}

/// tls → identify, with a mesh peer.
async fn identify(
    acceptor: &SslAcceptor,
    socket: BufStream<Socket>,
    listener: &Listener,
    context: &mut Context,
) -> Result<Connection, String> {
    let session = Ssl::new(acceptor.context()).map_err(|e| e.to_string())?;
    let connection = Connection::accept_tls(socket, session, HANDSHAKE_TIMEOUT).await?;
    context.greeting.secured = Some(Instant::now());
    let ssl = connection.tls().ok_or("no TLS")?;
    let id = shown_id(ssl).ok_or("the client showed no SPIFFE ID")?;
    let xfcc = match &listener.role {
        Role::Inbound(inbound) if inbound.xfcc == Xfcc::AppendForward => {
            listener.identity.as_ref().and_then(|identity| headers::xfcc_element(ssl, &identity.leaf.id, &id))
        }
        _ => None,
    };
    context.server_name = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
    context.tls_version = Some(ssl.version_str());
    context.peer = Some(Peer { id, xfcc });
    context.greeting.identified = Some(Instant::now());
    Ok(connection)
}

/// Ends when the intentions turn against a peer that they `allowed` so far; never on the outbound side.
async fn no_longer_allowed(context: &Context, mut changed: watch::Receiver<u64>, mut allowed: bool) {
    loop {
        let now = is_allowed(context);
        if allowed && !now {
            return;
        }
        allowed = now;
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Whether the listener's present intentions let the connection's peer through.
fn is_allowed(context: &Context) -> bool {
    match &context.live.load().listener.role {
        Role::Inbound(inbound) => match context.judge(&inbound.intentions) {
            Verdict::Permit(_) => true,
            Verdict::Denied(_) => false,
            // Each request is judged on its own.
            Verdict::PerRequest(_) => context.live.load().listener.protocol.is_http(),
        },
        Role::Upstream(_) | Role::Exposed(_) | Role::Ingress(_) => true,
    }
}

/// HTTP/1: our own keep-alive loop, since Pingora's does not see a listener's drain while it waits for a request.
async fn http1(plane: &Plane, mut connection: Box<Connection>, turn: &Turn) {
    connection.read_ahead();
    let Some(context) = connection.context().cloned() else { return };
    let mut settings: Option<HttpPersistentSettings> = None;
    loop {
        match connection.head(plane.patience.head).await {
            Head::Whole => {}
            Head::Gone => return connection.shutdown().await,
            Head::Refused(refusal) => {
                log_refused(plane, &context, connection.shown_head(), &refusal);
                return connection.refuse(&refusal).await;
            }
        }
        let mut session = ServerSession::new_http1(connection);
        match settings.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(KEEP_ALIVE.as_secs())),
        }
        let heard = context.heard();
        let Some(reused) = plane.http.process_new_http(session, &turn.drain).await else {
            if context.heard() == heard {
                // Pingora's parser refused what the gate let through; it answers 400 itself.
                log_refused(plane, &context, ("-", ""), &Refusal::BadRequest("it is not valid HTTP"));
            }
            return;
        };
        let (next, persistent) = reused.consume();
        settings = persistent;
        let Ok(next) = next.into_any().downcast::<Connection>() else { return };
        connection = next;
        // A request that is in the buffer already is served even when the connection is to end.
        let more = tokio::select! {
            biased;
            more = timeout(KEEP_ALIVE, connection.readable()) => more.unwrap_or(false),
            () = turn.leave.cancelled() => false,
        };
        if !more || !connection.is_at_end() {
            return connection.shutdown().await;
        }
    }
}

/// A request that never becomes an exchange leaves its line in the log and its count all the same.
fn log_refused(plane: &Plane, context: &Arc<Context>, (method, path): (&str, &str), refusal: &Refusal) {
    let mut exchange = Exchange::default();
    let live = exchange.pin(context);
    let _in_flight = live.metrics.request_began();
    let http = HttpPart { method, path, version: "HTTP/1.1", status: refusal.status(), ..HttpPart::default() };
    let (flag, details, why) = (refusal.flag(), refusal.details(), Some(refusal.why()));
    let refused = Record { http: Some(http), flag, details, why, ..record(&exchange, &live) };
    tracing::debug!(listener = %live.listener.key, "refused: {refusal}");
    plane.telemetry.record(&refused, &live.metrics);
}

/// A handshake's failure in one of few words, for the metric.
fn cause(why: &str) -> &'static str {
    const KNOWN: [(&str, &str); 7] = [
        ("did not finish", "timeout"),
        ("peer did not return a certificate", "no_certificate"),
        ("certificate verify failed", "certificate_refused"),
        ("no SPIFFE ID", "certificate_refused"),
        ("unsupported protocol", "version"),
        ("no shared cipher", "cipher"),
        ("alert", "refused_by_client"),
    ];
    KNOWN.iter().find(|(text, _)| why.contains(text)).map_or("other", |(_, word)| word)
}
