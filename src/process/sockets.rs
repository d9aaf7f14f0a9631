//! Listening sockets by their address: bound before privileges are dropped, given by the service manager, or taken over from the process before
//! this one. Whoever listens asks here first.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::Path,
};

use listenfd::ListenFd;
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::model::listener::{Address, Bind};

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: i32 = 4096;

/// Sockets that listen, of any origin.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Those that nobody has asked for yet.
    ready: Mutex<HashMap<Address, OwnedFd>>,
    /// What will be asked for, at some time.
    promised: Mutex<HashSet<Address>>,
    /// Copies of those that serve for as long as the process does.
    lasting: Mutex<Vec<(Address, OwnedFd)>>,
}

impl Sockets {
    /// Those that the service manager gave (`LISTEN_FDS`, sd_listen_fds(3)). Their names do not matter: a socket is known by its address.
    ///
    /// # Errors
    /// When one of them is no listening stream socket.
    pub fn activated() -> io::Result<Self> {
        let (sockets, mut given) = (Self::default(), ListenFd::from_env());
        for at in 0..given.len() {
            let socket = match given.take_tcp_listener(at) {
                Ok(socket) => socket.map(OwnedFd::from),
                Err(_) => given.take_unix_listener(at)?.map(OwnedFd::from),
            };
            if let Some(socket) = socket {
                sockets.put(name(&socket)?, socket);
            }
        }
        Ok(sockets)
    }

    /// Keeps a socket that listens for whoever asks for its address.
    pub fn put(&self, address: Address, socket: OwnedFd) {
        self.ready.lock().insert(address, socket);
    }

    /// Sees to it that a socket is there before anybody asks for it, however late.
    ///
    /// # Errors
    /// As [`Sockets::listen`].
    pub fn prepare(&self, wanted: &Bind) -> io::Result<()> {
        if !self.ready.lock().contains_key(&wanted.address) {
            self.put(wanted.address.clone(), bind(wanted)?);
        }
        self.promised.lock().insert(wanted.address.clone());
        Ok(())
    }

    /// A socket that listens at an address: the one that is ready, else a new one.
    ///
    /// # Errors
    /// When it cannot be bound; a Unix socket also when another process listens there, or a file that is no socket is in the way.
    pub fn listen(&self, wanted: &Bind) -> io::Result<OwnedFd> {
        let ready = self.ready.lock().remove(&wanted.address);
        ready.map_or_else(|| bind(wanted), Ok)
    }

    /// The same for a listener that lives as long as the process: a new process can take it over.
    ///
    /// # Errors
    /// As [`Sockets::listen`], and when there are no more descriptors.
    pub fn listen_for_good(&self, wanted: &Bind) -> io::Result<OwnedFd> {
        let socket = self.listen(wanted)?;
        self.lasting.lock().push((name(&socket)?, socket.try_clone()?));
        Ok(socket)
    }

    /// Copies of the sockets that [`Sockets::listen_for_good`] gave.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn lasting(&self) -> io::Result<Vec<(Address, OwnedFd)>> {
        self.lasting.lock().iter().map(|(address, socket)| Ok((address.clone(), socket.try_clone()?))).collect()
    }

    /// Closes what nobody asks for, and says what that was: connections to it would wait for ever.
    pub fn close_rest(&self) -> Vec<Address> {
        let promised = self.promised.lock();
        self.ready.lock().extract_if(|address, _| !promised.contains(address)).map(|(address, _closed)| address).collect()
    }
}

/// Removes the file of a Unix socket that is no longer listened on.
pub fn remove_file(address: &Address) {
    if let Address::Unix(path) = address {
        let _ = fs::remove_file(path);
    }
}

/// Where a socket listens.
fn name(socket: &OwnedFd) -> io::Result<Address> {
    if !sockopt::socket_acceptconn(socket)? {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a socket that was given does not listen"));
    }
    let address = rustix::net::getsockname(socket)?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Ok(Address::Tcp(address));
    }
    let unix = SocketAddrUnix::try_from(address)?;
    let path = unix.path_bytes().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "a socket that was given has no address"))?;
    Ok(Address::Unix(Path::new(OsStr::from_bytes(path)).to_owned()))
}

fn bind(wanted: &Bind) -> io::Result<OwnedFd> {
    match &wanted.address {
        Address::Tcp(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, address)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(socket)
        }
        Address::Unix(path) => bind_unix(path, SocketType::STREAM, wanted.mode),
    }
}

/// Binds a Unix socket in place of one that an earlier process left behind; its file has the permissions `mode` from its first moment.
pub(super) fn bind_unix(path: &Path, kind: SocketType, mode: Option<u32>) -> io::Result<OwnedFd> {
    remove_stale(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    if let Some(mode) = mode {
        // Linux gives the file the socket's own mode, less the umask.
        rustix::fs::fchmod(&socket, mode.into())?;
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some(mode) = mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    rustix::net::listen(socket.as_fd(), BACKLOG)?;
    Ok(socket)
}

/// Removes a socket file that an earlier process left behind; one that still answers is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match UnixStream::connect(path) {
            // A socket of another type that listens says so.
            Err(why) if why.raw_os_error() != Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => fs::remove_file(path),
            _ => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on this socket")),
        },
        Ok(_) => Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is not a socket is in the way")),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn at(address: Address) -> Bind {
        Bind { address, mode: None }
    }

    fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        (listener, address)
    }

    #[test]
    fn a_socket_that_is_ready_is_taken_once_and_what_nobody_wants_is_closed() {
        let sockets = Sockets::default();
        let ((first, wanted), (second, unwanted)) = (listener(), listener());
        for (listener, address) in [(first, &wanted), (second, &unwanted)] {
            sockets.put(address.clone(), listener.into());
        }
        let taken = sockets.listen(&at(wanted.clone())).unwrap();
        assert_eq!(name(&taken).unwrap(), wanted);
        assert_eq!(sockets.listen(&at(wanted)).unwrap_err().kind(), ErrorKind::AddrInUse, "it was taken, and still listens");
        assert_eq!(sockets.close_rest(), std::slice::from_ref(&unwanted));
        let Address::Tcp(closed) = unwanted else { unreachable!() };
        assert!(TcpStream::connect(closed).is_err());
    }

    #[test]
    fn what_is_prepared_listens_before_it_is_asked_for() {
        let sockets = Sockets::default();
        let (free, address) = listener();
        drop(free);
        sockets.prepare(&at(address.clone())).unwrap();
        sockets.prepare(&at(address.clone())).unwrap();
        let Address::Tcp(tcp) = address else { unreachable!() };
        let _waiting = TcpStream::connect(tcp).unwrap();
        assert!(sockets.close_rest().is_empty(), "somebody will ask for it");
        sockets.listen_for_good(&at(address.clone())).unwrap();
        assert_eq!(sockets.lasting().unwrap()[0].0, address);
    }

    #[test]
    fn a_unix_socket_replaces_a_stale_one_only_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let wanted = Bind { address: Address::Unix(path.clone()), mode: Some(0o600) };
        for _ in 0..2 {
            let socket = Sockets::default().listen(&wanted).unwrap();
            assert_eq!(name(&socket).unwrap(), wanted.address);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            for kind in [SocketType::STREAM, SocketType::SEQPACKET] {
                assert_eq!(bind_unix(&path, kind, None).unwrap_err().kind(), ErrorKind::AddrInUse);
            }
        }
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        assert_eq!(bind_unix(&file, SocketType::STREAM, None).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
}
