//! The PROXY protocol, versions 1 and 2: a balancer in front tells the client's address before the client's first byte, and we tell it servers.
//!
//! Read strictly as HAProxy's `doc/proxy-protocol.txt` has it: what is not exactly a header is refused with its connection. What version 2 adds in TLVs
//! is passed over.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    ErrorType, OrErr, Result,
    connectors::L4Connect,
    protocols::l4::{socket::SocketAddr as PingoraAddress, stream::Stream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UnixStream},
    time::timeout,
};

use crate::model::ingress::pool::ProxyHeader;

/// How long a peer may take to send its header.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Begins version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Begins version 1.
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;
/// Longest header of version 2 that is taken, after its first 16 bytes: the addresses, and ample room for TLVs.
const LONGEST_REST: usize = 4096;

/// Whose connection it is: the client's address and the one that it called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub client: SocketAddr,
    /// What it called.
    pub called: SocketAddr,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header; `None` speaks for nobody (`LOCAL`, `UNKNOWN`): the connection is the peer's own.
    Whole(Option<Addresses>),
    /// The beginning of one; so many bytes more are part of it.
    More(usize),
}

/// Bytes that begin no header, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header: {0}")]
pub struct Malformed(&'static str);

/// Reads a header from its bytes; never from more than its own.
///
/// # Errors
/// [`Malformed`] as soon as no header can begin like this.
pub fn parse(bytes: &[u8]) -> std::result::Result<Parsed, Malformed> {
    let begins = |word: &[u8]| bytes.iter().zip(word).all(|(a, b)| a == b);
    match bytes {
        [] => Ok(Parsed::More(1)),
        _ if begins(WORD) => version1(bytes),
        _ if begins(SIGNATURE) => version2(bytes),
        _ => Err(Malformed("it begins otherwise")),
    }
}

fn version1(bytes: &[u8]) -> std::result::Result<Parsed, Malformed> {
    let ended = bytes.strip_suffix(b"\r\n");
    let line = ended.or(bytes.strip_suffix(b"\r")).unwrap_or(bytes);
    let text = std::str::from_utf8(line).ok().filter(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    let text = text.ok_or(Malformed("its line is no plain text, or does not end as it should"))?;
    if bytes.len() > LONGEST_LINE || (ended.is_none() && bytes.len() == LONGEST_LINE) {
        return Err(Malformed("its line is too long"));
    }
    if ended.is_none() {
        return Ok(Parsed::More(1));
    }
    let fields: Vec<&str> = text.split(' ').collect();
    match *fields.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(Parsed::Whole(None)),
        ["PROXY", "TCP4", client, called, from, to] => addresses::<Ipv4Addr>(client, called, from, to),
        ["PROXY", "TCP6", client, called, from, to] => addresses::<Ipv6Addr>(client, called, from, to),
        _ => Err(Malformed("its fields are not those of TCP4, TCP6 or UNKNOWN")),
    }
}

fn addresses<A: FromStr + Into<IpAddr>>(client: &str, called: &str, from: &str, to: &str) -> std::result::Result<Parsed, Malformed> {
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| Malformed("an address is none of its family"));
    let (client, called) = (address(client)?, address(called)?);
    let (client, called) = (SocketAddr::new(client, port(from)?), SocketAddr::new(called, port(to)?));
    Ok(Parsed::Whole(Some(Addresses { client, called })))
}

/// Digits without a sign or leading zeros.
fn port(text: &str) -> std::result::Result<u16, Malformed> {
    let port = text.parse::<u16>().map_err(|_| Malformed("a port is none"))?;
    if port.to_string() == text { Ok(port) } else { Err(Malformed("a port is not in its one form")) }
}

fn version2(bytes: &[u8]) -> std::result::Result<Parsed, Malformed> {
    let Some(([.., command, family, high, low], rest)) = bytes.split_first_chunk::<16>() else {
        return Ok(Parsed::More(16 - bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST_REST {
        return Err(Malformed("it is too long"));
    }
    let speaks = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(Malformed("its version is not 2, or its command neither LOCAL nor PROXY")),
    };
    let needed = match family {
        _ if !speaks => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        // Unix sockets have no address that anybody could use here.
        0x31 => 216,
        _ => return Err(Malformed("its family and transport are not those of a connection")),
    };
    if length < needed {
        return Err(Malformed("it is too short for its addresses"));
    }
    match length.checked_sub(rest.len()) {
        Some(0) => {}
        Some(missing) => return Ok(Parsed::More(missing)),
        None => return Err(Malformed("more follows than it says")),
    }
    if !speaks {
        return Ok(Parsed::Whole(None));
    }
    Ok(Parsed::Whole(match family {
        0x11 => pair::<4>(rest),
        0x21 => pair::<16>(rest),
        _ => None,
    }))
}

/// Two addresses of `N` bytes each, then two ports.
fn pair<const N: usize>(bytes: &[u8]) -> Option<Addresses>
where
    IpAddr: From<[u8; N]>,
{
    let (client, bytes) = bytes.split_first_chunk::<N>()?;
    let (called, bytes) = bytes.split_first_chunk::<N>()?;
    let (from, bytes) = bytes.split_first_chunk::<2>()?;
    let (to, _) = bytes.split_first_chunk::<2>()?;
    let socket = |ip: &[u8; N], port: &[u8; 2]| SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port));
    Some(Addresses { client: socket(client, from), called: socket(called, to) })
}

/// Reads the header that a connection begins with, and nothing after it; `stream` should be buffered.
///
/// # Errors
/// In words, when none comes within [`PATIENCE`].
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::result::Result<Option<Addresses>, String> {
    let reading = async {
        let mut bytes = Vec::with_capacity(LONGEST_LINE);
        loop {
            match parse(&bytes).map_err(|malformed| malformed.to_string())? {
                Parsed::Whole(addresses) => return Ok(addresses),
                Parsed::More(missing) => {
                    let read = (&mut *stream).take(missing as u64).read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
                    if read < missing {
                        return Err("the connection ended within its PROXY header".to_owned());
                    }
                }
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(format!("no PROXY header came within {PATIENCE:?}")))
}

/// The header that tells a server whose connection it is; without addresses, that it is nobody's but ours.
pub fn header(version: ProxyHeader, addresses: Option<Addresses>) -> Vec<u8> {
    let addresses = addresses.map(|Addresses { client, called }| (canonical(client), canonical(called)));
    match (version, addresses) {
        (ProxyHeader::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyHeader::V1, Some((SocketAddr::V4(client), SocketAddr::V4(called)))) => line("TCP4", client.into(), called.into()),
        (ProxyHeader::V1, Some((client, called))) => line("TCP6", mapped(client), mapped(called)),
        (ProxyHeader::V2, None) => [SIGNATURE, &[0x20, 0, 0, 0][..]].concat(),
        (ProxyHeader::V2, Some((SocketAddr::V4(client), SocketAddr::V4(called)))) => {
            let [from, to] = [client.port(), called.port()].map(u16::to_be_bytes);
            [SIGNATURE, &[0x21, 0x11, 0, 12][..], &client.ip().octets(), &called.ip().octets(), &from, &to].concat()
        }
        (ProxyHeader::V2, Some((client, called))) => {
            let [from, to] = [client.port(), called.port()].map(u16::to_be_bytes);
            let [client, called] = [client, called].map(|socket| to_ipv6(socket.ip()).octets());
            [SIGNATURE, &[0x21, 0x21, 0, 36][..], &client, &called, &from, &to].concat()
        }
    }
}

fn line(family: &str, client: SocketAddr, called: SocketAddr) -> Vec<u8> {
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), called.ip(), client.port(), called.port()).into_bytes()
}

/// IPv4 in IPv6 clothes, as sockets of both families see it, is IPv4.
fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

fn to_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn mapped(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(to_ipv6(socket.ip()).into(), socket.port())
}

/// Connects to a server and begins with a header. Pingora (0.9.1) has no other place where something could be sent before TLS.
pub struct Announcing {
    /// The header.
    pub header: Vec<u8>,
    /// What the peer wants done with a new socket.
    pub tweak: Option<SocketHook>,
}

/// Pingora's hook for new sockets.
pub type SocketHook = Arc<dyn Fn(&TcpSocket) -> Result<()> + Send + Sync>;

impl fmt::Debug for Announcing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcing").field("header", &self.header.escape_ascii().to_string()).finish_non_exhaustive()
    }
}

#[async_trait]
impl L4Connect for Announcing {
    async fn connect(&self, server: &PingoraAddress) -> Result<Stream> {
        const FAILED: ErrorType = ErrorType::ConnectError;
        let unsent = || "cannot send the PROXY header";
        if let PingoraAddress::Inet(server) = server {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket = socket.or_err(ErrorType::SocketError, "cannot make a socket")?;
            if let Some(tweak) = &self.tweak {
                tweak(&socket)?;
            }
            let mut stream = socket.connect(*server).await.or_err_with(FAILED, || format!("cannot connect to {server}"))?;
            stream.write_all(&self.header).await.or_err_with(FAILED, unsent)?;
            return Ok(stream.into());
        }
        let path = server.as_unix().and_then(|unix| unix.as_pathname());
        let path = path.ok_or_else(|| pingora_core::Error::explain(FAILED, "a server with no address"))?;
        let mut stream = UnixStream::connect(path).await.or_err(FAILED, "cannot connect to the socket")?;
        stream.write_all(&self.header).await.or_err_with(FAILED, unsent)?;
        Ok(stream.into())
    }
}

#[cfg(test)]
mod tests;
