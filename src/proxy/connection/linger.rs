//! How connections end.
//!
//! A socket that is closed while bytes of its peer are unread, or still on their way, is reset, and the peer may lose the answer that it was given
//! (RFC 9112, section 9.6). Pingora (0.9.1) closes like that after an exchange that broke off. So our side of a connection ends when it is dropped,
//! wherever that happens; unless all that the client sent was taken, what still comes is read over for a while.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};

use super::{Connection, Socket, Transport};

/// How long a client that goes on sending is listened to.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// How much is taken from it, bytes.
const LINGER_OVER: usize = 1 << 20;
/// How many connections of the process linger at once: beyond that they are closed as they are.
static PLACES: Semaphore = Semaphore::const_new(1024);

impl Socket {
    /// Ends our side; gives the socket once more, for whoever outlives this one.
    fn end(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => {
                shutdown(socket, Shutdown::Write)?;
                Self::Tcp(TcpStream::from_std(socket.as_fd().try_clone_to_owned()?.into())?)
            }
            Self::Unix(socket) => {
                shutdown(socket, Shutdown::Write)?;
                Self::Unix(UnixStream::from_std(socket.as_fd().try_clone_to_owned()?.into())?)
            }
        })
    }

    /// Reads until the client ends its side, and not too much.
    async fn read_over(self) -> io::Result<()> {
        let mut over = 0;
        while over < LINGER_OVER {
            let read = match &self {
                Self::Tcp(socket) => {
                    socket.readable().await?;
                    skip(|bytes| socket.try_read(bytes))
                }
                Self::Unix(socket) => {
                    socket.readable().await?;
                    skip(|bytes| socket.try_read(bytes))
                }
            };
            match read {
                Ok(0) => break,
                Ok(more) => over += more,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }
}

/// Takes what is there; the buffer lives no longer than that.
fn skip(read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    read(&mut [0; 16 * 1024])
}

impl Connection {
    /// Ends our side in order after the last answer.
    pub(super) async fn leave(&mut self) {
        // A client that left before we closed is no event worth a line.
        let _ = timeout(LINGER, AsyncWriteExt::shutdown(self)).await;
    }

    /// Whether the client may have sent more than was taken.
    pub(super) fn may_have_sent_more(&self) -> bool {
        let took_all = self.framing.is_ended() && self.ahead.is_empty();
        !self.ended && !took_all
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.may_have_sent_more() {
            return;
        }
        let (Ok(runtime), Ok(place)) = (Handle::try_current(), PLACES.try_acquire()) else { return };
        let socket = match &self.transport {
            Transport::Plain(stream) => stream.get_ref(),
            Transport::Tls(stream) => stream.get_ref().get_ref(),
        };
        // A client that is gone needs nothing.
        let Ok(socket) = socket.end() else { return };
        runtime.spawn(async move {
            let _ = timeout(LINGER, socket.read_over()).await;
            drop(place);
        });
    }
}
