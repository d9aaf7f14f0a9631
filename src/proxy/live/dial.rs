//! Endpoints as Pingora dials them: everything that does not depend on the request.

use std::{
    any::Any,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use openssl::{pkey::PKey, ssl::SslRef, x509::X509};
use parking_lot::Mutex;
use pingora_core::{
    ErrorType, OrErr,
    protocols::{ALPN, l4::socket::SocketAddr as PingoraAddress},
    upstreams::peer::HttpPeer,
    utils::tls::CertKey,
};

use crate::{
    model::{
        cluster::{Cluster, Dial, Endpoint, Trust},
        credentials::Certificate,
        identity::SpiffeId,
        ingress::pool::{ProxyHeader, Scheme, ServerTls},
        listener::Address,
    },
    proxy::{
        connection::Context,
        proxy_protocol::{self, Addresses, Announcing},
        tls::{AddressShown, Keys, ServerIdentity},
    },
    trust::system_roots,
};

/// How long an idle connection to the local app, or to a server behind an ingress listener, is kept: shorter than the keep-alive of common
/// servers (5 s), since a request with a body cannot be repeated when the server closes first.
const APP_IDLE: Duration = Duration::from_secs(4);
/// How long an idle connection to a mesh peer is kept: shorter than our own inbound keep-alive.
const PEER_IDLE: Duration = Duration::from_secs(50);
/// Streams on one HTTP/2 connection; the peer's own limit is respected besides.
const STREAMS: usize = 100;
/// HTTP/2 window of a stream towards an upstream, bytes: as large as that towards clients, for the same reason (see `proxy::plane`).
const STREAM_WINDOW: u32 = 16 << 20;

/// A cluster's endpoints as they are dialled.
pub(super) enum Peers {
    /// Mesh peers differ in their address alone.
    Mesh {
        template: Box<HttpPeer>,
        /// The identities that HTTP/2 peers must show before anything is sent.
        cut: Option<Arc<[SpiffeId]>>,
    },
    /// Servers, by their places.
    Servers(Vec<Server>),
}

/// A server behind an ingress listener as it is dialled.
pub(super) struct Server {
    peer: HttpPeer,
    /// What its certificate must have, where that is an address.
    address: Option<IpAddr>,
}

impl Peers {
    /// Prepares a cluster's endpoints; `keys` are ours in the mesh.
    ///
    /// # Errors
    /// In words, when a peer could not be verified or a certificate cannot be used.
    pub(super) fn new(cluster: &Cluster, keys: Option<&Keys>) -> Result<Self, String> {
        match (&cluster.trust, keys) {
            (Trust::Mesh { sni, expected }, Some(keys)) => {
                let template = Box::new(mesh_peer(cluster, sni, expected, keys)?);
                Ok(Self::Mesh { template, cut: cluster.protocol.is_http2().then(|| expected.clone()) })
            }
            (Trust::Mesh { .. }, None) => Err(format!("target {} is in the mesh, and we have no identity there", cluster.target)),
            (Trust::Servers { tls, .. }, _) => {
                let material = TlsMaterial::load(tls, &cluster.endpoints)?;
                let servers = cluster.endpoints.iter().map(|endpoint| server(cluster, endpoint, tls, &material));
                Ok(Self::Servers(servers.collect::<Result<_, _>>()?))
            }
        }
    }

    /// The endpoint at `place`; `None` when there is none, which no snapshot causes.
    pub(super) fn peer(&self, place: usize, endpoint: &Endpoint) -> Option<HttpPeer> {
        match self {
            Self::Mesh { template, cut } => {
                let mut peer = HttpPeer::clone(template);
                if let Address::Tcp(address) = &endpoint.address {
                    peer._address = PingoraAddress::Inet(*address);
                }
                if let Some(expected) = cut.clone() {
                    cut_unless(&mut peer, move |ssl| {
                        let server = ServerIdentity::of(ssl);
                        (server.id.as_ref().is_some_and(|id| expected.contains(id)), Arc::new(server))
                    });
                }
                Some(peer)
            }
            Self::Servers(servers) => {
                let Server { peer, address } = servers.get(place)?;
                let mut peer = peer.clone();
                if let Some(address) = *address {
                    cut_unless(&mut peer, move |ssl| {
                        let shown = AddressShown::of(ssl, address);
                        (shown.0, Arc::new(shown))
                    });
                }
                Some(peer)
            }
        }
    }
}

/// The local app, dialled in clear.
///
/// # Errors
/// When the path of its Unix socket is not UTF-8.
pub(super) fn app_peer(app: &Address, connect_timeout: Duration, alpn: ALPN) -> Result<HttpPeer, String> {
    let mut peer = peer_at(app, false, String::new())?;
    peer.options.alpn = alpn;
    ready(&mut peer, connect_timeout, APP_IDLE);
    Ok(peer)
}

fn peer_at(address: &Address, tls: bool, sni: String) -> Result<HttpPeer, String> {
    match address {
        Address::Tcp(address) => Ok(HttpPeer::new(*address, tls, sni)),
        Address::Unix(path) => {
            let path = path.to_str().ok_or("the socket's path is not UTF-8")?;
            HttpPeer::new_uds(path, tls, sni).map_err(|e| e.to_string())
        }
    }
}

fn ready(peer: &mut HttpPeer, connect_timeout: Duration, idle: Duration) {
    peer.options.connection_timeout = Some(connect_timeout);
    peer.options.total_connection_timeout = Some(connect_timeout);
    peer.options.idle_timeout = Some(idle);
    peer.options.max_h2_streams = STREAMS;
    peer.options.h2_stream_window_size = Some(STREAM_WINDOW);
    peer.options.h2_connection_window_size = Some(STREAM_WINDOW * 2);
}

/// A mesh peer without its address.
fn mesh_peer(cluster: &Cluster, sni: &str, expected: &Arc<[SpiffeId]>, keys: &Keys) -> Result<HttpPeer, String> {
    // Nobody is expected where nobody is: a prepared query that found no instance.
    let unnamed = expected.is_empty() && !cluster.endpoints.is_empty();
    if sni.is_empty() || unnamed {
        return Err(format!("target {} has no server name or no expected identity", cluster.target));
    }
    let mut peer = HttpPeer::new(SocketAddr::from(([0, 0, 0, 0], 0)), true, sni.to_owned());
    peer.client_cert_key = Some(keys.cert_key.clone());
    // Pingora's pool key holds neither the CA list nor the whole client certificate nor the identity that we expect: this does.
    peer.group_key = hash(&(keys.epoch, expected, cluster.protocol));
    peer.options.ca = Some(keys.ca.clone());
    peer.options.verify_hostname = false;
    peer.options.alpn = if cluster.protocol.is_http2() { ALPN::H2 } else { ALPN::H1 };
    peer.options.upstream_tls_handshake_complete_hook = Some(Arc::new(|ssl| Some(Arc::new(ServerIdentity::of(ssl)))));
    ready(&mut peer, cluster.connect_timeout, PEER_IDLE);
    Ok(peer)
}

/// What TLS to a pool's servers needs, loaded once.
struct TlsMaterial {
    roots: Option<Arc<Box<[X509]>>>,
    client: Option<Arc<CertKey>>,
}

impl TlsMaterial {
    /// Nothing, where nobody speaks TLS.
    fn load(tls: &ServerTls, endpoints: &[Arc<Endpoint>]) -> Result<Self, String> {
        if !endpoints.iter().any(|endpoint| endpoint.dial.as_ref().is_some_and(|dial| dial.scheme.is_tls())) {
            return Ok(Self { roots: None, client: None });
        }
        let certificates = |list: &[Certificate]| {
            let loaded: Result<Vec<X509>, _> = list.iter().map(|c| X509::from_der(c.der())).collect();
            loaded.map_err(|e| e.to_string())
        };
        let roots = match (tls.verify, tls.roots.is_empty()) {
            (false, _) => None,
            (true, true) => Some(system_roots()),
            (true, false) => Some(Arc::new(certificates(&tls.roots)?.into_boxed_slice())),
        };
        let client = match &tls.client {
            None => None,
            Some((chain, key)) => {
                let key = PKey::private_key_from_pem_passphrase(key.expose().as_bytes(), &[]).map_err(|e| e.to_string())?;
                let chain = certificates(chain)?;
                let fits = chain.first().and_then(|leaf| leaf.public_key().ok()).is_some_and(|public| public.public_eq(&key));
                if !fits {
                    return Err("the client certificate for servers and its key do not belong together".to_owned());
                }
                Some(Arc::new(CertKey::new(chain, key)))
            }
        };
        Ok(Self { roots, client })
    }
}

/// A server behind an ingress listener.
fn server(cluster: &Cluster, endpoint: &Endpoint, tls: &ServerTls, material: &TlsMaterial) -> Result<Server, String> {
    let Some(Dial { name, scheme }) = &endpoint.dial else {
        return Err(format!("nobody said how {} is spoken to", endpoint.address));
    };
    let is_tls = scheme.is_tls();
    // Pingora's name of a server, which it sends unless it is an address.
    let sni = if is_tls { tls.name.as_ref().unwrap_or(name).to_string() } else { String::new() };
    if is_tls && sni.is_empty() {
        return Err(format!("{} has no name: an empty one would switch verification off", endpoint.address));
    }
    let address = sni.parse().ok().filter(|_| is_tls && tls.verify);
    let mut peer = peer_at(&endpoint.address, is_tls, sni)?;
    peer.options.alpn = match scheme {
        Scheme::Http => ALPN::H1,
        Scheme::Https => ALPN::H2H1,
        Scheme::H2c | Scheme::Grpc | Scheme::Grpcs => ALPN::H2,
    };
    // Pingora's pool key names neither the protocol nor the roots nor the whole client certificate.
    peer.group_key = hash(&(scheme, tls));
    if is_tls {
        peer.options.verify_cert = tls.verify;
        peer.options.verify_hostname = tls.verify && address.is_none();
        peer.options.ca = material.roots.clone();
        peer.client_cert_key = material.client.clone();
    }
    ready(&mut peer, cluster.connect_timeout, APP_IDLE);
    Ok(Server { peer, address })
}

/// Has a connection begin with the header that tells whose it is. It is then for the requests of this one client connection alone.
pub(super) fn announce(peer: &mut HttpPeer, version: ProxyHeader, context: Option<&Context>) {
    let addresses = context.and_then(|context| Some(Addresses { client: context.remote?, called: context.local? }));
    peer.group_key = hash(&(peer.group_key, context.map(|context| context.id)));
    if peer.options.alpn.get_min_http_version() == 1 {
        // Pingora keeps a list of those that did not take HTTP/2, by this key and for ever.
        peer.options.alpn = ALPN::H1;
    }
    let tweak = peer.options.upstream_tcp_sock_tweak_hook.clone();
    peer.options.custom_l4 = Some(Arc::new(Announcing { header: proxy_protocol::header(version, addresses), tweak }));
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Shuts the socket of a new connection as soon as its server shows another identity than expected. For HTTP/1 the check before the request is
/// early enough; for HTTP/2 Pingora sends its preface and settings right after the handshake, and not even those are an impostor's to see.
/// Its handshake hook cannot refuse, so it takes the connection away instead. What `look` found besides its verdict stays with the connection.
fn cut_unless<T: Any + Send + Sync>(peer: &mut HttpPeer, look: impl Fn(&SslRef) -> (bool, Arc<T>) + Send + Sync + 'static) {
    let socket: Arc<Mutex<Option<OwnedFd>>> = Arc::default();
    let opened = socket.clone();
    peer.options.upstream_tcp_sock_tweak_hook = Some(Arc::new(move |new| {
        let copy = new.as_fd().try_clone_to_owned();
        *opened.lock() = Some(copy.or_err(ErrorType::SocketError, "cannot keep the socket at hand")?);
        Ok(())
    }));
    peer.options.upstream_tls_handshake_complete_hook = Some(Arc::new(move |ssl| {
        let (fine, found) = look(ssl);
        if let Some(socket) = socket.lock().take().filter(|_| !fine) {
            // A socket that cannot be shut is gone already.
            let _ = std::net::TcpStream::from(socket).shutdown(std::net::Shutdown::Both);
        }
        Some(found)
    }));
}
