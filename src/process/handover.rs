//! From one process to the next: the listening sockets, by SCM_RIGHTS over a Unix socket that only the owner can reach.
//!
//! The old process listens ([`Door`]); the new one connects and [`ask`]s, and gets every socket with its name. Both serve from then on, until the
//! new one says that it serves all of them ([`Waiting::ready`]): only then does the old one stop. If the new one ends before, nothing has changed.
//!
//! One message is one packet (SOCK_SEQPACKET): a version, a kind, a body. Sockets come in batches, for the kernel passes at most 253 descriptors at
//! once (SCM_MAX_FD): per socket the length of its name (u16, little endian) and the name; then a packet with the number of all (u32).

use std::{
    ffi::OsStr,
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketAddrUnix, SocketFlags, SocketType, UCred, sockopt,
    },
    process::{Pid, Uid},
};

use super::sockets::bind_unix;
use crate::model::listener::Address;

/// Of this protocol.
const VERSION: u8 = 1;
/// Sockets in one packet.
const BATCH: usize = 64;
/// Bytes in one packet, at most. A name has 4 KiB at most, so that a batch always fits.
const PACKET: usize = 64 * 4200;
/// How long the other side may take for one packet; while another process is being served, the next one waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a failed accept: being out of descriptors ends by waiting.
const PAUSE: Duration = Duration::from_secs(1);

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A listener of this address.
    Listener(Address),
    /// The pid file at this path, with its lock.
    PidFile(PathBuf),
    /// The socket at this path on which the next process asks.
    Door(PathBuf),
}

/// A descriptor with its name.
pub type Named = (Name, OwnedFd);

impl Name {
    fn bytes(&self) -> Vec<u8> {
        let (tag, text) = match self {
            Self::Listener(Address::Tcp(address)) => (b't', address.to_string().into_bytes()),
            Self::Listener(Address::Unix(path)) => (b'u', path.as_os_str().as_bytes().to_owned()),
            Self::PidFile(path) => (b'p', path.as_os_str().as_bytes().to_owned()),
            Self::Door(path) => (b'd', path.as_os_str().as_bytes().to_owned()),
        };
        [vec![tag], text].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (tag, text) = bytes.split_first()?;
        let path = || PathBuf::from(OsStr::from_bytes(text));
        match tag {
            b't' => Some(Self::Listener(Address::Tcp(std::str::from_utf8(text).ok()?.parse().ok()?))),
            b'u' => Some(Self::Listener(Address::Unix(path()))),
            b'p' => Some(Self::PidFile(path())),
            b'd' => Some(Self::Door(path())),
            _ => None,
        }
    }
}

/// The kinds of packets.
mod kind {
    pub(super) const SOCKETS: u8 = b's';
    pub(super) const END: u8 = b'e';
    pub(super) const REFUSED: u8 = b'n';
    pub(super) const READY: u8 = b'r';
}

/// The socket on which a new process asks for the listeners of this one.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    path: PathBuf,
}

impl Door {
    /// Listens at `path`, with the socket of the process before this one if that was handed over.
    ///
    /// # Errors
    /// When another process listens there, or nothing can be bound.
    pub fn open(path: &Path, inherited: Option<OwnedFd>) -> io::Result<Self> {
        let socket = inherited.map_or_else(|| bind_unix(path, SocketType::SEQPACKET, Some(0o600)), Ok)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// A copy for the next process.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn named(&self) -> io::Result<Named> {
        Ok((Name::Door(self.path.clone()), self.socket.try_clone()?))
    }

    /// Gives what `all` lists to each process that asks, until one of them serves it: returns that one's process id. Blocks.
    ///
    /// Processes of other users than root and this one's are refused; so is everybody while `all` fails.
    pub fn wait(self, all: impl Fn() -> anyhow::Result<Vec<Named>>) -> Pid {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(peer) => match give(&peer, &all) {
                    Ok(pid) => return pid,
                    Err(why) => tracing::warn!("no hand-over: {why:#}; this process goes on"),
                },
                Err(why) => {
                    tracing::warn!("cannot accept on {}: {why}", self.path.display());
                    thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// The old side of one hand-over.
fn give(peer: &OwnedFd, all: impl Fn() -> anyhow::Result<Vec<Named>>) -> anyhow::Result<Pid> {
    let UCred { pid, uid, .. } = sockopt::socket_peercred(peer)?;
    ensure!(is_trusted(uid, &[]), "process {pid} of user {uid} asked for the listeners, and may not");
    sockopt::set_socket_timeout(peer, sockopt::Timeout::Send, Some(PATIENCE))?;
    let sockets = match all() {
        Ok(sockets) => sockets,
        Err(why) => {
            send(peer, kind::REFUSED, format!("{why:#}").as_bytes(), &[])?;
            return Err(why);
        }
    };
    tracing::info!(sockets = sockets.len(), "process {pid} asked for the listeners");
    for batch in sockets.chunks(BATCH) {
        let mut body = Vec::new();
        for (name, _) in batch {
            let name = name.bytes();
            body.extend(u16::try_from(name.len())?.to_le_bytes());
            body.extend(name);
        }
        send(peer, kind::SOCKETS, &body, batch)?;
    }
    send(peer, kind::END, &u32::try_from(sockets.len())?.to_le_bytes(), &[])?;
    drop(sockets);
    match receive(peer) {
        Ok((kind::READY, ..)) => Ok(pid),
        Ok((kind, ..)) => bail!("process {pid} answered {:?} instead of being ready", char::from(kind)),
        Err(why) if why.kind() == ErrorKind::UnexpectedEof => bail!("process {pid} ended before it was ready"),
        Err(why) => Err(why).with_context(|| format!("process {pid}")),
    }
}

/// A new process that has got everything, and has not yet told the old one that it serves it.
#[derive(Debug)]
pub struct Waiting(OwnedFd);

impl Waiting {
    /// Everything is served: the old process may stop.
    ///
    /// # Errors
    /// When the old process has ended by itself.
    pub fn ready(self) -> io::Result<()> {
        send(&self.0, kind::READY, &[], &[])
    }
}

/// Asks the process that listens at `path` for all that it has; `None` if nobody listens there. The other side must be root, of the same user, or
/// one of `trusted`: whoever can put a socket in our way could otherwise hand us theirs. Blocks.
///
/// # Errors
/// When the other process refuses, speaks another version, or is not trusted.
pub fn ask(path: &Path, trusted: &[Uid]) -> anyhow::Result<Option<(Vec<Named>, Waiting)>> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        Err(why) => return Err(why.into()),
    }
    let uid = sockopt::socket_peercred(&socket)?.uid;
    ensure!(is_trusted(uid, trusted), "the socket belongs to user {uid}, who is neither root nor the user of this process");
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let mut all = Vec::new();
    loop {
        match receive(&socket)? {
            (kind::SOCKETS, body, sockets) => {
                let names = names(&body).filter(|names| names.len() == sockets.len()).context("a batch of sockets without names")?;
                all.extend(names.into_iter().zip(sockets));
            }
            (kind::END, body, _) => {
                ensure!(body == u32::try_from(all.len())?.to_le_bytes(), "not all sockets have arrived");
                return Ok(Some((all, Waiting(socket))));
            }
            (kind::REFUSED, why, _) => bail!("the running process refuses: {}", String::from_utf8_lossy(&why)),
            (kind, ..) => bail!("the running process sent {:?}, which is unknown here", char::from(kind)),
        }
    }
}

fn names(mut body: &[u8]) -> Option<Vec<Name>> {
    let mut names = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        names.push(Name::parse(name)?);
        body = rest;
    }
    Some(names)
}

fn is_trusted(uid: Uid, others: &[Uid]) -> bool {
    uid.is_root() || uid == rustix::process::geteuid() || others.contains(&uid)
}

fn send(to: &OwnedFd, kind: u8, body: &[u8], sockets: &[Named]) -> io::Result<()> {
    let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "too many sockets at once"));
    }
    let head = [VERSION, kind];
    rustix::net::sendmsg(to, &[IoSlice::new(&head), IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One packet: its kind, its body, its descriptors.
fn receive(from: &OwnedFd) -> io::Result<(u8, Vec<u8>, Vec<OwnedFd>)> {
    let mut packet = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(ErrorKind::InvalidData, "not all of a packet could be received; is the limit of open files too low?"));
    }
    packet.truncate(received.bytes);
    match packet.split_first_chunk() {
        None => Err(ErrorKind::UnexpectedEof.into()),
        Some(([VERSION, kind], body)) => Ok((*kind, body.to_owned(), sockets)),
        Some(([version, _], _)) => {
            Err(io::Error::new(ErrorKind::InvalidData, format!("version {version} of the hand-over is unknown here")))
        }
    }
}

#[cfg(test)]
mod tests;
