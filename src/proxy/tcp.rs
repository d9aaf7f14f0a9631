//! Opaque connections: protocol `tcp` on both sides of the mesh.

use std::{io, sync::Arc, time::Duration};

use http::HeaderMap;
use openssl::ssl::Ssl;
use pingora_core::protocols::{Shutdown, tls::SslStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    connection::{Connection, Context},
    exchange::{Chosen, Exchange, Replay},
    guard::Outcome,
    live::{Live, LiveCluster},
    record::record,
    refusal::Refusal,
};
use crate::{
    model::listener::{Address, Role},
    telemetry::{
        Telemetry,
        record::{Flag, Record},
        traces::Step,
    },
};

/// Copy buffers, bytes: measured best for clear text on one side and TLS on the other.
const BUFFER: usize = 16 * 1024;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How an opaque connection ended.
enum End {
    /// Both sides finished, or one broke off, which is how many protocols end.
    Closed,
    /// Intentions changed and no longer allow it.
    NoLongerAllowed,
    /// It never began.
    Refused(Refusal),
}

/// Carries one opaque connection from accept to record. `no_longer_allowed` ends when the intentions turn against the peer.
pub async fn serve(
    mut connection: Connection,
    context: Arc<Context>,
    telemetry: &Telemetry,
    no_longer_allowed: impl Future<Output = ()> + Send,
) {
    let mut exchange = Exchange::default();
    let live = exchange.pin(&context);
    exchange.begin_trace(&live, &context, &HeaderMap::new());
    let admitted = exchange.authorize(&context, &live, None).and_then(|()| exchange.route(&live, None));
    exchange.lap_admission(&live, admitted.as_ref().err());
    let end = match admitted {
        Err(refusal) => End::Refused(refusal),
        Ok(()) => match connect(&mut exchange, &live).await {
            Err(refusal) => End::Refused(refusal),
            Ok(mut endpoint) => tokio::select! {
                _ = copy_bidirectional_with_sizes(&mut connection, &mut endpoint, BUFFER, BUFFER) => End::Closed,
                () = no_longer_allowed => End::NoLongerAllowed,
            },
        },
    };
    let refusal = match &end {
        End::Refused(refusal) => Some(refusal),
        _ => None,
    };
    if refusal.is_some() {
        connection.shutdown().await;
    }
    exchange.close_trace();
    let record = Record {
        flag: match &end {
            End::Closed => Flag::None,
            End::NoLongerAllowed => Flag::Unauthorized,
            End::Refused(refusal) => refusal.flag(),
        },
        details: match &end {
            End::Closed => "",
            End::NoLongerAllowed => "intention_no_longer_allows",
            End::Refused(refusal) => refusal.details(),
        },
        why: refusal.map(Refusal::why),
        received: connection.received(),
        sent: connection.sent(),
        transport_failure: refusal.and_then(Refusal::transport_failure),
        ..record(&exchange, &live)
    };
    telemetry.record(&record, &live.metrics);
}

/// balance → connect, until an endpoint answers or none is left.
async fn connect(exchange: &mut Exchange, live: &Live) -> Result<Box<dyn Stream>, Refusal> {
    loop {
        let Chosen { cluster, endpoint, .. } =
            exchange.choose(live).await.inspect_err(|refusal| exchange.lap_refused(Step::Balance, refusal))?;
        exchange.lap(Step::Balance);
        let dialled = match (&cluster, &live.listener.role) {
            (Some(cluster), _) => timeout_io(cluster.cluster.connect_timeout, dial_peer(cluster, &endpoint.address)).await,
            (None, Role::Inbound(inbound)) => timeout_io(inbound.connect_timeout, dial(&endpoint.address)).await,
            (None, _) => Err(io::Error::other("no cluster")),
        };
        match dialled {
            Ok(stream) => {
                exchange.lap(Step::Connect);
                exchange.ended(Outcome::Connected, None, Replay::default());
                return Ok(stream);
            }
            Err(why) => {
                exchange.lap_failed_try(&why);
                let refusal = Refusal::Connect(format!("{}: {why}", endpoint.address));
                if !exchange.ended(Outcome::ConnectFailure, Some(refusal.clone()), Replay { possible: true, ..Replay::default() }) {
                    return Err(refusal);
                }
            }
        }
    }
}

async fn timeout_io<T>(limit: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, io).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))))
}

async fn dial(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

/// Connects to a mesh peer; its identity is compared inside the handshake, so nothing is ever sent to another one.
async fn dial_peer(cluster: &LiveCluster, address: &Address) -> io::Result<Box<dyn Stream>> {
    let dialer = cluster.dialer.as_ref().ok_or_else(|| io::Error::other("the target is not of protocol tcp"))?;
    let Address::Tcp(address) = address else { return Err(io::Error::other("a mesh peer on a Unix socket")) };
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut session = Ssl::new(&dialer.context)?;
    session.set_hostname(&dialer.sni)?;
    let mut stream = SslStream::new(session, stream).map_err(io::Error::other)?;
    stream.connect().await.map_err(io::Error::other)?;
    Ok(Box::new(stream))
}
