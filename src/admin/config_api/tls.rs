//! The TLS side of the configuration API: handshakes beside the accept loop, and a certificate that can be swapped.

use std::{fs, io, net::SocketAddr, path::Path, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use arc_swap::ArcSwap;
use axum::serve::Listener;
use openssl::{
    pkey::PKey,
    ssl::{AlpnError, Ssl, SslAcceptor, SslContext, SslMethod, select_next_proto},
    x509::X509,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_openssl::SslStream;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections whose handshake is done and that wait to be served.
const WAITING: usize = 16;

/// The pause after a failed accept: most are for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What the listener shows to clients; connections that are up keep what they began with.
pub struct Identity(ArcSwap<SslContext>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads a certificate chain and its key, PEM files.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        Ok(Self(ArcSwap::from_pointee(context(certificate, key)?)))
    }

    /// Reads them again.
    ///
    /// # Errors
    /// As [`Identity::load`]; what was shown before stays then.
    pub fn reload(&self, certificate: &Path, key: &Path) -> anyhow::Result<()> {
        self.0.store(Arc::new(context(certificate, key)?));
        Ok(())
    }
}

fn context(certificate: &Path, key: &Path) -> anyhow::Result<SslContext> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut chain = X509::stack_from_pem(&read(certificate)?)
        .with_context(|| format!("{} has no PEM certificates", certificate.display()))?
        .into_iter();
    let leaf = chain.next().with_context(|| format!("{} has no certificate", certificate.display()))?;
    let secret = PKey::private_key_from_pem(&read(key)?).with_context(|| format!("{} has no PEM key", key.display()))?;
    ensure!(leaf.public_key()?.public_eq(&secret), "{} is not the key of {}", key.display(), certificate.display());
    // TLS 1.2 and 1.3 with forward secrecy and AEAD only.
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_certificate(&leaf)?;
    for intermediate in chain {
        acceptor.add_extra_chain_cert(intermediate)?;
    }
    acceptor.set_private_key(&secret)?;
    acceptor.set_alpn_select_callback(|_, offered| select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::NOACK));
    Ok(acceptor.build().into_context())
}

/// Gives connections whose handshake is done, so that one that stands still holds no other up.
#[derive(Debug)]
pub struct TlsListener {
    address: io::Result<SocketAddr>,
    ready: mpsc::Receiver<(SslStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Begins to accept.
    pub(super) fn start(listener: TcpListener, identity: Arc<Identity>) -> Self {
        let (sender, ready) = mpsc::channel(WAITING);
        let address = listener.local_addr();
        tokio::spawn(async move {
            // Ends with the receiver.
            while let Ok(permit) = sender.clone().reserve_owned().await {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = sender.closed() => return,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        let identity = identity.clone();
                        tokio::spawn(async move {
                            if let Ok(Ok(stream)) = timeout(HANDSHAKE, handshake(stream, &identity)).await {
                                permit.send((stream, peer));
                            }
                        });
                    }
                    Err(why) => {
                        tracing::warn!(%why, "cannot accept connections of the configuration API");
                        sleep(PAUSE).await;
                    }
                }
            }
        });
        Self { address, ready }
    }
}

async fn handshake(stream: TcpStream, identity: &Identity) -> anyhow::Result<SslStream<TcpStream>> {
    let mut stream = SslStream::new(Ssl::new(&identity.0.load())?, stream)?;
    Pin::new(&mut stream).accept().await?;
    Ok(stream)
}

impl Listener for TlsListener {
    type Io = SslStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accept loop ends only with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|why| why.kind().into())
    }
}
